"""The plots of a run. Nothing here imports JAX, so that a process beside can draw them."""

from __future__ import annotations

import io
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common.files import replace_bytes


def draw_curves(
    path: str | Path, *, history: list[dict[str, Any]], best_epoch: int, title: str
) -> None:
    """Loss and accuracy by epoch, train and validation; of L-BFGS accuracy by penalty. A PNG.

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
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour in (("train", "#7f7f7f"), ("val", "#1f77b4")):
            values = [line[f"{split}_{quantity}"] for line in history]
            axes.plot(epochs, values, color=colour, marker=marker, label=split)
        best = f"best epoch: {best_epoch}"
        axes.axvline(best_epoch, color="#d62728", linewidth=1, linestyle=":", label=best)
        for index, phase in enumerate(phases):
            told = "mask changes" if not index else None
            axes.axvline(phase, color="#2ca02c", linewidth=1, linestyle="--", label=told)
        axes.set_ylabel(quantity)
        _scale(axes, quantity, len(history))
        axes.legend()
    _save(figure, path, title)


def _draw_penalties(path: str | Path, *, line: dict[str, Any], title: str) -> None:
    """Validation accuracy by the L2 penalties that L-BFGS tried; such a run has no epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    penalties = [fit["l2"] for fit in line["path"]]
    accuracies = [fit["val_accuracy"] for fit in line["path"]]
    axes.plot(penalties, accuracies, color="#1f77b4", marker=".", label="validation accuracy")
    label = f"chosen: {line['l2']:.2g}"
    axes.axvline(line["l2"], color="#d62728", linewidth=1, linestyle=":", label=label)
    _over_logarithm(axes, "L2 penalty of the linear head", "validation accuracy")
    _save(figure, path, title)


def _scale(axes: Any, quantity: str, epochs: int) -> None:
    """Axes of "loss" or "accuracy" over epochs, on which no tick lies where no value can."""
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
    axes.set_ylim(max(low, -room), min(high, 1.0 + room) if quantity == "accuracy" else high)
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
    axes.plot(rates, smoothed, color="#1f77b4", label="smoothed")
    if suggested is not None:
        label = f"suggested: {suggested:.2g}"
        axes.axvline(suggested, color="#d62728", linewidth=1, linestyle=":", label=label)
    # Where the loss goes up, it soon goes out of sight.
    low, high = min(smoothed), max(smoothed[0], min(smoothed))
    below = min(0.2 * (high - low), low)  # No loss lies below zero.
    axes.set_ylim(low - below - 0.02, high + 0.5 * (high - low) + 0.02)
    _over_logarithm(axes, "learning rate", "training loss")
    _save(figure, path, title)


def _over_logarithm(axes: Any, x: str, y: str) -> None:
    """Scales and names the axes of what was tried at powers of a hyper-parameter."""
    axes.set_xscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()


_TITLE_WIDTH = 105


def curves_title(
    *, model: str, mask: str, data: str, accuracy: float, split: str = "validation"
) -> str:
    """What was trained on what, in lines that fit the figure; a long path loses its middle."""
    told = f"{model}, {_shortened(mask, 40)}"
    reached = f"{split} accuracy {accuracy:.4f}"
    data = _shortened(data)
    whole = f"{told}, {data}: {reached}"
    if len(whole) <= _TITLE_WIDTH:
        return whole
    return f"{told}: {reached}\n{data}"


