"""A plot of how much each setting of a study changes the accuracy."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib.lines import Line2D

from harness.plots import COLORS, MARKERS, plt

Found = Mapping[str, Mapping[str, list[float]]]
_PANELS_PER_ROW = 2


def draw(compared: Mapping[str, Found], path: Path) -> None:
    """A panel for every factor: a row for every setting but the first, a mark for every data set.

    Args:
        compared: {factor: {setting: {data set: [accuracy of every seed]}}}. A factor's first
            setting is what the others are compared with.
        path: The image file.
    """
    wide = min(_PANELS_PER_ROW, len(compared))
    # The largest panels first, so that those next to each other are about as high.
    factors = sorted(compared, key=lambda factor: -len(compared[factor]))
    heights = [len(compared[factor]) - 1 for factor in factors[::wide]]
    figure, panels = plt.subplots(
        len(heights),
        wide,
        figsize=(5.6 * wide, 1.2 + 0.32 * sum(heights) + 0.7 * len(heights)),
        height_ratios=heights,
        layout="constrained",
        sharex=True,
        squeeze=False,
    )
    arms = [arm for found in compared.values() for arm in found.values()]
    names = list(dict.fromkeys(data for arm in arms for data in arm))
    for axes in panels.flat[len(factors) :]:
        axes.set_axis_off()
    for factor, axes in zip(factors, panels.flat, strict=False):
        (first, base), *others = compared[factor].items()
        for row, (_, accuracies) in enumerate(others):
            for number, data in enumerate(names):
                if not (data in accuracies and data in base):
                    continue
                reference = statistics.fmean(base[data])
                gains = [100 * (value - reference) for value in accuracies[data]]
                place = row + 0.12 * (number - (len(names) - 1) / 2)
                axes.plot(gains, [place] * len(gains), color=COLORS[number], lw=1, alpha=0.5)
                axes.plot(
                    statistics.fmean(gains), place, MARKERS[number], color=COLORS[number], ms=5
                )
        axes.set_yticks(range(len(others)), [setting for setting, _ in others])
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.axvline(0, color="0.6", lw=1, zorder=0)
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(axis="x", labelbottom=True)
        axes.set_title(f"{factor}\ncompared with: {first}", loc="left", fontsize="medium")
    handles = [Line2D([], [], color=COLORS[i], marker=MARKERS[i], ls="") for i in range(len(names))]
    figure.legend(
        handles, names, loc="outside upper center", ncols=min(len(names), 6), frameon=False
    )
    figure.supxlabel(
        "change in accuracy, percentage points (lines: range over seeds)", fontsize="medium"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
