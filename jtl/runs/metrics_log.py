"""`metrics.jsonl`: a line of JSON for every epoch of a run, added as it ends, and read back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jtl.common import files
from jtl.runs.files import METRICS


def add(folder: Path, line: dict[str, Any]) -> None:
    """Appends an epoch's line."""
    files.append_text(folder / METRICS, _text(line))


def sync(folder: Path) -> None:
    """Waits until all lines are on the disk."""
    files.sync(folder / METRICS)


def replace(folder: Path, history: Iterable[dict[str, Any]]) -> None:
    """Writes `history` for what was there; it is either the old or the new at any time."""
    files.replace_text(folder / METRICS, "".join(map(_text, history)))


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    """The epochs' lines, each read when it is asked for.

    Raises:
        OSError: There is no such file, or it cannot be read.
        ValueError: A line is damaged; the last one may be half there while a run goes on.
    """
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def fitted_penalty(folder: Path) -> float | None:
    """The L2 penalty of a run that was fitted by L-BFGS, which has no epochs; None of others."""
    try:
        return next(lines(folder), {}).get("l2")
    except (OSError, ValueError, AttributeError):
        return None


def _text(line: dict[str, Any]) -> str:
    return json.dumps(line) + "\n"
