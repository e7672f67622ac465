"""`report.md`: a run told to a colleague, with everything that it takes to repeat it."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.common import markdown
from jtl.common.files import replace_text
from jtl.common.text import counted, for_markdown
from jtl.config import walk
from jtl.config.defaults import MaskDefaults, augmentation, filled
from jtl.config.options import Config
from jtl.config.training import WITHOUT_STEPS
from jtl.data.class_names import with_title
from jtl.runs.console_text import (
    SPLITS,
    accuracy_of,
    calibration_error,
    class_columns,
    count_of,
    frozen_layers,
    is_multilabel,
    probe_note,
)
from jtl.runs.plots import metric_name

PAGE = "report.md"
PLOTS = {
    "curves.png": "Loss and accuracy by epoch",
    "confusion.png": "Confusion matrix of the validation images",
    "reliability.png": "Reliability: accuracy at each level of confidence",
    "classes.png": "How well each class is recognized",
    "mistakes.png": "The most confident mistakes",
}
"""What a report shows, where it is in the run's folder."""
_LISTED_CLASSES = 50
_APART = 0.02
"""How far confidence and accuracy are apart before a model is called over- or under-confident."""


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
        f"# {summary['model']} on {markdown.code(summary['data'])}",
        _results(summary, config),
        *(f"![{title}]({name})\n\n{title}." for name, title in _titles(plots, config)),
        _classes(summary),
        "## Training",
        markdown.table(_training(summary, config)),
        "## Data",
        markdown.table(_data(summary)),
        *(f"- {for_markdown(note)}" for note in summary["notes"]),
        "## How to reproduce",
        _repeat(summary, config),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _titles(plots: Sequence[str], config: Config) -> list[tuple[str, str]]:
    titles = dict(PLOTS)
    metric = config.train.metric
    if _searched(config):
        titles["curves.png"] = f"Validation {metric_name(metric)} at each L2 penalty"
    elif metric not in ("accuracy", "loss"):
        first = "exact match" if config.data.task == "multilabel" else "accuracy"
        titles["curves.png"] = f"Loss, {first} and {metric_name(metric)} by epoch"
    return [(name, titles[name]) for name in plots]


def _searched(config: Config) -> bool:
    """Whether L-BFGS tried several penalties, in place of epochs."""
    return config.train.solver == "lbfgs" and config.train.l2 == "auto"


def _results(summary: dict[str, Any], config: Config) -> str:
    several = is_multilabel(summary)
    shown = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
    if several:
        shown = {"map": "mAP", "macro_f1": "macro-F1", "micro_f1": "micro-F1"}
        shown["accuracy"] = "exact match"
    rows: list[Sequence[str]] = []
    for split, name in SPLITS.items():
        if summary.get(f"{split}_classes") is not None:
            figures = [count_of(summary, split), *(summary[f"{split}_{key}"] for key in shown)]
            loss = _number(summary["val_loss"]) if split == "val" else ""
            rows.append((name, *map(_number, figures), loss))
    text = markdown.table(rows, ("split", "images", *shown.values(), "loss"))
    if summary["test_accuracy"] is not None:
        text += (
            f"\n\nTest {'exact match' if several else 'accuracy'}: "
            f"{accuracy_of(summary['test_accuracy'], count_of(summary, 'test'))}. Report this "
            "one: the test images were not used for training, nor to choose anything."
        )
    else:
        text += (
            "\n"
            "\n"
            f"The best {'L2 penalty' if _searched(config) else 'epoch'} was chosen on the same "
            "validation images, "
            + (
                "and so were the thresholds, so expect slightly lower figures on new ones. A test "
                "split gives unbiased ones."
                if several
                else "so expect a slightly lower accuracy on new ones. A test/ folder gives an "
                "unbiased figure."
            )
        )
    if several:
        return (
            f"{text}\n\nExact match is the share of images whose classes are all right: on the "
            f"validation images {accuracy_of(summary['val_accuracy'], summary['num_val'])}."
        )
    found = summary["val_calibration"]
    text += f"\n\nValidation accuracy: {accuracy_of(summary['val_accuracy'], summary['num_val'])}."
    if (note := probe_note(summary)) is not None:
        text += f"\n\n{for_markdown(note)}"
    return f"{text}\n\n{_calibration(found, summary['val_accuracy'])}"


