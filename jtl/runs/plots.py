"""The plots of a run. Nothing here imports JAX, so that a process beside can draw them."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from jtl.common import fonts
from jtl.common.files import replace_bytes
from jtl.common.text import shortened

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#7f7f7f"
"""Told apart without red or green cones too (Okabe and Ito 2008), as are those that follow."""
COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#000000", "#56b4e9", "#e69f00")


def draw_curves(
    path: str | Path, *, history: list[dict[str, Any]], best_epoch: int, title: str
) -> None:
    """Loss, accuracy and, if it is another one, --metric by epoch; of L-BFGS by penalty. A PNG.

    Args:
        path: The file.
        history: A line for every epoch, as in `metrics.jsonl`.
        best_epoch: Is marked.
        title: Above the curves, in lines that fit; see `curves_title`.
    """
    if len(history) == 1 and len(history[0].get("path", ())) > 1:
        _draw_penalties(path, line=history[0], title=title)
        return
    # The object interface needs no display and leaves no global state behind.
    from matplotlib.figure import Figure

    epochs = [line["epoch"] for line in history]
    masks = [line.get("mask") for line in history]
    phases = [
        epoch - 0.5
        for epoch, (before, mask) in zip(epochs[1:], itertools.pairwise(masks), strict=True)
        if mask != before
    ]
    marker = "o" if len(history) == 1 else None
    shown = dict.fromkeys(["loss", "accuracy", *_measured(history[0])])
    figure = Figure(figsize=(4.5 * len(shown), 3.6), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, len(shown)), shown, strict=True):
        for key, split, colour in (("train", "train", GREY), ("val", "validation", BLUE)):
            if f"{key}_{quantity}" in history[0]:  # Other metrics are of validation only.
                values = [line[f"{key}_{quantity}"] for line in history]
                axes.plot(epochs, values, color=colour, marker=marker, label=split)
        best = f"best epoch: {best_epoch}"
        axes.axvline(best_epoch, color=ORANGE, linewidth=1, linestyle=":", label=best)
        for index, phase in enumerate(phases):
            told = "mask changes" if not index else None
            axes.axvline(phase, color=GREEN, linewidth=1, linestyle="--", label=told)
        several = quantity == "accuracy" and "map" in shown
        axes.set_ylabel("exact match" if several else metric_name(quantity))
        _scale(axes, quantity, len(history))
        axes.legend()
    save(figure, path, title)


def _draw_penalties(path: str | Path, *, line: dict[str, Any], title: str) -> None:
    """What decides, by the L2 penalties that L-BFGS tried; such a run has no epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    penalties = [fit["l2"] for fit in line["path"]]
    quantity = _measured(line["path"][0])[-1]
    told = f"validation {metric_name(quantity)}"
    values = [fit[f"val_{quantity}"] for fit in line["path"]]
    axes.plot(penalties, values, color=BLUE, marker=".", label=told)
    label = f"chosen: {line['l2']:.2g}"
    axes.axvline(line["l2"], color=ORANGE, linewidth=1, linestyle=":", label=label)
    _over_logarithm(axes, "L2 penalty of the linear head", told)
    save(figure, path, title)


def metric_name(metric: str) -> str:
    """A metric as plots and tables name it."""
    named = {"macro_f1": "macro-F1", "micro_f1": "micro-F1", "auroc": "AUROC", "map": "mAP"}
    return named.get(metric, metric.replace("_", " "))


def _measured(line: dict[str, Any]) -> list[str]:
    """What a line says of the validation images; last what decides, if not accuracy or loss."""
    return [key.removeprefix("val_") for key in line if key.startswith("val_")]


def _scale(axes: Any, quantity: str, epochs: int) -> None:
    """Axes of the loss or a metric over epochs, on which no tick lies where no value can."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, epochs + 0.5)
    if epochs == 1:
        axes.set_xticks([1])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = axes.get_ylim()
    # Curves along a bound need a little room to be seen whole.
    room = 0.02 * (high - low)
    axes.set_ylim(max(low, -room), high if quantity == "loss" else min(high, 1.0 + room))
    axes.grid(alpha=0.3)


def draw_lr_finder(
    path: str | Path,
    *,
    rates: list[float],
    losses: list[float],
    smoothed: list[float],
    suggested: float | None,
    title: str,
) -> None:
    """Loss by learning rate, as a finder saw them; a PNG.

    Args:
        path: The file.
        rates: The learning rates, ascending.
        losses: The training loss at each.
        smoothed: The same, smoothed.
        suggested: Is marked.
        title: Above the curve.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, losses, color="#c7c7c7", label="loss of each step")
    axes.plot(rates, smoothed, color=BLUE, label="smoothed")
    if suggested is not None:
        label = f"suggested: --lr {suggested:.2g}"
        axes.axvline(suggested, color=ORANGE, linewidth=1, linestyle=":", label=label)
    # Where the loss goes up, it soon goes out of sight.
    low, high = min(smoothed), max(smoothed[0], min(smoothed))
    below = min(0.2 * (high - low), low)  # No loss lies below zero.
    axes.set_ylim(low - below - 0.02, high + 0.5 * (high - low) + 0.02)
    _over_logarithm(axes, "learning rate", "training loss")
    save(figure, path, title)


