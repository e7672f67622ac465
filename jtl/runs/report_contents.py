"""What a run's reports say of it, in words and tables: `report.md` and `report.html` show it."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from jtl.common.text import counted
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

LISTED_CLASSES = 50
_APART = 0.02
"""How far confidence and accuracy are apart before a model is called over- or under-confident."""


@dataclasses.dataclass(frozen=True)
class Code:
    """A part of a text that is no prose: a name, a path, a mask."""

    text: str


Parts = Sequence[str | Code]
"""A text."""


def title(summary: dict[str, Any]) -> Parts:
    """What was trained on what."""
    return [f"{summary['model']} on ", Code(summary["data"])]


def searched(config: Config) -> bool:
    """Whether L-BFGS tried several penalties, in place of epochs."""
    return config.train.solver == "lbfgs" and config.train.l2 == "auto"


def headline(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What one wants to know first: what was measured, how much it is, and how sure that is."""
    found = []
    for split, name in reversed(SPLITS.items()):
        if (accuracy := summary.get(f"{split}_accuracy")) is None:
            continue
        count = count_of(summary, split)
        if is_multilabel(summary):
            told = (f"{name} mAP", _number(summary[f"{split}_map"]), counted(count, "image"))
        else:
            figure, _, interval = accuracy_of(accuracy, count).partition(" (")
            told = (f"{name} accuracy", figure, interval.removesuffix(")"))
        found.append(told)
    return found


def result_rows(
    summary: dict[str, Any], config: Config
) -> tuple[Sequence[str], list[Sequence[str]]]:
    """How good the model is on each split: the header, and a row for each."""
    shown = {"accuracy": "accuracy", "macro_f1": "macro-F1"}
    if is_multilabel(summary):
        shown = {"map": "mAP", "macro_f1": "macro-F1", "micro_f1": "micro-F1"}
        shown["accuracy"] = "exact match"
    rows: list[Sequence[str]] = []
    for split, name in SPLITS.items():
        if summary.get(f"{split}_classes") is not None:
            figures = [count_of(summary, split), *(summary[f"{split}_{key}"] for key in shown)]
            loss = _number(summary["val_loss"]) if split == "val" else ""
            rows.append((name, *map(_number, figures), loss))
    return ("split", "images", *shown.values(), "loss"), rows


def result_texts(summary: dict[str, Any], config: Config) -> list[str]:
    """What is to be said of the results, in paragraphs."""
    several = is_multilabel(summary)
    if summary["test_accuracy"] is not None:
        text = (
            f"Test {'exact match' if several else 'accuracy'}: "
            f"{accuracy_of(summary['test_accuracy'], count_of(summary, 'test'))}. Report this "
            "one: the test images were not used for training, nor to choose anything."
        )
    else:
        text = (
            f"The best {'L2 penalty' if searched(config) else 'epoch'} was chosen on the same "
            "validation images, "
            + (
                "and so were the thresholds, so expect slightly lower figures on new ones. A test "
                "split gives unbiased ones."
                if several
                else "so expect a slightly lower accuracy on new ones. A test/ folder gives an "
                "unbiased figure."
            )
        )
    reached = accuracy_of(summary["val_accuracy"], summary["num_val"])
    if several:
        return [
            text,
            "Exact match is the share of images whose classes are all right: on the validation "
            f"images {reached}.",
        ]
    texts = [text, f"Validation accuracy: {reached}."]
    if (note := probe_note(summary)) is not None:
        texts.append(note)
    return [*texts, _calibration(summary["val_calibration"], summary["val_accuracy"])]


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


def class_rows(
    summary: dict[str, Any], most: int = LISTED_CLASSES
) -> tuple[str, Sequence[str], list[Sequence[str]]]:
    """How well each class is recognized: what is listed, the header, and a row for each.

    Args:
        summary: The run's results.
        most: Of more classes those of the lowest F1 are listed.
    """
    split = "val" if summary.get("test_classes") is None else "test"
    rows = list(summary[f"{split}_classes"].items())
    heading = f"Classes ({SPLITS[split]} images)"
    if len(rows) > most:
        heading = f"The {most} classes with the lowest F1 ({SPLITS[split]} images)"
        # A class without F1 has no images.
        rows.sort(key=lambda row: 2.0 if row[1]["f1"] is None else row[1]["f1"])
        rows = rows[:most]
    columns = {"count": "images", **class_columns(summary[f"{split}_classes"])}
    titles = summary.get("class_titles", {})
    lines: list[Sequence[str]] = [
        (with_title(name, titles), *(_number(row[key]) for key in columns)) for name, row in rows
    ]
    return heading, ("class", *columns.values()), lines


