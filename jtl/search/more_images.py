"""What more images would gain: a linear probe of a part of them, from cached features."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jtl.common.progress import Display
from jtl.data.multilabel import rows_by_class
from jtl.optim import lbfgs
from jtl.train import linear_probe
from jtl.train.setup import Setup, feature_cache, head_fits

PARTS = ((0.25, 2), (0.5, 2), (1.0, 1))
"""Shares of the training images, and how many random parts of that size are averaged over."""
PENALTIES = lbfgs.GRID[::4]


def learning_curve(setup: Setup, display: Display) -> list[dict[str, Any]]:
    """Validation accuracy of linear probes of growing parts of the training images.

    Args:
        setup: A linear probe, whose features are in the cache.
        display: Where progress goes.

    Returns:
        {"share", "images", "val_accuracy"} of each part; nothing where the head is no linear one
        or the features do not fit in memory.
    """
    linear = setup.config.model.head in ("linear", "append")
    if not linear or not head_fits(setup.config, setup.variables, setup.dataset):
        return []
    cache = feature_cache(setup, display)
    train, val = (linear_probe.before_head(setup, cache, None, name) for name in ("train", "val"))
    labels, classes = setup.dataset.train.labels, len(setup.dataset.class_names)
    random, found = np.random.default_rng(setup.config.train.seed), []
    for share, times in PARTS:
        reached = []
        for _ in range(times):
            rows = part(labels, share, random)
            path = lbfgs.fit_path(
                (train[rows], jnp.asarray(labels[rows])),
                (val, jnp.asarray(setup.dataset.val.labels)),
                classes,
                PENALTIES,
                setup.class_weights,
            )
            reached.append(lbfgs.best(path).val_accuracy)
        mean = float(np.mean(reached))
        found.append({"share": share, "images": len(rows), "val_accuracy": mean})
    return found


def part(labels: np.ndarray, share: float, random: np.random.Generator) -> np.ndarray:
    """Indices of a share of the images, the same share of every class, at least one of each."""
    rows = [
        random.permutation(members)[: max(round(share * len(members)), 1)]
        for _, members in rows_by_class(labels)
    ]
    return np.sort(np.concatenate(rows))
