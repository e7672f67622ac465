"""Classes of very different sizes: the weights that make all of them count the same."""

from __future__ import annotations

import numpy as np


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The weight of every class in the loss that makes all classes count the same.

    N / (K * n) for a class with n of the N images, as in scikit-learn; K counts the classes that
    have any, and the others weigh 0. Over all images the weights average 1, so that learning
    rates and penalties keep their meaning.

    Args:
        labels: Of the training images, integers [N].
        num_classes: Length of the result.

    Returns:
        float32 [num_classes].
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights
