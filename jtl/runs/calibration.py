"""Whether a classifier is right as often as it says."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15
"""As Guo et al. have it (2017, arXiv 1706.04599)."""


def calibration(logits: np.ndarray, labels: np.ndarray, bins: int = BINS) -> dict[str, Any]:
    """Expected calibration error, and what it is the mean of.

    Images are put into bins of equal width by the probability of their likeliest class; the
    error is the mean distance between that probability and the accuracy of a bin, weighted by its
    images (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Args:
        logits: float [N, num_classes]; probabilities are their softmax.
        labels: Integers [N].
        bins: How many.

    Returns:
        {"expected_calibration_error", "confidence" (the mean probability of the likeliest class),
        "bins"}; of each bin that has images {"from", "to", "count", "confidence", "accuracy"}.
    """
    logits = np.asarray(logits, np.float64)
    # Of the likeliest class: 1 over the sum of all exponentials relative to its own.
    confidence = 1 / np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)
    right = (logits.argmax(-1) == labels).astype(np.float64)
    # A bin holds its upper edge, not its lower one.
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    listed = []
    for index in np.unique(place):
        inside = place == index
        listed.append(
            {
                "from": float(index / bins),
                "to": float((index + 1) / bins),
                "count": int(inside.sum()),
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(right[inside].mean()),
            }
        )
    gaps = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in listed)
    count = max(len(labels), 1)
    return {
        "expected_calibration_error": gaps / count,
        "confidence": float(confidence.sum() / count),
        "bins": listed,
    }
