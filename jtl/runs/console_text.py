"""What a run tells its user: lines and the closing table."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jtl.common.invocation import command
from jtl.common.quantities import format_seconds
from jtl.common.text import counted
from jtl.data.class_names import with_title
from jtl.runs import metrics
from jtl.runs.files import CURVES, HTML_REPORT
from jtl.runs.metrics_log import fitted_penalty

if TYPE_CHECKING:
    from jtl.distributed.sharding import DataSharding

SPLITS = {"val": "validation", "test": "test"}
"""How the splits that are scored are called in a text."""
LISTED_CLASSES = 20
"""Of more classes the closing table lists those that are recognized worst."""


def describe_devices(sharding: DataSharding) -> str:
    """What shares the work, where there is more than one device."""
    total, processes = jax.device_count(), jax.process_count()
    if total == 1:
        return ""
    if sharding.count < total:
        return (
            f"; {sharding.count} of {total} devices (use a --batch-size that is a multiple of "
            f"{total} to use them all)"
        )
    return f"; {total} devices" + (f" of {processes} processes" if processes > 1 else "")


def epoch_header(measured: str = "accuracy") -> str:
    """Above the rows of `epoch_row`."""
    return (
        f"{'':>9}{'train':>9}{'validation':>13}{'validation':>13}\n"
        f"{'epoch':>9}{'loss':>9}{'loss':>13}{measured:>13}{'images/s':>11}"
    )


def measured(several: bool) -> tuple[str, str]:
    """What an epoch is judged by at a glance: its name, and its key in `metrics.jsonl`."""
    return ("mAP", "val_map") if several else ("accuracy", "val_accuracy")


def epoch_row(line: dict[str, Any], epochs: int, *, best: bool) -> str:
    """An epoch as a row of a table, marked if it is the best one so far."""
    return (
        f"{line['epoch']:>4}/{epochs:<4}{line['train_loss']:>9.3f}{line['val_loss']:>13.3f}"
        f"{line.get('val_map', line['val_accuracy']):>13.3f}{line['images_per_second']:>11,.0f}"
        + ("  best so far" if best else "")
    )


def epoch_note(line: dict[str, Any]) -> str:
    """An epoch's figures for the progress display."""
    name, key = measured("val_map" in line)
    return (
        f"train loss {line['train_loss']:.3f}, validation loss {line['val_loss']:.3f}, "
        f"{name} {line[key]:.3f}, {line['images_per_second']:,.0f} images/s"
    )


def probe_note(summary: dict[str, Any]) -> str | None:
    """What fine-tuning gained over a linear probe of the same backbone; None without one."""
    # Runs of earlier versions have none.
    split = "val" if summary.get("probe_test_accuracy") is None else "test"
    probe, reached = summary.get(f"probe_{split}_accuracy"), summary[f"{split}_accuracy"]
    if probe is None:
        return None
    gained = 100 * (reached - probe)
    # Without it: tables of early versions.
    size = f", at {summary['image_size']} pixels" if "image_size" in summary else ""
    both = (
        f"{SPLITS[split]} accuracy is {reached:.3f} with mask {summary['mask']} and {probe:.3f} "
        f"with a linear probe (only the classifier is trained, as with --mask head_only{size})"
    )
    count = sum(row["count"] for row in summary[f"{split}_classes"].values())
    # Of the difference of two shares; less for the same images, which makes this the careful side.
    error = 100 * math.sqrt((reached * (1 - reached) + probe * (1 - probe)) / count)
    if abs(gained) < 2 * error:
        apart = round(abs(gained) / 100 * count)
        chance = f"A difference of {counted(apart, 'image')} of {count:,} is within chance; "
        return (
            f"Fine-tuning made no clear difference: {both}. {chance if apart else ''}"
            "--mask head_only takes only seconds."
        )
    if gained >= 0:
        return f"Fine-tuning gained {gained:.1f} percentage points: {both}."
    return (
        f"Fine-tuning lost {-gained:.1f} percentage points: {both}. Use that mask, which takes "
        "only seconds, or try another --lr (3e-4, 3e-5), more --epochs, --augment light or more "
        "images."
    )


