"""What trainings that are run several times have in common: a folder, and how results differ."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from jtl.common.errors import UserError
from jtl.config.options import Config
from jtl.runs.files import CONFIG
from jtl.runs.lock import LOCK
from jtl.runs.resume import stored_config

NAMES = {"std": "standard deviation"}
"""What tables call a statistic, where it is not its key."""
MEASURED = {
    "val_accuracy": ("validation accuracy", ".3f"),
    "val_macro_f1": ("validation macro-F1", ".3f"),
    "val_loss": ("validation loss", ".3f"),
    "test_accuracy": ("test accuracy", ".3f"),
    "test_macro_f1": ("test macro-F1", ".3f"),
    "best_epoch": ("best epoch", ".3g"),
    "train_seconds": ("training time, seconds", ".1f"),
}
"""Figures of `summary.json` that are compared: how the table calls and writes them."""
MULTILABEL_MEASURED = {
    "val_map": ("validation mAP", ".3f"),
    "test_map": ("test mAP", ".3f"),
    "val_accuracy": ("validation exact match", ".3f"),
    "test_accuracy": ("test exact match", ".3f"),
}
"""Those that only images with several labels have, or that are called something else of them."""


def measured(content: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The figures that are compared: by their keys what tables call them, and their format.

    Args:
        content: Of `summary.json`, or of what compares several of them.
    """
    return (
        MULTILABEL_MEASURED
        | {key: named for key, named in MEASURED.items() if key not in MULTILABEL_MEASURED}
        if "val_map" in content
        else MEASURED
    )


def check(config: Config, folder: Path, kind: str) -> None:
    """Makes sure that the folder can hold the runs.

    Args:
        config: The options.
        folder: Of all runs; that of each begins with `kind`.
        kind: What distinguishes the runs, such as "seed"; the option is `--seeds`.

    Raises:
        UserError: It holds something else, or runs that are not to be gone on with.
    """
    if config.run.resume == "must" and not list(folder.glob(f"{kind}-*/{CONFIG}")):
        raise UserError(
            f"'{folder}' contains no {kind}s to resume; --resume auto would start them."
        )
    held = [path for path in folder.iterdir() if path.name != LOCK] if folder.is_dir() else []
    if config.run.resume == "never" and held:
        raise UserError(
            f"--run-dir '{folder}' is not empty. Choose another folder, or add "
            f"--resume to continue the {kind}s in it."
        )
    if (folder / CONFIG).is_file():
        raise UserError(f"'{folder}' contains a single run. Leave --{kind}s out to continue it.")


def found_batch_size(config: Config, first: Path) -> dict[str, Any]:
    """`batch_size` as the first run found it, once there is one: other sizes train otherwise."""
    if config.train.batch_size == "auto" and (first / CONFIG).is_file():
        return {"batch_size": stored_config(first).train.batch_size}
    return {}


def spreads(summaries: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> dict[str, Any]:
    """Of each figure of `measured`, its `values` and the statistics in `shown`.

    None where a run lacks the figure. The standard deviation is that of a sample.
    """
    return {key: spread([s.get(key) for s in summaries], shown) for key in measured(summaries[0])}


def spread(values: Sequence[float | None], shown: Sequence[str]) -> dict[str, Any] | None:
    """The values and the statistics in `shown`; None where a value is missing."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    found = {
        "mean": statistics.fmean(known),
        "median": statistics.median(known),
        "min": min(known),
        "max": max(known),
        "std": statistics.stdev(known) if len(known) > 1 else math.nan,
    }
    return {"values": known, **{name: found[name] for name in shown}}


def show(told: dict[str, Any], title: str, shown: Sequence[str], console: Console) -> None:
    """The table at the end."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in shown:
        table.add_column(NAMES.get(name, name), justify="right")
    for key, (label, form) in measured(told).items():
        if (figures := told.get(key)) is not None:
            table.add_row(label, *(f"{figures[name]:{form}}" for name in shown))
    console.print(table)
    console.print(f"Runs: {Path(told['runs'][0]).parent}", markup=False, soft_wrap=True)
