"""Plots of the results, readable without the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from harness.steps import IN_BFLOAT16

COLORS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c564b",
    "#7f7f7f", "#bcbd22",
)  # fmt: skip
"""The first seven are told apart with any kind of colour vision (Okabe and Ito, 2008)."""
MARKERS = "osD^vP*X<>"
NAMES = {
    "resnet18": "ResNet18",
    "resnet50": "ResNet50",
    "densenet121": "DenseNet121",
    "efficientnet_lite0": "EfficientNet-Lite0",
}
ARMS = {
    "forward": "frozen\nforward",
    "head_only": "head_only\nstep",
    "last_stage": "last_stage\nstep",
    "full": "full\nstep",
    **{
        arm: arm.replace("_bfloat16", ",\nbfloat16").replace("_compiled", ",\ncompiled")
        for arm in IN_BFLOAT16
    },
    "head_only_1_cold": "head_only,\n1 epoch,\ncold",
    "head_only_10_cold": "head_only,\n10 epochs,\ncold",
    "head_only_10_warm": "head_only,\nother lr,\nwarm",
    "last_stage_10": "last_stage,\n10 epochs,\ncold",
    "second_start": "second start\nto 1st step,\nhead_only",
    "second_start_full": "second start\nto 1st step,\nfull",
}


def comparison(
    rows: Sequence[Mapping[str, Any]],
    peer: str,
    targets: Mapping[str, float],
    facts: Mapping[str, Any],
    path: Path,
) -> None:
    """Bars of the ratios by arm and backbone, one panel for steps and one for trainings."""
    titles = {"step": "One step", "training": "A whole training, process start to end"}
    kinds = [kind for kind in titles if any(row["kind"] == kind for row in rows)]
    widths = [len({row["arm"] for row in rows if row["kind"] == kind}) for kind in kinds]
    each = max(1.5, 0.35 * len({row["model"] for row in rows}))
    figure, panels = plt.subplots(
        1,
        len(kinds),
        figsize=(3 + each * sum(widths), 5),
        width_ratios=widths,
        layout="constrained",
        squeeze=False,
    )
    for axes, kind in zip(panels[0], kinds, strict=True):
        chosen = [row for row in rows if row["kind"] == kind]
        _bars(axes, chosen, targets)
        axes.set_title(titles[kind])
    panels[0][0].set_ylabel(f"how many times faster than {peer}\n(log scale; 1 = as fast)")
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.suptitle(
        f"jtl compared with {peer}: {used(rows, 'size')} px, batch {used(rows, 'batch')}, "
        f"{facts['cores']} CPU cores\n(bars: median over the pairs; lines: their range)",
        fontsize="medium",
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def used(rows: Sequence[Mapping[str, Any]], setting: str) -> str:
    """The values of a setting among the rows, in words."""
    values = dict.fromkeys(str(row["settings"][setting]) for row in rows)
    return " and ".join(values)


def _bars(axes: Any, rows: Sequence[Mapping[str, Any]], targets: Mapping[str, float]) -> None:
    models = list(dict.fromkeys(row["model"] for row in rows))
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    width = 0.8 / len(models)
    for offset, model in enumerate(models):
        mine = [row for row in rows if row["model"] == model]
        where = [arms.index(row["arm"]) - 0.4 + width * (offset + 0.5) for row in mine]
        ratios = [row["ratio"] for row in mine]
        spread = [
            [row["ratio"] - row["ratio_min"] for row in mine],
            [row["ratio_max"] - row["ratio"] for row in mine],
        ]
        # Bars start at 1: upwards jtl is faster, downwards slower.
        axes.bar(
            where,
            [ratio - 1 for ratio in ratios],
            0.94 * width,
            bottom=1,
            label=NAMES.get(model, model),
            color=COLORS[offset % len(COLORS)],
            yerr=spread,
            ecolor="0.45",
            error_kw={"linewidth": 1},
        )
        for x, ratio, high in zip(where, ratios, [row["ratio_max"] for row in mine], strict=True):
            axes.annotate(
                f"{ratio:.2g}" if ratio < 100 else f"{ratio:.0f}",
                (x, max(high, 1)),
                (0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
    marked = False
    for index, arm in enumerate(arms):
        if arm in targets:
            label = None if marked else "target"
            least = [targets[arm]] * 2
            axes.plot(
                [index - 0.45, index + 0.45], least, "--", color="crimson", lw=1.8, label=label
            )
            marked = True
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set_yscale("log")
    low = min(0.7, *(0.8 * row["ratio_min"] for row in rows))
    shown = max([1.5, *(1.5 * row["ratio_max"] for row in rows)])
    high = max([shown, *(1.3 * targets[arm] for arm in arms if arm in targets)])
    axes.set_ylim(low, high)
    ticks = [t for t in (0.25, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50, 100) if low <= t <= high]
    axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_xticks(range(len(arms)), [ARMS[arm] for arm in arms], fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def growth(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any], path: Path) -> None:
    """Four panels: time and memory, by images under `head_only` and by mask."""
    counts = sorted({row["images"] for row in rows})
    middle = counts[len(counts) // 2]
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), layout="constrained", sharex="col")
    shown = (("seconds", 1, "whole process, s"), ("peak_bytes", 1e-9, "peak memory, GB"))
    for (key, scale, label), (left, right) in zip(shown, panels, strict=True):
        _by_images(left, rows, key, scale)
        _by_mask(right, [row for row in rows if row["images"] == middle], key, scale)
        left.set_ylabel(label)
        for axes in (left, right):
            axes.set_ylim(0, 1.15 * axes.dataLim.ymax)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
    panels[0][0].set_title("mask head_only, by number of images")
    panels[0][1].set_title(f"{middle} images, by mask: from a late cut to none")
    panels[1][0].set_xlabel("images (training and validation)")
    panels[1][1].set_xlabel("mask, and the optimizer's state in MB")
    panels[0][0].legend(frameon=False, loc="lower right")
    used = rows[0]["settings"]
    figure.suptitle(
        f"{NAMES[rows[0]['model']]}, {used['epochs']} epochs, {used['size']} px, batch "
        f"{used['batch']}, {facts['cores']} CPU cores; caches empty at the start"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


CACHES = {
    "cached": ("frozen part computed once", "C0"),
    "uncached": ("all layers in every epoch", "C1"),
}


def _by_images(axes: Any, rows: Sequence[Mapping[str, Any]], key: str, scale: float) -> None:
    for cache, (label, color) in CACHES.items():
        mine = [r for r in rows if r["mask"] == "head_only" and r["cache"] == cache]
        mine.sort(key=lambda row: row["images"])
        xs, ys = [row["images"] for row in mine], [row[key] * scale for row in mine]
        axes.plot(xs, ys, "o-", color=color, label=label)
        above = cache == "uncached"
        for x, y in zip(xs, ys, strict=True):
            axes.annotate(
                f"{y:.3g}",
                (x, y),
                (0, 6 if above else -6),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                color=color,
            )
    counts = sorted({row["images"] for row in rows})
    axes.set_xticks(counts)
    axes.set_xlim(0, 1.1 * counts[-1])


def _by_mask(axes: Any, rows: Sequence[Mapping[str, Any]], key: str, scale: float) -> None:
    masks = list(dict.fromkeys(row["mask"] for row in rows))
    state = {row["mask"]: row["optimizer_bytes"] / 1e6 for row in rows}
    for offset, (cache, (label, color)) in zip((-0.2, 0.2), CACHES.items(), strict=True):
        mine = [row for row in rows if row["cache"] == cache]
        where = [masks.index(row["mask"]) + offset for row in mine]
        bars = axes.bar(where, [r[key] * scale for r in mine], 0.38, color=color, label=label)
        axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=2)
    labels = [f"{mask}\n{state[mask]:.2g} MB" for mask in masks]
    axes.set_xticks(range(len(masks)), labels, fontsize=8)


def input_pipeline(
    rows: Sequence[Mapping[str, Any]],
    peers: Mapping[str, str],
    targets: Mapping[str, float],
    facts: Mapping[str, Any],
    path: Path,
) -> None:
    """A panel for each arm: images per second of jtl and of what stands beside it, in pairs."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    figure, panels = plt.subplots(
        1, len(arms), figsize=(5 * len(arms), 4.2), layout="constrained", squeeze=False
    )
    for axes, arm in zip(panels[0], arms, strict=True):
        mine = [row for row in rows if row["arm"] == arm]
        for offset, side, label, color in (
            (-0.2, "ours", "jtl", "C0"),
            (0.2, "theirs", "the other", "0.6"),
        ):
            where = [index + offset for index in range(len(mine))]
            speeds = [row[side]["images_per_second"] for row in mine]
            bars = axes.bar(where, speeds, 0.38, color=color, label=label)
            axes.bar_label(bars, [f"{speed:,.0f}" for speed in speeds], fontsize=8, padding=2)
        axes.axhline(targets[arm], color="crimson", ls="--", lw=1.5, label="target of jtl")
        axes.set_xticks(range(len(mine)), [peers[row["peer"]] for row in mine])
        axes.set_ylim(0, 1.15 * max(axes.dataLim.ymax, targets[arm]))
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        used = mine[0]["settings"]
        axes.set_title(f"{arm}: {used['images']:,} images to {used['size']} px")
    panels[0][0].set_ylabel("images per second")
    panels[0][-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.suptitle(f"Images per second, {facts['cores']} CPU cores: jtl and others in pairs")
    figure.savefig(path, dpi=120)
    plt.close(figure)