def _calibration(found: dict[str, Any], accuracy: float) -> str:
    """Whether the model is as sure as it may be, in words."""
    confidence, bins = found["confidence"], found["bins"]
    count = sum(each["count"] for each in bins)
    apart = confidence - accuracy
    # Of the share of images that are right, if each is as likely right as the model says.
    chances = (each["count"] * each["confidence"] * (1 - each["confidence"]) for each in bins)
    chance = 2 * math.sqrt(sum(chances)) / max(count, 1)
    if abs(apart) <= chance:
        verdict = f"no clear difference with {counted(count, 'image')}"
    elif abs(apart) < _APART:
        verdict = "well calibrated"
    else:
        verdict = "over-confident" if apart > 0 else "under-confident"
        if abs(apart) < 3 * _APART:
            verdict = f"slightly {verdict}"
    error = calibration_error(found)
    same = ""
    if "without" in error:
        same = " The temperature that scales the probabilities was fitted on these same images."
    return (
        f"Average confidence {100 * confidence:.1f} %, accuracy {100 * accuracy:.1f} % on the "
        f"validation images: {verdict}.{same} {error.capitalize()}: how far confidence and "
        "accuracy are apart on average, in groups of images with similar confidence."
    )


def _classes(summary: dict[str, Any]) -> str:
    split = "val" if summary.get("test_classes") is None else "test"
    rows = list(summary[f"{split}_classes"].items())
    heading = f"## Classes ({SPLITS[split]} images)"
    if len(rows) > _LISTED_CLASSES:
        heading = f"## The {_LISTED_CLASSES} classes with the lowest F1 ({SPLITS[split]} images)"
        # A class without F1 has no images.
        rows.sort(key=lambda row: 2.0 if row[1]["f1"] is None else row[1]["f1"])
        rows = rows[:_LISTED_CLASSES]
    columns = {"count": "images", **class_columns(summary[f"{split}_classes"])}
    titles = summary.get("class_titles", {})
    names = {name: for_markdown(with_title(name, titles)) for name, _ in rows}
    lines = [(names[name], *(_number(row[key]) for key in columns)) for name, row in rows]
    table = markdown.table(lines, ("class", *columns.values()))
    return f"{heading}\n\n{table}"


def _training(summary: dict[str, Any], config: Config) -> list[tuple[str, str]]:
    share = 100 * summary["trainable_params"] / summary["total_params"]
    weights = summary["weights"]
    source = markdown.code(weights["name"])
    if weights.get("licence"):
        source += f", licence {markdown.one_line(weights['licence'])}"
    solved = config.train.solver == "lbfgs"
    phases = [
        f"{markdown.code(p['mask'])}, fitted to its optimum"
        if solved
        else f"{counted(p['epochs'], 'epoch')} of {markdown.code(p['mask'])} at learning rate "
        f"{p['lr']:g}"
        for p in summary["phases"]
    ]
    return [
        ("weights", source),
        ("trained", "; then ".join(phases)),
        ("optimizer", _optimizer(config)),
        (
            "trained parameters",
            f"{summary['trainable_params']:,} of {summary['total_params']:,} ({share:.3g} %)",
        ),
        ("frozen layers", frozen_layers(summary)),
        ("head", markdown.code(summary["head"])),
        ("input", f"{summary['image_size']} pixels"),
        ("augmentation", for_markdown(str(summary["augmentation"]))),
        *([] if solved else [("epochs", f"{summary['epochs']} (best: {summary['best_epoch']})")]),
        ("training time", f"{summary['train_seconds']:.1f} s"),
    ]


