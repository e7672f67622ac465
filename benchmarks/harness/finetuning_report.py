"""The table and plot of trainings by several libraries: accuracy after the same time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import LogLocator

from harness import tables
from harness.plots import plt
from jtl.runs.plots import BLUE, ORANGE

Row = Mapping[str, Any]
MARKS = "osD^vP*X<>"
OURS = ("head_only", "last_stage", "full")


def describe(rows: Sequence[Row]) -> list[str]:
    """Lines: for each data set a row per arm, and what jtl gains.

    Args:
        rows: Of `vs_finetuning.jsonl`, with the fields of their trials.
    """
    lines = [
        "# Fine-tuning with jtl, fastai and timm",
        "",
        "Medians over the seeds, with their range. Seconds are those of the whole process, with "
        "nothing cached, of those seeds that were trained with nothing else at work; where there "
        "is none (~), they are what the library was allowed. `time` says how many times as long as "
        "jtl's `full` that is; the number of epochs follows from it. Accuracy and expected "
        "calibration error are measured on the test images, or on the validation images if there "
        "is no test split; the error in brackets is without temperature scaling. `jtl search` has "
        "the time as its budget; of data without a test split it chooses by a fifth of the "
        "training images, and the validation images are those it is tested on.",
        "",
    ]
    for data in dict.fromkeys(row["data"] for row in rows):
        of_data = [row for row in rows if row["data"] == data and row["times"]]
        groups = _groups(of_data)
        full = _full_seconds(of_data)
        first = of_data[0]
        images = next((row["tested"] for row in of_data if row.get("tested")), "?")
        split = "validation" if first["test"] is None else "test"
        lines += [
            f"## {data}: {first['model']}, {first['size']} pixels, {images} {split} images",
            "",
            *tables.table(
                {
                    "": [_name(group[0]) for group in groups],
                    "time": [f"{group[0]['times']:g}x" for group in groups],
                    "epochs": [_epochs(group) for group in groups],
                    "seconds": [_seconds(group, full)[0] for group in groups],
                    "accuracy": [_accuracies(group) for group in groups],
                    "calibration error": [_calibration(group) for group in groups],
                    "seeds": [len(group) for group in groups],
                }
            ),
            "",
        ]
    return lines


TITLES = {
    "ants-bees": "ants and bees (244 training images)",
    "sign-digits-600": "sign digits (600 training images)",
    "cifar10-1000": "CIFAR-10 (1,000 training images)",
    "trash-600": "trash (600 training images)",
}
"""Data sets as the plot calls them; others by their names."""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Accuracy against seconds, a panel for each data set.

    Args:
        rows: As for `describe`.
        path: The image file.
    """
    names = list(dict.fromkeys(row["data"] for row in rows))
    across = min(len(names), 2)
    down = -(-len(names) // across)
    figure, panels = plt.subplots(
        down, across, figsize=(4.4 * across, 3.2 * down + 1.4), layout="constrained", squeeze=False
    )
    for unused in panels.flat[len(names) :]:
        unused.axis("off")
    arms = list(dict.fromkeys(_name(row) for row in rows))
    for data, axes in zip(names, panels.flat, strict=False):
        of_data = [row for row in rows if row["data"] == data and row["times"]]
        full = _full_seconds(of_data)
        for group in _groups(of_data):
            number = arms.index(_name(group[0]))
            values = [_score(row) for row in group]
            seconds = [_seconds(group, full)[1]] * len(group)
            ours = group[0]["arm"] in (*OURS, "search")
            style = {"marker": MARKS[number % len(MARKS)], "ls": ""}
            # Filled or not, so that who is who can be seen without colours, too.
            style |= {"color": BLUE} if ours else {"color": ORANGE, "fillstyle": "none"}
            if len(group) > 1:
                axes.plot(seconds, values, alpha=0.35, ms=4, **style)
            middle = seconds[0], statistics.median(values)
            axes.plot(*middle, ms=9, label=_name(group[0]), **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_title(TITLES.get(data, data), fontsize="medium")
        axes.margins(0.15)
        axes.set_xlabel("seconds, start to end (log scale)")
        axes.grid(alpha=0.3)
    for first in panels[:, 0]:
        first.set_ylabel("accuracy")
    handles = {}
    for axes in panels.flat:
        found, labels = axes.get_legend_handles_labels()
        handles.update(zip(labels, found, strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Those that differ in nothing but their seed."""
    found: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        found.setdefault((row["arm"], row["times"]), []).append(row)
    return list(found.values())


def _name(row: Row) -> str:
    if row["arm"] in OURS:
        return f"jtl, {row['arm']}"
    if row["arm"] == "search":
        return "jtl search"
    return row["arm"].replace("times the rate", "times the learning rate")


def _score(row: Row) -> float:
    return row["val"] if row["test"] is None else row["test"]


def _epochs(group: Sequence[Row]) -> str:
    if "trials" in group[0]:
        return f"{_median(group, 'trials'):g} trials"
    return f"{_median(group, 'epochs'):g}"


def _median(group: Sequence[Row], key: str) -> float:
    return statistics.median(row[key] for row in group)


def _full_seconds(rows: Sequence[Row]) -> float:
    """What jtl's `full` takes, which is what the others are allowed."""
    timed = (row for row in rows if row["arm"] == "full" and row["seconds"])
    return _median(list(timed), "seconds")


def _seconds(group: Sequence[Row], full: float) -> tuple[str, float]:
    """Of trainings that were timed; else what they were allowed, which a ~ tells."""
    timed = [row for row in group if row["seconds"] is not None]
    if timed:
        seconds = _median(timed, "seconds")
        return f"{seconds:.0f}", seconds
    allowed = full * group[0]["times"]
    return f"~{allowed:.0f}", allowed


def _calibration(group: Sequence[Row]) -> str:
    if "calibration_error" not in group[0]:
        return "-"
    before = _median(group, "uncalibrated_error")
    return f"{_median(group, 'calibration_error'):.3f} ({before:.3f})"


def _accuracies(group: Sequence[Row]) -> str:
    values = [_score(row) for row in group]
    told = f"{statistics.median(values):.3f}"
    return told if len(values) == 1 else f"{told} ({min(values):.3f}-{max(values):.3f})"