def _over_logarithm(axes: Any, x: str, y: str) -> None:
    """Scales and names the axes of what was tried at powers of a hyper-parameter."""
    axes.set_xscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()


_TITLE_WIDTH = 105


def curves_title(
    *,
    model: str,
    mask: str,
    data: str,
    accuracy: str,
    split: str = "validation",
    measured: str = "accuracy",
) -> str:
    """What was trained on what, in lines that fit the figure; a long path loses its middle."""
    told = f"{model}, {shortened(mask, 40)}"
    reached = f"{split} {measured} {accuracy}"
    data = shortened(data, _TITLE_WIDTH)
    whole = f"{told}, {data}: {reached}"
    if len(whole) <= _TITLE_WIDTH:
        return whole
    return f"{told}: {reached}\n{data}"


def draw_comparison(
    path: str | Path, *, runs: list[tuple[str, list[dict[str, Any]]]], metric: str = "accuracy"
) -> None:
    """Validation loss and a metric of several runs over their epochs; a PNG.

    Runs that L-BFGS fitted have no epochs and are level lines. The lines have the runs' numbers.

    Args:
        path: The file.
        runs: (name, a line for every epoch, as in `metrics.jsonl`) of each.
        metric: What decides, or accuracy if that is the loss; the lines have it.
    """
    from matplotlib.figure import Figure

    rows = 0.22 * len(runs)
    figure = Figure(figsize=(10, 4 + rows), layout="constrained")
    plots = figure.subplots(1, 2)
    stepped = [len(history) for _, history in runs if history[0].get("l2") is None]
    for axes, quantity in zip(plots, ("loss", metric), strict=True):
        ends = []
        for index, (_, history) in enumerate(runs):
            style: dict[str, Any] = dict(
                color=COLOURS[index % len(COLOURS)],
                linestyle=("-", "--", ":", "-.")[index % 4],  # Colours alone are not for all.
            )
            values = [line[f"val_{quantity}"] for line in history]
            ends.append(values[-1])
            if history[0].get("l2") is not None:
                axes.axhline(values[0], **style)
            else:
                marker = "o" if len(history) == 1 else None
                axes.plot([line["epoch"] for line in history], values, marker=marker, **style)
        axes.set_ylabel(f"validation {metric_name(quantity)}")
        _scale(axes, quantity, max(stepped, default=1))
        if not stepped:
            axes.set_xticks([])
            axes.set_xlabel("fitted by L-BFGS, without epochs")
        _number(axes, ends)
    names = [
        f"{number}  {shortened(name, 80)}"
        + ("" if history[0].get("l2") is None else " (L-BFGS, no epochs)")
        for number, (name, history) in enumerate(runs, 1)
    ]
    legend = figure.legend(plots[0].lines, names, loc="outside lower center")
    for text in legend.get_texts():
        text.set_parse_math(False)
    save(figure, path, None)


def _number(axes: Any, ends: list[float]) -> None:
    """Writes the number of each line at its end, right of the frame, one above the other."""
    low, high = axes.get_ylim()
    order = sorted(range(len(ends)), key=lambda index: ends[index])
    gap, place = min(0.05, 1 / len(ends)), -1.0
    heights = {}
    for index in order:
        place = max((ends[index] - low) / (high - low), place + gap)
        heights[index] = place
    above = max(0.0, place - 1)  # What does not fit moves down.
    for index, height in heights.items():
        colour = COLOURS[index % len(COLOURS)]
        style = dict(color=colour, fontsize=9, va="center", transform=axes.transAxes)
        axes.text(1.015, height - above, str(index + 1), **style)


def save(figure: Any, path: str | Path, title: str | None) -> None:
    """Writes a PNG under a title that is shrunk where it is too wide."""
    if title is not None:
        heading = figure.suptitle(title, fontsize=10, parse_math=False)
        fonts.use_for_names(figure)
        with fonts.boxes_allowed():
            too_wide = heading.get_window_extent().width / (0.95 * figure.bbox.width)
        heading.set_fontsize(10 / max(too_wide, 1.0))
    replace_bytes(Path(path), fonts.png(figure))