def accuracy_of(accuracy: float, count: int) -> str:
    """An accuracy as precisely as it is known from so many images."""
    low, high = metrics.wilson_interval(accuracy, count)
    images = counted(count, "image") + (", too few to be sure" if count < metrics.FEW else "")
    return f"{accuracy:.3f} (95 % interval {low:.3f} to {high:.3f}, {images})"


def frozen_layers(summary: dict[str, Any]) -> str:
    """Whether the frozen layers are still as they were loaded."""
    if not summary["frozen_unchanged"]:
        return "CHANGED: this is a bug in jtl, please report it"
    if not summary["frozen_leaves"]:
        return "none"
    compared = "unchanged (every value compared)"
    if summary["mask"] == "full":  # What does not change are then running averages alone.
        return f"none; BatchNorm's stored averages are {compared}"
    return compared


def calibration_error(calibrated: dict[str, Any]) -> str:
    """How far probabilities are off, and how far they would be without temperature scaling.

    Args:
        calibrated: As `jtl.runs.calibration.calibration` gives it.
    """
    error = calibrated["expected_calibration_error"]
    before = calibrated.get("uncalibrated_error", error)  # Earlier versions did not scale.
    scaled = "" if before == error else f" ({before:.3f} without temperature scaling)"
    return f"expected calibration error {error:.3f}{scaled}"


def print_summary(
    summary: dict[str, Any], folder: Path, console: Console, *, html: bool = False
) -> None:
    """The closing table: what was trained, how well, where it is, and what to do next.

    Args:
        summary: As in `summary.json`.
        folder: The run's.
        console: Where it is printed.
        html: Whether there is `report.html`.
    """
    table = Table(show_header=False, title="Trained", title_justify="left", min_width=60)
    weights = summary["weights"]["name"]
    share = 100 * summary["trainable_params"] / summary["total_params"]
    epochs = counted(summary["epochs"], "epoch")
    if summary.get("solver") == "lbfgs":  # Runs of earlier versions do not say.
        epochs, penalty = "fitted by L-BFGS", fitted_penalty(folder)
        epochs += "" if penalty is None else f" with L2 penalty {penalty:g}"
    elif summary["epochs"] > 1:
        epochs += f" (best: {summary['best_epoch']})"
    rows = [
        ("model", f"{summary['model']}, weights {weights}"),
        ("data", f"{summary['data']}, {counted(summary['num_classes'], 'class', 'classes')}"),
        (
            "trained",
            f"{summary['mask']}: {summary['trainable_params']:,} of "
            f"{summary['total_params']:,} parameters ({share:.3g} %), {epochs}",
        ),
        ("frozen layers", frozen_layers(summary)),
    ]
    right = "exact match" if is_multilabel(summary) else "accuracy"
    rows += [
        (f"{name} {right}", accuracy_of(summary[f"{split}_accuracy"], count_of(summary, split)))
        for split, name in SPLITS.items()
        if summary[f"{split}_accuracy"] is not None
    ]
    rows += [
        (f"{name} ({SPLITS[split]})", f"{summary[key]:.3f}")
        for name, measure in (("mAP", "map"), ("micro-F1", "micro_f1"))
        for split in SPLITS
        if summary.get(key := f"{split}_{measure}") is not None
    ]
    rows += [
        (f"linear probe ({SPLITS[split]})", f"{probe:.3f}")
        for split in SPLITS
        # Runs of earlier versions have none.
        if (probe := summary.get(f"probe_{split}_accuracy")) is not None
    ]
    rows += [
        (f"macro-F1 ({SPLITS[split]})", f"{summary[f'{split}_macro_f1']:.3f}")
        for split in SPLITS
        if summary[f"{split}_macro_f1"] is not None
    ]
    metric = summary.get("metric", "accuracy")
    rows += [
        (f"{metric.replace('_', ' ')} ({SPLITS[split]})", f"{summary[key]:.3f}")
        for split in SPLITS
        if metric in ("balanced_accuracy", "auroc") and (key := f"{split}_{metric}") in summary
    ]
    seconds = format_seconds(summary["train_seconds"])
    if summary["cached_prefix"]:
        seconds += f" (frozen layers: {format_seconds(summary['feature_seconds'])})"
    rows.append(("time", seconds))
    for row in rows:
        table.add_row(*map(Text, row))  # Paths are no markup.
    console.print(table)
    split = "val" if summary["test_classes"] is None else "test"
    titles = summary.get("class_titles", {})
    scores = summary[f"{split}_classes"]
    console.print(class_table(scores, split, most=LISTED_CLASSES, titles=titles))
    # Outside the table, where no line break comes between what is to be copied.
    run = shlex.quote(str(folder))
    perfect = summary["val_accuracy"] == 1
    look = "see how it does" if perfect else "look at its mistakes"
    images = "IMAGES..."
    if unlabelled := summary.get("unlabelled_folder"):  # Runs of earlier versions do not say.
        images = f"{shlex.quote(unlabelled)} --out submission.csv"
    console.print(
        f"Report: {folder / (HTML_REPORT if html else 'report.md')}\n"
        f"Plot:   {folder / CURVES}\n"
        f"Next: {look}, then use it:\n"
        f"  {command('evaluate')} {run}\n"
        f"  {command('predict')} {run} {images}",
        markup=False,
        emoji=False,
        soft_wrap=True,
    )


