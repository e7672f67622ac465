"""Classes of very different sizes: the weights that make all of them count the same."""

from __future__ import annotations

import numpy as np


def positive_weights(labels: np.ndarray) -> np.ndarray:
    """The weight of having each class in the loss that makes it count as much as not having it.

    (N - n) / n for a class that n of the N images have, as for PyTorch's `pos_weight`; 1 for one
    that none has.

    Args:
        labels: Of the training images, uint8 [N, K].

    Returns:
        float32 [K].
    """
    counts = labels.sum(0, dtype=np.int64)
    weights = (len(labels) - counts) / np.maximum(counts, 1)
    return np.where((counts > 0) & (counts < len(labels)), weights, 1).astype(np.float32)


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
