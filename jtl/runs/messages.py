"""What a run tells its user: lines and the closing table."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jtl.common.text import counted

if TYPE_CHECKING:
    from jtl.distributed.sharding import DataSharding

LISTED_CLASSES = 20
"""Of more classes the closing table lists those that are recognized worst."""


def describe_devices(sharding: DataSharding) -> str:
    """What shares the work, where there is more than one device."""
    total, processes = jax.device_count(), jax.process_count()
    if total == 1:
        return ""
    if sharding.count < total:
        return (
            f"; {sharding.count} of {total} devices (give a --batch-size that is a multiple of "
            f"{total} to use all)"
        )
    return f"; {total} devices" + (f" of {processes} processes" if processes > 1 else "")


def epoch_note(line: dict[str, Any]) -> str:
    """An epoch's figures for the progress display."""
    return (
        f"loss {line['train_loss']:.3f}, val loss {line['val_loss']:.3f}, "
        f"val accuracy {line['val_accuracy']:.3f}, {line['images_per_second']:,.0f} images/s"
    )


def probe_note(summary: dict[str, Any]) -> str | None:
    """What a fine-tuning has bought beside the linear probe of the same features."""
    split = "val" if summary["probe_test_accuracy"] is None else "test"
    probe, reached = summary[f"probe_{split}_accuracy"], summary[f"{split}_accuracy"]
    if probe is None:
        return None
    mask, gained = summary["mask"], 100 * (reached - probe)
    told = f"{split} accuracy: {mask} {reached:.3f}, linear probe {probe:.3f}"
    if gained >= 0:
        return told
    return (
        f"{told}. {mask} is {-gained:.1f} points worse than --mask head_only, which takes seconds: "
        "use that, or try another --lr (3e-4, 3e-5), more --epochs, --augment light or more images."
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
    rows += [
        (f"linear probe, {split}", f"{probe:.4f}")
        for split in ("val", "test")
        # Runs of before have none.
        if (probe := summary.get(f"probe_{split}_accuracy")) is not None
    ]
    rows += [
        (f"{split} macro-F1", f"{summary[f'{split}_macro_f1']:.4f}")
        for split in ("val", "test")
        if summary[f"{split}_macro_f1"] is not None
    ]
    seconds = f"{summary['train_seconds']:.1f} s"
    if summary["cached_prefix"]:
        seconds += f", of which the frozen prefix {summary['feature_seconds']:.1f} s"
    rows += [("time", seconds), ("run", str(folder))]
    for row in rows:
        table.add_row(*map(Text, row))  # Paths are no markup.
    console.print(table)
    split = "val" if summary["test_classes"] is None else "test"
    console.print(class_table(summary[f"{split}_classes"], split, most=LISTED_CLASSES))
    # Outside the table, where no line break comes between what is to be copied.
    console.print(
        f"To use it: python -m jtl.predict {shlex.quote(str(folder))} IMAGES...",
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def class_table(scores: dict[str, dict[str, Any]], split: str, most: int | None = None) -> Table:
    """How well each class is recognized.

    Args:
        scores: As `jtl.runs.metrics.by_class` gives them.
        split: What the images are called.
        most: How many classes are listed: of more, those of the lowest F1; default all.
    """
    rows = [(name, row) for name, row in scores.items() if row["count"] or row["f1"] is not None]
    title = f"Classes of {split}"
    if most is not None and len(rows) > most:
        title += f": the {most} of lowest F1 among {len(rows):,}"
        rows = sorted(rows, key=lambda row: row[1]["f1"])[:most]
    table = Table(title=title, title_justify="left", min_width=60)
    table.add_column("class", overflow="fold")
    for column in ("images", "accuracy", "precision", "F1"):
        table.add_column(column, justify="right")
    for name, row in rows:
        shares = ["-" if row[k] is None else f"{row[k]:.4f}" for k in _SHARES]
        table.add_row(Text(name), f"{row['count']:,}", *shares)
    return table


_SHARES = ("accuracy", "precision", "f1")