def class_table(
    scores: dict[str, dict[str, Any]],
    split: str,
    most: int | None = None,
    titles: Mapping[str, str] | None = None,
) -> Table:
    """How well each class is recognized.

    Args:
        scores: As `jtl.runs.metrics.by_class` gives them.
        split: What the images are called.
        most: How many classes are listed: of more, those of the lowest F1; default all.
        titles: What classes are called that have numbers for names.
    """
    rows = [(name, row) for name, row in scores.items() if row["count"] or row["f1"] is not None]
    title = f"Classes ({SPLITS.get(split, split)} images)"
    if most is not None and len(rows) > most:
        title += f": the {most} with the lowest F1 of {len(rows):,}"
        rows = sorted(rows, key=lambda row: row[1]["f1"])[:most]
    table = Table(title=title, title_justify="left", min_width=60)
    table.add_column("class", overflow="fold")
    shown = class_columns(scores)
    for column in ("images", *shown.values()):
        table.add_column(column, justify="right")
    for name, row in rows:
        shares = ["-" if row[k] is None else f"{row[k]:.3f}" for k in shown]
        table.add_row(Text(with_title(name, titles or {})), f"{row['count']:,}", *shares)
    return table


def class_columns(scores: dict[str, dict[str, Any]]) -> dict[str, str]:
    """From what is known of each class, beside the number of its images, to how it is called.

    Args:
        scores: As of `class_table`, or of `jtl.runs.multilabel.by_class`.
    """
    several = any("average_precision" in row for row in scores.values())
    more = {"average_precision": "AP", "threshold": "threshold"} if several else {}
    # The accuracy of a class's own images is its recall.
    return {"accuracy": "recall", "precision": "precision", "f1": "F1", **more}


def is_multilabel(summary: dict[str, Any]) -> bool:
    """Whether images have several labels."""
    return summary.get("task") == "multilabel"


def count_of(summary: dict[str, Any], split: str) -> int:
    """The images of `val` or `test`; runs of earlier versions say those of test by class."""
    if (count := summary.get(f"num_{split}")) is not None:
        return count
    return sum(row["count"] for row in summary[f"{split}_classes"].values())
