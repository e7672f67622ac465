"""The tables of a comparison, to fit 80 columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from jtl.common.text import shortened
from jtl.config import walk
from jtl.config.options import Config
from jtl.config.training import WITHOUT_STEPS
from jtl.runs.plots import metric_name

if TYPE_CHECKING:
    from jtl.compare.command import Compared


def results_table(runs: list[Compared]) -> Table:
    """A numbered row for each run."""
    by = runs[0].metric if len({run.metric for run in runs}) == 1 else "accuracy"
    title = "Runs" if by == "accuracy" else f"Runs, best first by {metric_name(by)}"
    view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    own = ("balanced_accuracy", "auroc", "map", "micro_f1")  # Others have their columns.
    extra = [by] if by in own else []
    tested = any(run.test_accuracy is not None for run in runs)
    view.add_column("#", justify="right", no_wrap=True)
    view.add_column("run", overflow="fold")
    columns = ["mAP" if by == "map" else by.replace("_", "\n") for by in extra]
    several = all(run.options.get("task") == "multilabel" for run in runs)
    columns += [
        "exact\nmatch" if several else "accuracy",
        "loss",
        "macro-F1",
        *(["test"] if tested else []),
    ]
    for column in (*columns, "chosen", "seconds"):
        view.add_column(column, justify="right", no_wrap=True)
    # What all paths begin with tells nothing.
    shared = os.path.commonpath([os.path.abspath(Path(run.run).parent) for run in runs])
    for number, run in enumerate(runs, 1):
        shown = os.path.relpath(run.run, shared) if len(runs) > 1 else run.run
        shown += "" if run.finished else " (not finished)"
        cells = [_share(run.val_metric)] if extra else []
        cells += [f"{run.val_accuracy:.3f}", f"{run.val_loss:.3f}", _share(run.val_macro_f1)]
        cells += [_share(run.test_accuracy)] if tested else []
        fitted = run.l2 is not None
        cells += [f"L2 {run.l2:.2g}" if fitted else f"{run.best_epoch} of {run.epochs}"]
        view.add_row(*map(Text, [str(number), shown, *cells, f"{run.seconds:.1f}"]))  # No markup.
    return view


def options_tables(runs: list[Compared], options: list[str]) -> Iterator[Table]:
    """A row for each of these options, a column for each run by its number; a few runs in each."""
    for first in range(0, len(runs), _BESIDE):
        shown = runs[first : first + _BESIDE]
        title = "What differs" if not first else None
        view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        view.add_column("option", no_wrap=True)
        for number in range(first + 1, first + len(shown) + 1):
            view.add_column(str(number), overflow="fold")
        for name in options:
            flag = "--" + name.replace("_", "-")
            view.add_row(*map(Text, [flag, *(_value(run, name) for run in shown)]))
        yield view


_BESIDE = 5
"""Runs whose options fit 80 columns beside each other."""


def _value(run: Compared, name: str) -> str:
    """An option of a run; a dash for one that the run had no use for."""
    value = run.options.get(name)
    option = walk.options(Config).get(name)
    steps = option is not None and option.area in ("train", "steps") and name not in WITHOUT_STEPS
    if run.l2 is not None and steps:
        return "-"
    return "default" if value is None else shortened(str(value), 40)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
