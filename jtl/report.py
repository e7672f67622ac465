"""What a run tells its user: lines and the closing table."""

from __future__ import annotations

import shlex
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
