"""Whether a classifier is right as often as it says, and how to make it so."""

from __future__ import annotations

from typing import Any

import numpy as np

from jtl.runs import multilabel

BINS = 15
"""As Guo et al. have it (2017, arXiv 1706.04599)."""


WIDEST = 10.0
"""Temperatures lie between this and its inverse."""
DOUBT = 0.5
"""Standard deviation, before any image is seen, of the logarithm of a temperature around 0."""


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature by which logits must be divided, so that probabilities fit the labels.

    Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2): the likeliest temperature
    given the labels. Of images that are all recognized none is likely but 0, which would
    claim certainty; so a temperature near 1 is likelier beforehand (a log-normal distribution),
    which counts for little against a hundred images.

    Args:
        logits: float [N, num_classes], of images that the model was not trained on.
        labels: Integers [N].

    Returns:
        Above 1 where the model is over-confident; 1 without images.
    """
    from scipy.optimize import minimize_scalar  # Half a second that only a training's end has.

    logits = np.asarray(logits, np.float64)
    own = logits[np.arange(len(labels)), labels]

    def unlikelihood(log: float) -> float:
        scaled = logits * np.exp(-log)
        largest = scaled.max(-1, initial=-np.inf)
        total = np.log(np.exp(scaled - largest[:, None]).sum(-1)) + largest
        return float((total - own * np.exp(-log)).sum() + 0.5 * (log / DOUBT) ** 2)

    bounds = (-np.log(WIDEST), np.log(WIDEST))
    found = minimize_scalar(unlikelihood, bounds=bounds, method="bounded")
    return float(np.exp(found.x)) if len(labels) else 1.0


def calibration(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0, bins: int = BINS
) -> dict[str, Any]:
    """Expected calibration error, and what it is the mean of.

    Images are put into bins of equal width by the probability of their likeliest class; the
    error is the mean distance between that probability and the accuracy of a bin, weighted by its
    images (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Args:
        logits: float [N, num_classes]; probabilities are the softmax of them over temperature.
        labels: Integers [N].
        temperature: See `fit_temperature`.
        bins: How many.

    Returns:
        {"expected_calibration_error", "uncalibrated_error" (the same at temperature 1),
        "confidence" (the mean probability of the likeliest class), "bins"}; of each bin that has
        images {"from", "to", "count", "confidence", "accuracy"}.
    """
    logits = np.asarray(logits, np.float64)
    before = None
    if temperature != 1:
        before = calibration(logits, labels, bins=bins)["expected_calibration_error"]
    logits = logits / temperature
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
        "uncalibrated_error": gaps / count if before is None else before,
        "confidence": float(confidence.sum() / count),
        "bins": listed,
    }


def probabilities(
    logits: np.ndarray, temperature: float = 1.0, *, several: bool = False
) -> np.ndarray:
    """Softmax of logits over temperature along the last axis, in float32.

    Args:
        logits: float [..., num_classes].
        temperature: See `fit_temperature`.
        several: Whether images may have several classes: then each has the sigmoid of its logit.
    """
    import jax  # Late: who draws does without.

    if several:
        return multilabel.sigmoid(logits)
    return np.asarray(jax.nn.softmax(logits.astype(np.float32) / np.float32(temperature)))
