"""A map of images: near each other where the network's features are alike."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence

import numpy as np

from jtl.common.principal_axes import principal_axes

LEAST = 3
"""Images of a map."""
_FEW = 50
"""Images below which neighbours say nothing that main directions do not."""
_DIRECTIONS = 50


def components(features: np.ndarray) -> np.ndarray:
    """The principal components of normalized features, the largest first: float [n, up to 50]."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(length, 1e-12)
    centered = unit - unit.mean(0)
    return centered @ principal_axes(centered, _DIRECTIONS)


def places(features: Sequence[Sequence[float]], *, neighbours: bool) -> tuple[np.ndarray, str]:
    """Where images are on the map, and how that was found.

    Args:
        features: As `components` gives them.
        neighbours: Whether to take seconds for t-SNE of scikit-learn (van der Maaten and Hinton
            2008), where that is installed and there are enough images; else they are where the two
            main directions put them.

    Returns:
        (float [n, 2], from 0 to 1 in both directions; the method's name).
    """
    values, found, method = np.asarray(features, np.float32), None, "PCA"
    if neighbours and len(values) >= _FEW:
        with contextlib.suppress(ImportError), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of what scikit-learn will change.
            from sklearn.manifold import TSNE
            from threadpoolctl import threadpool_limits

            # More threads spin more than they help: ten times the processor time for as long.
            with threadpool_limits(1):
                found = TSNE(init="pca", random_state=0).fit_transform(values)
            method = "t-SNE"
    if found is None:
        found = np.pad(values[:, :2], ((0, 0), (0, max(0, 2 - values.shape[1]))))
    low, high = found.min(0), found.max(0)
    return (found - low[None]) / np.maximum(high - low, 1e-9)[None], method
