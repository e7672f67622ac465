"""Main directions, beside the singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from jtl.common.principal_axes import principal_axes


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (30, 30), (1, 5), (4, 9)])
def test_they_are_those_of_the_decomposition(shape: tuple[int, int]):
    x = np.random.default_rng(0).normal(size=shape) * np.linspace(1, 3, shape[1])
    x = (x - x.mean(0)).astype(np.float32)
    axes = principal_axes(x, 6)
    wanted = np.linalg.svd(x.astype(np.float64), full_matrices=False)[2]
    # Rows of mean zero have a direction less than there are rows.
    count = min(6, shape[0] - 1, shape[1])
    assert axes.shape == (shape[1], count)
    assert axes.dtype == np.float32
    np.testing.assert_allclose(np.abs(wanted[:count] @ axes), np.eye(count), atol=2e-4)


def test_vectors_that_are_all_the_same_have_none():
    assert principal_axes(np.zeros((5, 3), np.float32), 2).shape == (3, 0)