def _shortened(text: str, width: int = _TITLE_WIDTH) -> str:
    """`text` in one line of printable characters, without its middle if too long."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    if len(text) <= width:
        return text
    return f"{text[: width // 3]} ... {text[-(width - width // 3 - 5) :]}"


_NAMED_CLASSES = 40
"""Up to as many are named at a confusion matrix, and half of them have numbers in the cells."""


MOST_CLASSES = 500
"""The most classes of a confusion matrix; with more, each is less than two pixels wide."""


def draw_confusion(
    path: str | Path, *, counts: list[list[int]] | np.ndarray, class_names: list[str], title: str
) -> None:
    """The confusion matrix: a row for each class, a column for what was said; a PNG.

    Args:
        path: The file.
        counts: Images by class and by prediction, [K][K].
        class_names: Of rows and columns.
        title: Above it.
    """
    from matplotlib.figure import Figure

    known = len(class_names) <= _NAMED_CLASSES
    side = min(max(4.2, 2.0 + 0.33 * len(class_names)), 13.0)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    counts = np.asarray(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axes, label="fraction of the class's images", shrink=0.8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("actual class")
    if known:
        names = [_shortened(name, 22) for name in class_names]
        places = range(len(names))
        axes.set_xticks(places, names, rotation=90, parse_math=False)
        axes.set_yticks(places, names, parse_math=False)
    if len(class_names) <= _NAMED_CLASSES // 2:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.6 else "#333333"
            shown = f"{count:,}" if count else ""
            axes.text(column, row, shown, ha="center", va="center", fontsize=8, color=colour)
    _save(figure, path, title)


def draw_reliability(
    path: str | Path, *, bins: list[dict[str, Any]], error: float, title: str
) -> None:
    """Accuracy over what was said of it, by bin, and how many images each holds; a PNG.

    Args:
        path: The file.
        bins: As `jtl.runs.calibration.calibration` gives them.
        error: The expected calibration error.
        title: Above it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 5.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    left = [b["from"] for b in bins]
    width = [b["to"] - b["from"] for b in bins]
    bars = dict(align="edge", edgecolor="white")
    above.bar(left, [b["accuracy"] for b in bins], width, color="#1f77b4", label="accuracy", **bars)
    above.plot([0, 1], [0, 1], color="#7f7f7f", linestyle="--", label="perfect calibration")
    means = [b["confidence"] for b in bins]
    # Whole, also where they lie on the frame.
    dots = dict(color="#d62728", clip_on=False, zorder=3, label="mean confidence in bin")
    above.plot(means, [b["accuracy"] for b in bins], "o", **dots)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    above.legend(loc="upper left")
    above.set_title(f"expected calibration error {error:.4f}", fontsize=9)
    counted = below.bar(left, [b["count"] for b in bins], width, color="#7f7f7f", **bars)
    # Of a few images, too low to be seen otherwise, a bin's accuracy says little.
    below.bar_label(counted, [f"{b['count']:,}" for b in bins], fontsize=7, padding=1)
    below.margins(y=0.2)
    below.set(xlabel="confidence", ylabel="images")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    _save(figure, path, title)


def draw_explanation(path: str | Path, *, image: Any, heat: Any, title: str) -> None:
    """An image, and the same under a map of what mattered; a PNG.

    Args:
        path: The file.
        image: RGB from 0 to 1, [H, W, 3].
        heat: From 0 to 1, [h, w].
        title: Above both.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    height, width = image.shape[:2]
    told = ("as the network sees it", "red = regions that most supported this prediction")
    for axes, what in zip(plots := figure.subplots(1, 2), told, strict=True):
        axes.imshow(image, interpolation="nearest")
        axes.axis("off")
        axes.set_title(what, fontsize=9)
    # Bilinear, so that squares of the map do not pass for parts of the image.
    area = (-0.5, width - 0.5, height - 0.5, -0.5)
    plots[1].imshow(
        heat, cmap="turbo", vmin=0, vmax=1, alpha=0.5, extent=area, interpolation="bilinear"
    )
    _save(figure, path, title)


COLOURS = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
    "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
)  # fmt: skip


def draw_comparison(path: str | Path, *, runs: list[tuple[str, list[dict[str, Any]]]]) -> None:
    """Validation loss and accuracy of several runs over their epochs; a PNG.

    Args:
        path: The file.
        runs: (name, a line for every epoch, as in `metrics.jsonl`) of each.
    """
    from matplotlib.figure import Figure

    rows = 0.22 * len(runs)
    figure = Figure(figsize=(10, 4 + rows), layout="constrained")
    plots = figure.subplots(1, 2)
    for axes, quantity in zip(plots, ("loss", "accuracy"), strict=True):
        for index, (_, history) in enumerate(runs):
            style = dict(
                color=COLOURS[index % len(COLOURS)],
                linestyle=("-", "--", ":")[index // len(COLOURS) % 3],
                marker="o" if len(history) == 1 else None,
            )
            epochs = [line["epoch"] for line in history]
            axes.plot(epochs, [line[f"val_{quantity}"] for line in history], **style)
        axes.set_ylabel(f"validation {quantity}")
        _scale(axes, quantity, max(len(history) for _, history in runs))
    legend = figure.legend(
        plots[0].lines, [_shortened(name, 90) for name, _ in runs], loc="outside lower center"
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    _save(figure, path, None)


def _save(figure: Any, path: str | Path, title: str | None) -> None:
    """Writes a PNG under a title that is shrunk where it is too wide."""
    with warnings.catch_warnings():
        # Of names in scripts that matplotlib's font does not have: boxes stand for them.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        if title is not None:
            heading = figure.suptitle(title, fontsize=10, parse_math=False)
            too_wide = heading.get_window_extent().width / (0.95 * figure.bbox.width)
            heading.set_fontsize(10 / max(too_wide, 1.0))
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=120)
    replace_bytes(Path(path), content.getvalue())
