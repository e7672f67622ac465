"""How well each class is recognized, where accuracy alone hides the small ones."""

from __future__ import annotations

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


def _counts(predicted: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, ...]:
    """Of every class: its images, the images taken for it, and both."""
    of = (labels, predicted, labels[predicted == labels])
    return tuple(np.bincount(chosen, minlength=classes) for chosen in of)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
