"""How well images with several labels are recognized, and from which probability on a class is.

A model gives every class a probability of its own, the sigmoid of its logit. An image has the
classes whose probability is above their threshold.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.config.training import MetricName

_MEASURED: tuple[MetricName, ...] = ("accuracy", "map", "macro_f1", "micro_f1")
KEYS = (*_MEASURED, "classes", "calibration")
"""What `scores` has of a split."""
HALF = 0.5
"""The threshold of a class that has none of its own."""
_SATURATED = 80.0
"""Logits beyond which float32 has no other probabilities."""


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """The probabilities of classes that are independent of each other, float32."""
    x = np.clip(np.asarray(logits, np.float32), -_SATURATED, _SATURATED)
    return 1 / (1 + np.exp(-x))


def chosen(logits: np.ndarray, thresholds: Sequence[float] | None = None) -> np.ndarray:
    """The classes of each image, bool [N, K].

    Args:
        logits: float [N, K].
        thresholds: Of every class; default 0.5 for each.
    """
    if thresholds is None:
        return logits > 0
    # Thresholds may lie between two neighbours among the numbers of float32.
    return sigmoid(logits).astype(np.float64) > np.asarray(thresholds, np.float64).reshape(1, -1)


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """The mean precision at the rank of each positive, as scikit-learn defines it.

    The sum over all distinct scores of the precision among images with at least that score, times
    the recall that it gains.

    Args:
        scores: Of one class, float [N].
        positive: Whether images are of it, bool [N].

    Returns:
        None without positives.
    """
    count = int(positive.sum())
    if not count:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # Of each distinct score.
    gained = np.diff(hits[last], prepend=0)
    return float((gained * hits[last] / (last + 1)).sum() / count)


def mean_average_precision(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes that have images; NaN if none has.

    Args:
        logits: float [N, K].
        labels: 0 and 1, [N, K].
    """
    found = [average_precision(logits[:, k], labels[:, k] > 0) for k in range(labels.shape[1])]
    known = [one for one in found if one is not None]
    return float(np.mean(known)) if known else float("nan")


def fit_thresholds(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """For every class the threshold of the highest F1.

    Args:
        logits: float [N, K], of images that the model was not trained on.
        labels: 0 and 1, [N, K].

    Returns:
        0.5 where it is among the best, as for a class without images; else the middle between two
        probabilities, of several such the nearest to 0.5.
    """
    shares = sigmoid(logits)
    return [_best_threshold(shares[:, k], labels[:, k] > 0) for k in range(labels.shape[1])]


def _best_threshold(shares: np.ndarray, positive: np.ndarray) -> float:
    if not positive.any():
        return HALF
    order = np.argsort(-shares, kind="stable")
    values, hits = shares[order].astype(np.float64), np.cumsum(positive[order])
    last = np.flatnonzero(np.append(np.diff(values) != 0, True))
    f1 = 2 * hits[last] / (last + 1 + positive.sum())
    # Those of the highest F1 lie from the next probability below to the last one that is taken.
    below = np.append(values[last][1:], 0.0)
    best = np.flatnonzero(f1 == f1.max())
    if any(low <= HALF < high for low, high in zip(below[best], values[last][best], strict=True)):
        return HALF
    middles = (below[best] + values[last][best]) / 2
    return float(middles[np.argmin(np.abs(middles - HALF))])


def micro_f1(picked: np.ndarray, labels: np.ndarray) -> float:
    """F1 of all pairs of an image and a class together; 0 where there is none.

    Args:
        picked: The classes of each image, as `chosen` gives them.
        labels: 0 and 1, [N, K].
    """
    hits, total = int((picked & (labels > 0)).sum()), int(picked.sum()) + int(labels.sum())
    return 2 * hits / max(total, 1)


def by_class(
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Scores of every class.

    Args:
        logits: float [N, K].
        labels: 0 and 1, [N, K].
        class_names: The name of every class.
        thresholds: Of every class; default 0.5 for each.

    Returns:
        {class name: {"count", "accuracy", "precision", "f1", "average_precision", "threshold"}}:
        its images; the share of them that was recognized (also called recall); the share of what
        was taken for the class that is; the harmonic mean of the two; and see
        `average_precision`. None where a share is one of nothing.
    """
    picked, truth = chosen(logits, thresholds), labels > 0
    count, taken, hits = truth.sum(0), picked.sum(0), (picked & truth).sum(0)

    def share(part: Any, whole: Any) -> float | None:
        return float(part / whole) if whole else None

    return {
        name: {
            "count": int(count[k]),
            "accuracy": share(hits[k], count[k]),
            "precision": share(hits[k], taken[k]),
            "f1": share(2 * hits[k], count[k] + taken[k]),
            "average_precision": average_precision(logits[:, k], truth[:, k]),
            "threshold": HALF if thresholds is None else float(thresholds[k]),
        }
        for k, name in enumerate(class_names)
    }


def measure(
    metric: MetricName,
    logits: np.ndarray,
    labels: np.ndarray,
    thresholds: Sequence[float] | None = None,
) -> float:
    """How good predictions are, the higher the better.

    Args:
        metric: map; macro_f1 or micro_f1; accuracy, the share of images of which all classes are
            right (exact match); or loss, the mean sigmoid cross entropy, negative.
        logits: float [N, K].
        labels: 0 and 1, [N, K].
        thresholds: Of every class; default 0.5 for each.
    """
    picked, truth = chosen(logits, thresholds), labels > 0
    if metric == "map":
        return mean_average_precision(logits, labels)
    if metric == "micro_f1":
        return micro_f1(picked, labels)
    if metric == "accuracy":
        return float((picked == truth).all(1).mean())
    if metric == "loss":
        x = logits.astype(np.float64)
        return float(-(np.logaddexp(0, x) - x * truth).mean())
    assert metric == "macro_f1", metric
    hits, total = (picked & truth).sum(0), picked.sum(0) + truth.sum(0)
    return float((2 * hits / np.maximum(total, 1))[total > 0].mean()) if total.any() else 0.0


def scores(
    split: str,
    logits: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    thresholds: Sequence[float] | None,
) -> dict[str, Any]:
    """What `summary.json` and an evaluation say of a split.

    Args:
        split: The beginning of the keys.
        logits: float [N, K].
        labels: 0 and 1, [N, K].
        class_names: The name of every class.
        thresholds: Of every class; None for 0.5 for each.

    Returns:
        See `KEYS`; None where a measure is not defined, as the mAP of images of no class.
    """
    measured = {name: measure(name, logits, labels, thresholds) for name in _MEASURED}
    return {
        **{f"{split}_{name}": None if math.isnan(v) else v for name, v in measured.items()},
        f"{split}_classes": by_class(logits, labels, class_names, thresholds),
        f"{split}_calibration": None,
    }


def names_of(picked: np.ndarray, class_names: Sequence[str]) -> tuple[str, ...]:
    """The classes of one image, bool [K], by name."""
    return tuple(itertools.compress(class_names, picked.tolist()))