def _optimizer(config: Config) -> str:
    """What minimized the loss, in words."""
    train, steps = config.train, config.steps
    if train.solver == "lbfgs":
        penalty = f"L2 penalty {train.l2}"
        if _searched(config):
            by = metric_name(train.metric)
            penalty = f"the best of 25 L2 penalties (by validation {by}"
            penalty += ")" if train.metric == "loss" else "; if equal, by loss)"
        return f"L-BFGS, {for_markdown(penalty)}"
    told = [f"{for_markdown(train.optimizer)}, {for_markdown(train.schedule)} schedule"]
    told.append(f"{train.batch:,} images per step")
    named = {
        "accumulate": (steps.accumulate, 1, "gradients of {} steps averaged per update"),
        "clip": (steps.clip_norm, 0, "gradients clipped to {:g}"),
        "smoothing": (steps.label_smoothing, 0, "label smoothing {:g}"),
        "ema": (steps.ema, 0, "moving average of parameters (decay {:g})"),
        "class weights": (for_markdown(train.class_weights), "none", "class weights {}"),
        "sampler": (train.sampler, "shuffle", "as many images of every class ({} sampler)"),
    }
    told += [text.format(value) for value, usual, text in named.values() if value != usual]
    return ", ".join(told)


def _data(summary: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("source", markdown.code(summary["data"])),
        ("images", f"{summary['num_train']:,} training, {summary['num_val']:,} validation"),
        ("classes", f"{summary['num_classes']:,}"),
        ("fingerprint", markdown.code(summary["data_fingerprint"])),
    ]


def _repeat(summary: dict[str, Any], config: Config) -> str:
    versions = summary["versions"]
    packages = " ".join(
        f"{name}=={version}" for name, version in versions.items() if name not in ("python", "jtl")
    )
    weights = summary["weights"].get("sha256")
    lines = [
        f"    # Python {versions['python']}, {summary.get('device', 'device not recorded')}",
        f"    # In a checkout of jtl {versions['jtl']}:",
        f"    pip install -e '.[demo]' {packages}",
        f"    {shlex.join(['jtl', 'train', *arguments(config)])}",
    ]
    text = "\n".join(lines)
    if weights:
        text += f"\n\nSHA-256 of the weights: `{weights}`."
    return text + (
        "\n\nOptions that jtl chose itself are left out; another version may choose others. "
        "`config.json` lists all options of this run. `jtl docs glossary` explains the words of "
        "this report."
    )


def arguments(config: Config) -> list[str]:
    """The command line that gives a configuration; what is as by default is left out.

    Defaults are also those of the mask, which a run's `config.json` has written out. Where
    results go and what is printed does not belong to what is repeated.
    """
    names = [field.name for field in dataclasses.fields(MaskDefaults)]
    usual = walk.changed(filled(walk.replace(config, dict.fromkeys(names))))
    known = walk.options(type(config))
    values = {
        name: value
        for name, value in walk.changed(config).items()
        if known[name].area != "run"
        and not (name in names and value == usual.get(name))
        and not (name == "augment" and value == augmentation(config))
    }
    given: list[str] = []
    for name, value in values.items():
        option = known[name]
        if name in ("bn", "solver") and _is_automatic(name, config, values):
            continue
        if isinstance(value, bool):
            given.append(option.flag if value else option.flag.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            given += [option.flag, *map(str, value)]
        else:
            given += [option.flag, str(value)]
    return given


def _is_automatic(name: str, config: Config, given: Mapping[str, Any]) -> bool:
    """Whether `--bn auto` or `--solver auto` comes to what the run has, with these options."""
    train, pretrained = config.train, config.model.weights != "random"
    if name == "bn":  # Without BatchNorm, frozen is refused.
        return train.bn == ("frozen" if pretrained else "batch")
    linear = config.model.head in ("linear", "append") and train.bn != "train"
    convex = train.mask == "head_only" and train.phases is None and linear
    known = walk.options(type(config))
    steps = config.augment.resolved().random or any(
        known[each].area in ("train", "steps") and each not in WITHOUT_STEPS for each in given
    )
    return train.solver == ("lbfgs" if convex and not steps else "sgd")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"
