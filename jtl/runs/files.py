"""The files of a run's folder, and how they are read and written."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError, suggest
from jtl.common.files import replace_text

CONFIG, METRICS, SUMMARY, CURVES = "config.json", "metrics.jsonl", "summary.json", "curves.png"
HTML_REPORT = "report.html"
TABLE = "mistakes.csv"
"""All mistakes among the validation images."""
SEARCH = "search.json"
"""In a folder of `jtl search`, which has a run for each trial below it."""
ENSEMBLE = "ensemble.json"
"""Beside it, if several of the trials predict better together."""


def run_of(folder: Path) -> Path:
    """The folder of a run: of a search that is finished, the winner's; else the same.

    Raises:
        UserError: The search is not finished, or its result cannot be read.
    """
    if not (folder / SEARCH).is_file() or (folder / CONFIG).exists():
        return folder
    winner = read_json(folder / SEARCH).get("winner")
    if not isinstance(winner, str):
        raise UserError(
            f"the search in '{folder}' has no winner yet. Wait until it has ended, continue it "
            "with jtl search --resume, or name one of its runs in trials/."
        )
    return folder / winner


def missing_run(folder: Path) -> str | None:
    """What to say of a run's folder that is not there, with the nearest run; None if it is."""
    if folder.exists():
        return None
    runs = []
    with contextlib.suppress(OSError):
        runs = [str(path) for path in folder.parent.iterdir() if (path / CONFIG).is_file()]
    way_out = " Give a folder that `jtl train` wrote, such as runs/mine."
    guess = suggest(str(folder), runs, 0.7) or way_out
    return f"'{folder}' is not a run: there is no such folder.{guess}"


def _fitted(folder: Path, epoch: int, key: str) -> Any:
    """What the summary says that was fitted for an epoch; None where it does not."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        # Of a run that goes on, the summary may be of an earlier best epoch.
        return summary.get(key) if summary.get("best_epoch") == epoch else None
    except (OSError, ValueError, AttributeError):
        return None


def fitted_thresholds(folder: Path, epoch: int, classes: int) -> tuple[float, ...]:
    """From which probability on an image is of each class; 0.5 where nothing was fitted."""
    found = _fitted(folder, epoch, "thresholds")
    whole = isinstance(found, list) and len(found) == classes
    if whole and all(isinstance(each, (int, float)) for each in found):
        return tuple(map(float, found))
    return (0.5,) * classes


def class_titles(folder: Path) -> dict[str, str]:
    """What the classes of a run are called that have numbers for names; empty of other runs."""
    try:
        summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        return {str(name): str(title) for name, title in summary["class_titles"].items()}
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def fitted_temperature(folder: Path, epoch: int) -> float:
    """What a run divides the logits of an epoch by; 1 where nothing was fitted."""
    fitted = _fitted(folder, epoch, "temperature")
    return float(fitted) if isinstance(fitted, (int, float)) and fitted > 0 else 1.0


def read_json(path: Path) -> dict[str, Any]:
    """An object from a file of the run; UserError if that cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' cannot be read: it does not contain a JSON object.")
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a file that is either the old one or the new one, never a part."""
    replace_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
