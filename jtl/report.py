"""What a run tells its user: lines, the closing table, the curves."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from jtl.task import Task


def opening_line(task: Task) -> str:
    """What is about to be trained on what."""
    dataset, augmented = task.dataset, task.config.augment.options().told()
    return (
        f"{task.config.model.model} ({task.source['name']}) on {dataset.spec}: "
        f"{len(dataset.train)} train, {len(dataset.val)} val images, "
        f"{len(dataset.class_names)} classes, {task.inputs.device.size} px, "
        + ", then ".join(
            f"mask {plan.phase.mask}, cut at {plan.split.cut}, "
            f"{counted(plan.phase.epochs, 'epoch')}"
            for plan in task.plans
        )
        + ("" if task.inputs.augmentation is None else f"; augmentation: {augmented}")
    )


def counted(count: int, what: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def epoch_note(line: dict[str, Any]) -> str:
    """An epoch's figures for the progress display."""
    return (
        f"loss {line['train_loss']:.3f}, val loss {line['val_loss']:.3f}, "
        f"val accuracy {line['val_accuracy']:.3f}, {line['images_per_second']:,.0f} images/s"
    )


def print_summary(summary: dict[str, Any], folder: Path, console: Console) -> None:
    """The closing table: what was trained, how well, and where it is."""
    table = Table(show_header=False, title="Trained", title_justify="left", min_width=60)
    weights = summary["weights"]["name"]
    share = summary["trainable_params"] / summary["total_params"]
    frozen = f"{summary['frozen_leaves']}, bit-identical to what was loaded"
    if not summary["frozen_unchanged"]:
        frozen = "CHANGED: this is a defect in jtl, please report it"
    elif not summary["frozen_leaves"]:
        frozen = "none"
    rows = [
        ("model", f"{summary['model']}, weights {weights}"),
        ("data", f"{summary['data']}, {summary['num_classes']} classes"),
        (
            "trained",
            f"{summary['mask']}: {summary['trainable_params']:,} of "
            f"{summary['total_params']:,} params ({share:.2%}), "
            f"{counted(summary['epochs'], 'epoch')}",
        ),
        ("frozen leaves", frozen),
        ("val accuracy", f"{summary['val_accuracy']:.4f} at epoch {summary['best_epoch']}"),
    ]
    if summary["test_accuracy"] is not None:
        rows.append(("test accuracy", f"{summary['test_accuracy']:.4f}"))
    seconds = f"{summary['train_seconds']:.1f} s"
    if summary["cached_prefix"]:
        seconds += f", of which the frozen prefix {summary['feature_seconds']:.1f} s"
    rows += [("time", seconds), ("run", str(folder))]
    for row in rows:
        table.add_row(*map(Text, row))  # Paths are no markup.
    console.print(table)
    # Outside the table, where no line break comes between what is to be copied.
    console.print(
        f"To use it: python -m jtl.predict {shlex.quote(str(folder))} IMAGE...",
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def draw_curves(history: list[dict[str, Any]], summary: dict[str, Any], path: Path) -> None:
    """Loss and accuracy by epoch, train and validation, the best epoch marked; a PNG."""
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
        best = summary["best_epoch"]
        axes.axvline(best, color="#d62728", linewidth=1, linestyle=":", label=f"best: {best}")
        axes.set_xlabel("epoch")
        axes.set_ylabel(quantity)
        if len(history) == 1:
            axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
            axes.set_xticks(epochs)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    title = figure.suptitle(curves_title(summary), fontsize=10, parse_math=False)
    with warnings.catch_warnings():
        # Of names in scripts that matplotlib's font does not have: boxes stand for them.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        too_wide = title.get_window_extent().width / (0.95 * figure.bbox.width)
        title.set_fontsize(10 / max(too_wide, 1.0))
        figure.savefig(path, dpi=120)


_TITLE_WIDTH = 105


def curves_title(summary: dict[str, Any]) -> str:
    """What was trained on what, in lines that fit the figure; a long path loses its middle."""
    told = f"{summary['model']}, {_shortened(summary['mask'], 40)}"
    accuracy = f"validation accuracy {summary['val_accuracy']:.4f}"
    data = _shortened(summary["data"])
    whole = f"{told}, {data}: {accuracy}"
    if len(whole) <= _TITLE_WIDTH:
        return whole
    return f"{told}: {accuracy}\n{data}"


def _shortened(text: str, width: int = _TITLE_WIDTH) -> str:
    """`text` in one line of printable characters, without its middle if too long."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    if len(text) <= width:
        return text
    return f"{text[: width // 3]} ... {text[-(width - width // 3 - 5) :]}"
