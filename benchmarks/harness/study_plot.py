"""A plot of what each arm of a study gains beside the first arm of its factor."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.lines import Line2D

from harness.plots import plt

Found = Mapping[str, Mapping[str, list[float]]]


def draw(compared: Mapping[str, Found], path: Path) -> None:
    """A panel for every factor: a row for every arm, a mark for every data set.

    Args:
        compared: {factor: {arm: {data set: [accuracy of every seed]}}}.
        path: The image file.
    """
    heights = [len(found) for found in compared.values()]
    figure, panels = plt.subplots(
        len(compared),
        1,
        figsize=(8, 1.2 + 0.45 * sum(heights) + 0.6 * len(heights)),
        height_ratios=heights,
        layout="constrained",
        sharex=True,
        squeeze=False,
    )
    names = list(
        dict.fromkeys(d for found in compared.values() for arm in found.values() for d in arm)
    )
    for (factor, found), axes in zip(compared.items(), panels[:, 0], strict=True):
        first = next(iter(found.values()))
        for row, accuracies in enumerate(found.values()):
            for number, data in enumerate(names):
                if not (data in accuracies and data in first):
                    continue
                if sum(data in arm for arm in found.values()) < 2:
                    continue  # Beside itself alone.
                base = statistics.fmean(first[data])
                gains = [100 * (value - base) for value in accuracies[data]]
                place = row + 0.12 * (number - (len(names) - 1) / 2)
                axes.plot(gains, [place] * len(gains), color=f"C{number}", lw=1, alpha=0.5)
                axes.plot(statistics.fmean(gains), place, "o", color=f"C{number}", ms=5)
        axes.set_yticks(range(len(found)), list(found))
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.axvline(0, color="0.6", lw=1, zorder=0)
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(factor, loc="left", fontsize="medium")
    handles = [Line2D([], [], color=f"C{i}", marker="o", ls="") for i in range(len(names))]
    panels[0][0].legend(handles, names, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    panels[-1][0].set_xlabel("test accuracy beside the first arm, points (lines: range over seeds)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