def training_rows(summary: dict[str, Any], config: Config) -> list[tuple[str, Parts]]:
    """How the model was trained."""
    share = 100 * summary["trainable_params"] / summary["total_params"]
    weights = summary["weights"]
    source: list[str | Code] = [Code(weights["name"])]
    if weights.get("licence"):
        source.append(f", licence {weights['licence']}")
    solved = config.train.solver == "lbfgs"
    trained: list[str | Code] = []
    for phase in summary["phases"]:
        trained += ["; then "] if trained else []
        if solved:
            trained += [Code(phase["mask"]), ", fitted to its optimum"]
        else:
            epochs = counted(phase["epochs"], "epoch")
            trained += [f"{epochs} of ", Code(phase["mask"])]
            trained += [f" at learning rate {phase['lr']:g}"]
    epochs = f"{summary['epochs']} (best: {summary['best_epoch']})"
    return [
        ("weights", source),
        ("trained", trained),
        ("optimizer", [_optimizer(config)]),
        (
            "trained parameters",
            [f"{summary['trainable_params']:,} of {summary['total_params']:,} ({share:.3g} %)"],
        ),
        ("frozen layers", [frozen_layers(summary)]),
        ("head", [Code(summary["head"])]),
        ("input", [f"{summary['image_size']} pixels"]),
        ("augmentation", [str(summary["augmentation"])]),
        *([] if solved else [("epochs", [epochs])]),
        ("training time", [f"{summary['train_seconds']:.1f} s"]),
    ]


def _optimizer(config: Config) -> str:
    """What minimized the loss, in words."""
    train, steps = config.train, config.steps
    if train.solver == "lbfgs":
        penalty = f"L2 penalty {train.l2}"
        if searched(config):
            by = metric_name(train.metric)
            penalty = f"the best of 25 L2 penalties (by validation {by}"
            penalty += ")" if train.metric == "loss" else "; if equal, by loss)"
        return f"L-BFGS, {penalty}"
    told = [f"{train.optimizer}, {train.schedule} schedule"]
    told.append(f"{train.batch:,} images per step")
    named = {
        "accumulate": (steps.accumulate, 1, "gradients of {} steps averaged per update"),
        "clip": (steps.clip_norm, 0, "gradients clipped to {:g}"),
        "smoothing": (steps.label_smoothing, 0, "label smoothing {:g}"),
        "ema": (steps.ema, 0, "moving average of parameters (decay {:g})"),
        "class weights": (train.class_weights, "none", "class weights {}"),
        "sampler": (train.sampler, "shuffle", "as many images of every class ({} sampler)"),
    }
    told += [text.format(value) for value, usual, text in named.values() if value != usual]
    return ", ".join(told)


def data_rows(summary: dict[str, Any]) -> list[tuple[str, Parts]]:
    """What the model was trained on."""
    return [
        ("source", [Code(summary["data"])]),
        ("images", [f"{summary['num_train']:,} training, {summary['num_val']:,} validation"]),
        ("classes", [f"{summary['num_classes']:,}"]),
        ("fingerprint", [Code(summary["data_fingerprint"])]),
    ]


def repeat(summary: dict[str, Any], config: Config) -> tuple[list[str], list[Parts]]:
    """How to train the same again: lines for a shell, and what is to be said of them."""
    versions = summary["versions"]
    packages = " ".join(
        f"{name}=={version}" for name, version in versions.items() if name not in ("python", "jtl")
    )
    weights = summary["weights"].get("sha256")
    lines = [
        f"# Python {versions['python']}, {summary.get('device', 'device not recorded')}",
        f"# In a checkout of jtl {versions['jtl']}:",
        f"pip install -e '.[demo]' {packages}",
        shlex.join(["jtl", "train", *arguments(config)]),
    ]
    told: list[Parts] = [["SHA-256 of the weights: ", Code(weights), "."]] if weights else []
    told.append(
        [
            "Options that jtl chose itself are left out; another version may choose others. ",
            Code("config.json"),
            " lists all options of this run. ",
            Code("jtl docs glossary"),
            " explains the words of this report.",
        ]
    )
    return lines, told


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
