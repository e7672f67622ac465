"""L-BFGS where images have several classes: a logistic regression for each."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from jtl.optim import lbfgs


@pytest.mark.parametrize("weighted", [False, True])
def test_each_class_is_a_logistic_regression(weighted: bool):
    random = np.random.default_rng(0)
    features = random.normal(1, 1, (150, 6)).astype(np.float32)
    noise = random.logistic(0, 1, (150, 3))
    labels = (features @ random.normal(0, 1, (6, 3)) + noise > [0, 1, 3]).astype(np.uint8)
    weights = (len(labels) - labels.sum(0)) / labels.sum(0)
    both = (jnp.asarray(features), jnp.asarray(labels))
    l2 = 0.01
    [found] = lbfgs.fit_path(both, both, 3, (l2,), weights.astype(np.float32) if weighted else None)
    for k in range(3):
        chances = {0: 1.0, 1: weights[k]} if weighted else None
        peer = LogisticRegression(
            C=1 / (len(features) * l2), tol=1e-9, max_iter=1000, class_weight=chances
        ).fit(features, labels[:, k])
        np.testing.assert_allclose(found.kernel[:, k], peer.coef_[0], atol=2e-3)
        np.testing.assert_allclose(found.bias[k], peer.intercept_[0], atol=4e-3)
    logits = features @ found.kernel + found.bias
    assert found.val_accuracy == pytest.approx(((logits > 0) == labels).all(1).mean())
