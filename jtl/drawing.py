"""The pictures of a run. Nothing here imports JAX, so that a process beside can draw them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


def draw_curves(
    path: str | Path, *, history: list[dict[str, Any]], best_epoch: int, title: str
) -> None:
    """Loss and accuracy by epoch, train and validation; a PNG.

    Args:
        path: The file.
        history: A line for every epoch, as in `metrics.jsonl`.
        best_epoch: Is marked.
        title: Above the curves, in lines that fit; see `curves_title`.
    """
    # The object interface needs no display and leaves no global state behind.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    epochs = [line["epoch"] for line in history]
    marker = "o" if len(history) == 1 else None
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, colour in (("train", "#7f7f7f"), ("val", "#1f77b4")):
            values = [line[f"{split}_{quantity}"] for line in history]
            axes.plot(epochs, values, color=colour, marker=marker, label=split)
        best = f"best: {best_epoch}"
        axes.axvline(best_epoch, color="#d62728", linewidth=1, linestyle=":", label=best)
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        if len(history) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
            axes.set_xticks(epochs)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    heading = figure.suptitle(title, fontsize=10, parse_math=False)
    with warnings.catch_warnings():
        # Of names in scripts that matplotlib's font does not have: boxes stand for them.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        too_wide = heading.get_window_extent().width / (0.95 * figure.bbox.width)
        heading.set_fontsize(10 / max(too_wide, 1.0))
        figure.savefig(path, dpi=120)


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
    axes.set_ylim(low - 0.2 * (high - low) - 0.02, high + 0.5 * (high - low) + 0.02)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.suptitle(title, fontsize=9, parse_math=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(path, dpi=120)


_TITLE_WIDTH = 105


def curves_title(*, model: str, mask: str, data: str, accuracy: float) -> str:
    """What was trained on what, in lines that fit the figure; a long path loses its middle."""
    told = f"{model}, {_shortened(mask, 40)}"
    reached = f"validation accuracy {accuracy:.4f}"
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
