"""How well each class is recognized, where accuracy alone hides the small ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


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


def _counts(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    """For every class: its images, the images taken for it, and both."""
    of = (labels, predicted, labels[predicted == labels])
    return tuple(np.bincount(chosen, minlength=classes) for chosen in of)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
