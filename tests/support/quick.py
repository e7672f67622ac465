"""What most tests do without: it takes a training of the tiny net longer than its steps."""

from __future__ import annotations

import inspect
import io
import threading
from pathlib import Path
from typing import Any

import pytest
from jax._src import lru_cache
from jax._src.interpreters import mlir
from PIL import Image

from jtl.common.files import replace_bytes
from jtl.evaluate import completion
from jtl.runs import plot_worker
from jtl.search import winner
from jtl.train import after_results, automatic

LATER: list[tuple[Any, str]] = [
    (after_results, "at_hand"),
    (after_results, "make"),
    (completion, "write_page"),
    (winner, "write_report"),
]
"""What commands do after their results; see the fixture `real_report`."""


def spare(patch: pytest.MonkeyPatch) -> None:
    """Lets trainings leave blank curves alone, and no linear probe where they fine-tune.

    Nor do they, evaluations and searches leave `report.html`.
    """
    patch.setattr(plot_worker, "_draw", _draw_nothing)
    for module, name in LATER:
        patch.setattr(module, name, lambda *given, **options: None)
    patch.setattr(automatic, "fine_tunes", lambda setup: False)


MOST_PROGRAMS = 200
"""Programs lowered in one context, which keeps their constants for as long as it lives."""


def lower_and_keep(patch: pytest.MonkeyPatch) -> None:
    """Spares what JAX does around compiling a program; later versions may do it elsewhere."""
    _share_contexts(patch)
    # The cache's limit is there for its lock: to see whether it is reached, the time and size of
    # each entry are read for every one that is written, 40 ms for a thousand.
    if hasattr(lru_cache.LRUCache, "_evict_if_needed"):
        patch.setattr(lru_cache.LRUCache, "_evict_if_needed", lambda cache, **size: None)


def _share_contexts(patch: pytest.MonkeyPatch) -> None:
    """Lets programs be lowered in one MLIR context, one after the other.

    JAX makes one for each, which takes four times as long as to lower a small program.
    """
    if (make := getattr(mlir, "make_ir_context", None)) is None:
        return
    own = threading.local()

    def shared() -> Any:
        if getattr(own, "left", 0) == 0:
            own.context, own.left = make(), MOST_PROGRAMS
        own.left -= 1
        return own.context

    patch.setattr(mlir, "make_ir_context", shared)


def _draw_nothing(asked: dict[str, Any]) -> None:
    """Takes what `plot_worker` asks for, and writes a PNG of one pixel."""
    arguments = dict(asked)
    function = plot_worker.function_named(arguments.pop("function"))
    inspect.signature(function).bind(**arguments)
    content = io.BytesIO()
    Image.new("L", (1, 1)).save(content, format="png")
    replace_bytes(Path(arguments["path"]), content.getvalue())
