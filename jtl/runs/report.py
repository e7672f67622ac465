"""`report.md`: a run told to a colleague, with everything that it takes to repeat it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl.common.files import replace_text
from jtl.common.text import for_markdown
from jtl.config import walk
from jtl.config.options import Config
from jtl.runs.messages import counted

PAGE = "report.md"
PLOTS = {
    "curves.png": "Loss and accuracy by epoch",
    "confusion.png": "Confusion matrix of the validation images",
    "reliability.png": "Reliability: accuracy over the probability that the model states",
    "mistakes.png": "The most confident mistakes",
}
"""What a report shows, where it is in the run's folder."""
_LISTED_CLASSES = 50


def write(folder: Path, summary: dict[str, Any], config: Config) -> None:
    """Writes `report.md` beside the plots that are there.

    Args:
        folder: The run's folder.
        summary: As in `summary.json`.
        config: The run's options.
    """
    # The curves may be drawn beside just now.
    shown = [name for name in PLOTS if name == "curves.png" or (folder / name).is_file()]
    replace_text(folder / PAGE, page(summary, config, shown))


def page(summary: dict[str, Any], config: Config, plots: Sequence[str]) -> str:
    """The report as Markdown; see `write`.

    Args:
        summary: The run's results.
        config: The run's options.
        plots: Names of `PLOTS` to show.
    """
    parts = [
        f"# {summary['model']} on {_code(summary['data'])}",
        _results(summary),
        *(f"![{PLOTS[name]}]({name})\n\n{PLOTS[name]}." for name in plots),
        _classes(summary),
        "## What was trained",
        _table(_training(summary, config)),
        "## Data",
        _table(_data(summary)),
        *(f"- {for_markdown(note)}" for note in summary["notes"]),
        "## To repeat it",
        _repeat(summary, config),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(summary: dict[str, Any]) -> str:
    rows: list[Sequence[str]] = []
    val = (summary["num_val"], summary["val_accuracy"], summary["val_macro_f1"])
    rows.append(("validation", *map(_number, val), _number(summary["val_loss"])))
    if summary.get("test_classes") is not None:
        count = sum(row["count"] for row in summary["test_classes"].values())
        test = (count, summary["test_accuracy"], summary["test_macro_f1"])
        rows.append(("test", *map(_number, test), ""))
    text = _table(rows, ("split", "images", "accuracy", "macro-F1", "loss"))
    if summary["test_accuracy"] is None:
        text += (
            "\n\nThe epoch was chosen on the validation images, so their accuracy flatters a "
            "little; there was no test split."
        )
    found = summary["val_calibration"]
    error, confidence = found["expected_calibration_error"], found["confidence"]
    return text + (
        f"\n\nOn the validation images the expected calibration error is {error:.4f}: the model "
        f"states {confidence:.1%} on average and is right in {summary['val_accuracy']:.1%}."
    )


def _classes(summary: dict[str, Any]) -> str:
    split = "val" if summary.get("test_classes") is None else "test"
    told = {"val": "validation", "test": "test"}[split]
    rows = list(summary[f"{split}_classes"].items())
    heading = f"## Classes ({told})"
    if len(rows) > _LISTED_CLASSES:
        heading = f"## The {_LISTED_CLASSES} classes of lowest F1 ({told})"
        # A class without F1 has no images.
        rows.sort(key=lambda row: 2.0 if row[1]["f1"] is None else row[1]["f1"])
        rows = rows[:_LISTED_CLASSES]
    keys = ("count", "accuracy", "precision", "f1")
    lines = [(for_markdown(name), *(_number(row[key]) for key in keys)) for name, row in rows]
    table = _table(lines, ("class", "images", "accuracy (recall)", "precision", "F1"))
    return f"{heading}\n\n{table}"


def _training(summary: dict[str, Any], config: Config) -> list[tuple[str, str]]:
    share = summary["trainable_params"] / summary["total_params"]
    weights = summary["weights"]
    source = _code(weights["name"])
    if weights.get("licence"):
        source += f", licence {_one_line(weights['licence'])}"
    phases = [
        f"{counted(p['epochs'], 'epoch')} of {_code(p['mask'])}" + _rate(p["lr"], config)
        for p in summary["phases"]
    ]
    frozen = "none" if not summary["frozen_leaves"] else f"{summary['frozen_leaves']}, unchanged"
    if not summary["frozen_unchanged"]:
        frozen = "CHANGED"
    return [
        ("weights", source),
        ("trained", "; then ".join(phases)),
        ("by", _optimizer(config)),
        (
            "trainable",
            f"{summary['trainable_params']:,} of {summary['total_params']:,} ({share:.2%})",
        ),
        ("frozen leaves", frozen),
        ("head", _code(summary["head"])),
        ("input", f"{summary['image_size']} pixels"),
        ("augmentation", for_markdown(str(summary["augmentation"]))),
        ("epochs", f"{summary['epochs']}, of which {summary['best_epoch']} was the best"),
        ("time", f"{summary['train_seconds']:.1f} s"),
    ]


def _rate(lr: float, config: Config) -> str:
    return "" if config.train.solver == "lbfgs" else f" at learning rate {lr:g}"


def _optimizer(config: Config) -> str:
    """What minimized the loss, in words."""
    train, steps = config.train, config.steps
    if train.solver == "lbfgs":
        return f"L-BFGS, l2 {for_markdown(train.l2)}"
    told = [f"{for_markdown(train.optimizer)}, {for_markdown(train.schedule)} schedule"]
    told.append(f"{train.batch:,} images a step")
    named = {
        "accumulate": (steps.accumulate, 1, "gradients of {} steps make an update"),
        "clip": (steps.clip_norm, 0, "gradients clipped to {:g}"),
        "smoothing": (steps.label_smoothing, 0, "label smoothing {:g}"),
        "ema": (steps.ema, 0, "moving average {:g}"),
        "class weights": (train.class_weights, "none", "class weights {}"),
    }
    told += [text.format(value) for value, usual, text in named.values() if value != usual]
    return ", ".join(told)


def _data(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("source", _code(summary["data"])),
        ("images", f"{summary['num_train']:,} train, {summary['num_val']:,} validation"),
        ("classes", f"{summary['num_classes']:,}"),
        ("fingerprint", _code(summary["data_fingerprint"])),
    ]


def _repeat(summary: dict[str, Any], config: Config) -> str:
    versions = summary["versions"]
    packages = " ".join(
        f"{name}=={version}" for name, version in versions.items() if name not in ("python", "jtl")
    )
    weights = summary["weights"].get("sha256")
    lines = [
        f"    # Python {versions['python']}, {summary.get('device', 'device not recorded')}",
        f"    # In the folder of jtl {versions['jtl']}:",
        f"    pip install -e '.[demo]' {packages}",
        f"    {shlex.join(['python', '-m', 'jtl.train', *arguments(config)])}",
    ]
    text = "\n".join(lines)
    if weights:
        text += f"\n\nSHA-256 of the weights: `{weights}`."
    return text + "\n\nAll options, with defaults, are in `config.json`."


def arguments(config: Config) -> list[str]:
    """The command line that gives a configuration; what is as by default is left out.

    Where results go and what is printed does not belong to what is repeated.
    """
    given: list[str] = []
    for name, value in walk.changed(config).items():
        option = walk.options(type(config))[name]
        if option.area == "run":
            continue
        if isinstance(value, bool):
            given.append(option.flag if value else option.flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            given += [option.flag, *map(str, value)]
        else:
            given += [option.flag, str(value)]
    return given


def _table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    header = ["" for _ in rows[0]] if header is None else header
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _code(text: str) -> str:
    return f"`{_one_line(str(text)).replace('`', chr(39)).replace('|', chr(92) + '|')}`"
