"""What most tests do without: it takes a training of the tiny net longer than its steps."""

from __future__ import annotations

import inspect
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jtl.common.files import replace_bytes
from jtl.runs import plot_worker, plots
from jtl.train import automatic


def spare(patch: pytest.MonkeyPatch) -> None:
    """Lets trainings leave blank plots, and no linear probe where they fine-tune."""
    patch.setattr(plot_worker, "_draw", _draw_nothing)
    patch.setattr(automatic, "fine_tunes", lambda setup: False)


def _draw_nothing(asked: dict[str, Any]) -> None:
    """Takes what `plot_worker` asks for, and writes a PNG of one pixel."""
    arguments = dict(asked)
    function = getattr(plots, arguments.pop("function"))
    inspect.signature(function).bind(**arguments)
    content = io.BytesIO()
    Image.new("L", (1, 1)).save(content, format="png")
    replace_bytes(Path(arguments["path"]), content.getvalue())
