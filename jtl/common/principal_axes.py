"""The main directions of vectors, by the smaller of two products of matrices."""

from __future__ import annotations

import numpy as np

_NOTHING = 1e-10
"""The share of the largest variance below which there is only rounding."""


def principal_axes(centered: np.ndarray, most: int) -> np.ndarray:
    """The directions in which vectors vary the most, as the singular value decomposition has them.

    Eigenvectors of the smaller product take a tenth of its time, and are exact enough for
    directions whose variance is not many magnitudes below the largest.

    Args:
        centered: float [N, D], of mean zero.
        most: How many directions.

    Returns:
        float [D, up to `most`], of length 1 and at right angles, the largest first; only those in
        which there is any variance.
    """
    from scipy.linalg import eigh

    x = centered.astype(np.float64)
    wide = x.shape[1] > x.shape[0]
    product = x @ x.T if wide else x.T @ x
    size = len(product)
    if not size:
        return np.zeros((x.shape[1], 0), centered.dtype)
    values, vectors = eigh(product, subset_by_index=[max(0, size - most), size - 1])
    kept = np.flatnonzero(values > _NOTHING * max(values[-1], np.finfo(np.float64).tiny))[::-1]
    axes = vectors[:, kept]
    if wide:
        axes = x.T @ axes / np.sqrt(values[kept])
    return axes.astype(centered.dtype)
