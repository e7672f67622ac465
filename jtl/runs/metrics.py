"""How well each class is recognized, what decides a best epoch, and intervals of accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.config.training import MetricName
from jtl.data import hold_out
from jtl.data.multilabel import is_multilabel
from jtl.runs import multilabel

FEW = hold_out.FEW
"""Validation images: of fewer, accuracy says little."""


def by_class(
    predicted: np.ndarray, labels: np.ndarray, class_names: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Scores of every class.

    Args:
        predicted: The class that was chosen for every image, integers [N].
        labels: The class that it has, integers [N].
        class_names: The name of every class.

    Returns:
        {class name: {"count", "accuracy", "precision", "f1"}}: its images; the share of them
        that was recognized (also called recall); the share of what was taken for the class that
        is; and the harmonic mean of the two. None where a share is one of nothing.
    """
    count, chosen, hits = _counts(predicted, labels, len(class_names))
    return {
        name: {
            "count": int(of_class),
            "accuracy": _share(hit, of_class),
            "precision": _share(hit, taken),
            "f1": _share(2 * hit, of_class + taken),
        }
        for name, of_class, taken, hit in zip(class_names, count, chosen, hits, strict=True)
    }


def macro_f1(scores: dict[str, dict[str, Any]]) -> float:
    """The mean F1 of the classes, each counting the same however many images it has.

    A class that no image has and none was taken for does not count, as in scikit-learn.

    Args:
        scores: As `by_class` gives them.
    """
    known = [row["f1"] for row in scores.values() if row["f1"] is not None]
    return sum(known) / max(len(known), 1)


def wilson_interval(accuracy: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of an accuracy (Wilson 1927).

    Args:
        accuracy: From 0 to 1.
        count: How many images it is of.

    Returns:
        Its lower and upper bound.

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(0.9, 100)]
        [0.826, 0.945]
    """
    z = 1.959964  # The normal distribution holds 95 % within as many standard deviations.
    if not count:
        return 0.0, 1.0
    middle = accuracy + z * z / (2 * count)
    spread = z * math.sqrt(accuracy * (1 - accuracy) / count + (z / (2 * count)) ** 2)
    scale = 1 + z * z / count
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def rounded(accuracy: float, count: int) -> str:
    """An accuracy with the digits that so many images support: one more than the interval's first.

    Example:
        >>> rounded(0.85631, 341), rounded(0.5, 9), rounded(0.85631, 100_000)
        ('0.856', '0.50', '0.8563')
    """
    low, high = wilson_interval(accuracy, count)
    digits = 1 + math.ceil(-math.log10((high - low) / 2))
    return f"{accuracy:.{min(max(digits, 2), 4)}f}"


def measure(metric: MetricName, logits: np.ndarray, labels: np.ndarray) -> float:
    """How good predictions are, the higher the better.

    Args:
        metric: accuracy; macro_f1; balanced_accuracy (the mean accuracy of the classes that have
            images, as in scikit-learn); auroc (the mean area under the ROC curves of each class
            against the rest, of those classes that have images and rest); or loss, negative.
        logits: Float [N, num_classes].
        labels: Integers [N]; or 0 and 1, [N, num_classes], where images have several classes: see
            `jtl.runs.multilabel.measure`.

    Returns:
        The value; NaN where it is not defined, as the auroc of images of one class.
    """
    if is_multilabel(labels):
        return multilabel.measure(metric, logits, labels)
    classes = logits.shape[1]
    logs = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
    if metric == "loss":
        return float(logs[np.arange(len(labels)), labels].mean())
    if metric == "auroc":
        areas = [_area(logs[:, label], labels == label) for label in np.unique(labels)]
        return float(np.mean(areas))
    count, chosen, hits = _counts(logits.argmax(-1), labels, classes)
    if metric == "accuracy":
        return float(hits.sum() / len(labels))
    if metric == "balanced_accuracy":
        return float((hits[count > 0] / count[count > 0]).mean())
    known = count + chosen > 0
    return float((2 * hits[known] / (count + chosen)[known]).mean())


def score_of(line: Mapping[str, Any], metric: MetricName) -> float:
    """What an epoch's line of `metrics.jsonl` says of a metric, the higher the better."""
    return -line["val_loss"] if metric == "loss" else line[f"val_{metric}"]


def best_line(history: Sequence[dict[str, Any]], metric: MetricName) -> dict[str, Any]:
    """The line of the best epoch: by a metric, among equals by the loss, then the first."""
    return max(history, key=lambda e: (score_of(e, metric), -e["val_loss"], -e["epoch"]))


def in_line(metric: MetricName, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What a metric adds to an epoch's line, which has accuracy and loss in any case."""
    added: list[MetricName] = [] if metric in ("accuracy", "loss") else [metric]
    if is_multilabel(labels):
        added = list(dict.fromkeys(("map", *added)))  # Which decides, if any does, comes last.
    return {f"val_{name}": measure(name, logits, labels) for name in added}


def _area(scores: np.ndarray, positive: np.ndarray) -> float:
    """The area under the ROC curve: how often a positive has the higher score, ties half."""
    count = int(positive.sum())
    rest = len(positive) - count
    if not count or not rest:
        return math.nan
    from scipy.stats import rankdata  # Which takes half a second to import.

    ranks = rankdata(scores)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * rest))


def _counts(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    """For every class: its images, the images taken for it, and both."""
    of = (labels, predicted, labels[predicted == labels])
    return tuple(np.bincount(chosen, minlength=classes) for chosen in of)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
