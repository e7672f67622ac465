"""The confusion matrix and the reliability diagram of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.cells import cell_len

from jtl.common.text import shortened_apart
from jtl.runs.plots import BLUE, GREY, ORANGE, save

MOST_CLASSES = 200
"""The most classes of a confusion matrix: with more, no name beside it could be read."""
_COUNTED, _FEW = 40, 6
"""Up to as many classes have their numbers of images in the cells, or in large letters too."""


def draw_confusion(
    path: str | Path, *, counts: list[list[int]] | np.ndarray, class_names: list[str], title: str
) -> None:
    """The confusion matrix: a row for each class, a column for each prediction; a PNG.

    Args:
        path: The file.
        counts: Images by class and by prediction, [K][K].
        class_names: Of rows and columns.
        title: Above it.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    classes = len(class_names)
    counted = classes <= _COUNTED
    # Inches of a cell, and points of what is written in it and beside it.
    cell, size = (0.33, 7.0) if counted else (0.115, 6.0)
    if classes <= _COUNTED // 2:
        size = 10.0 if classes <= _FEW else 8.0
    names = shortened_apart(class_names, 32)
    margin = 1.0 + 0.6 * size / 72 * max(map(cell_len, names))
    side = max(cell * classes, 2.4) + margin
    figure = Figure(figsize=(side + 0.8, side + 0.3), layout="constrained")
    axes = figure.subplots()
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    # The root makes rare confusions visible, which are what one looks for.
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    image = axes.imshow(shares, cmap="Blues", norm=norm, interpolation="nearest")
    bar = figure.colorbar(image, ax=axes, shrink=min(0.8, 6 / side), aspect=20)
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0 %", "5 %", "20 %", "50 %", "100 %"])
    bar.set_label("share of the class's images")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("actual class")
    places = range(classes)
    written: dict[str, Any] = dict(parse_math=False, fontsize=size)
    axes.set_xticks(places, names, rotation=90, **written)
    axes.set_yticks(places, names, **written)
    if counted:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.4 else "black"
                axes.text(
                    column, row, f"{count:,}", fontsize=size, color=colour, ha="center", va="center"
                )
    else:  # So that the eye finds the way from a cell to its names.
        axes.set_xticks(np.arange(-0.5, classes), minor=True)
        axes.set_yticks(np.arange(-0.5, classes), minor=True)
        axes.grid(which="minor", color="#dddddd", linewidth=0.3)
        axes.tick_params(which="minor", length=0)
    save(figure, path, title)


def draw_classes(path: str | Path, *, scores: dict[str, dict[str, Any]], title: str) -> None:
    """How well each class is recognized where images have several: AP and F1; a PNG.

    Of more than `MOST_CLASSES`, those of the lowest AP; the number of images is beside the name.

    Args:
        path: The file.
        scores: As `jtl.runs.multilabel.by_class` gives them.
        title: Above it.
    """
    from matplotlib.figure import Figure

    rows = [(name, row) for name, row in scores.items() if row["average_precision"] is not None]
    rows = sorted(rows, key=lambda item: -item[1]["average_precision"])[-MOST_CLASSES:]
    names = shortened_apart([name for name, _ in rows], 32)
    told = [f"{name} ({row['count']:,})" for name, (_, row) in zip(names, rows, strict=True)]
    size = 8.0 if len(rows) <= _COUNTED else 6.0
    figure = Figure(figsize=(6.4, 1.4 + (0.26 if size > 6 else 0.14) * len(rows)))
    figure.set_layout_engine("constrained")
    axes, places = figure.subplots(), np.arange(len(rows))
    axes.barh(
        places, [row["average_precision"] for _, row in rows], color=BLUE, label="average precision"
    )
    axes.plot(
        [row["f1"] or 0.0 for _, row in rows],
        places,
        linestyle="none",
        marker="o",
        markersize=size / 2,
        color=ORANGE,
        label="F1 at the class's threshold",
    )
    axes.set_yticks(places, told, fontsize=size, parse_math=False)
    axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)  # The best on top, without a gap.
    axes.set_xlim(0, 1.02)
    axes.set_ylabel("class (images)")
    axes.grid(axis="x", color=GREY, alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8)
    save(figure, path, title)


def draw_reliability(
    path: str | Path, *, bins: list[dict[str, Any]], error: float, title: str
) -> None:
    """Accuracy at each level of confidence, and how many images each bin holds; a PNG.

    Args:
        path: The file.
        bins: As `jtl.runs.calibration.calibration` gives them.
        error: The expected calibration error.
        title: Above it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.9), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    left = [b["from"] for b in bins]
    width = [b["to"] - b["from"] for b in bins]
    bars = dict(align="edge", edgecolor="white")
    above.bar(left, [b["accuracy"] for b in bins], width, color=BLUE, label="accuracy", **bars)
    above.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfect calibration")
    means = [b["confidence"] for b in bins]
    # Whole, also where they lie on the frame.
    dots = dict(color=ORANGE, clip_on=False, zorder=3, label="mean confidence in bin")
    above.plot(means, [b["accuracy"] for b in bins], "o", **dots)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    above.set_title(f"expected calibration error {error:.3f}", fontsize=9)
    counted = below.bar(left, [b["count"] for b in bins], width, color=GREY, **bars)
    # Of a few images, too low to be seen otherwise, a bin's accuracy says little.
    below.bar_label(counted, [f"{b['count']:,}" for b in bins], fontsize=7, padding=1)
    below.margins(y=0.2)
    below.yaxis.get_major_locator().set_params(integer=True)
    below.set(xlabel="confidence", ylabel="images")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    # Below both, where it covers no bar.
    legend = above.get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=3, fontsize=7.5)
    save(figure, path, title)
