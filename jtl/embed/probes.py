"""How well features tell classes apart: a k-nearest-neighbour and a linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jtl.data.multilabel import is_multilabel
from jtl.optim import lbfgs

NEIGHBOURS = (1, 3, 5, 10, 20)
"""Numbers of neighbours that are tried on the training images."""
_BLOCK = 2**24
"""Cosines that are held at a time: 64 MB."""


def accuracies(
    units: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
    splits: Sequence[str],
    num_classes: int,
) -> dict[str, Any] | None:
    """The accuracy of both probes on the images that they were not fitted on.

    The number of neighbours is the best of `NEIGHBOURS` for the training images, each without
    itself; the linear probe's penalty is the best for the validation images, as in training.

    Args:
        units: Directions of the features, float32 [N, C], of length 1.
        features: float32 [N, C].
        labels: int [N].
        splits: "train", "val" or "test" of every image.
        num_classes: K.

    Returns:
        {"k", "knn": {"val", "test"}, "linear": {"val", "test"}, "l2"}; None where images have
        several classes, or a split is missing.
    """
    where = np.array(splits)
    rows = {name: np.flatnonzero(where == name) for name in ("train", "val", "test")}
    if is_multilabel(labels) or len(rows["train"]) < 2 or not len(rows["val"]):
        return None
    others = [name for name in ("val", "test") if len(rows[name])]
    train = rows["train"]
    own = labels[train]
    votes = nearest_labels(units[train], units[train], own, num_classes, itself=True)
    scores = {k: float(np.mean(classes == own)) for k, classes in votes.items()}
    k = max(scores, key=lambda k: (scores[k], k))
    found: dict[str, Any] = {"k": k, "knn": {}, "linear": {}}
    for name in others:
        classes = nearest_labels(units[rows[name]], units[train], own, num_classes)[k]
        found["knn"][name] = float(np.mean(classes == labels[rows[name]]))
    parts = {name: (jnp.asarray(features[r]), jnp.asarray(labels[r])) for name, r in rows.items()}
    fit = lbfgs.best(lbfgs.fit_path(parts["train"], parts["val"], num_classes))
    for name in others:
        classes = np.argmax(features[rows[name]] @ fit.kernel + fit.bias, -1)
        found["linear"][name] = float(np.mean(classes == labels[rows[name]]))
    return {**found, "l2": fit.l2}


def nearest_labels(
    units: np.ndarray,
    known: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    itself: bool = False,
) -> dict[int, np.ndarray]:
    """The class that most of the nearest neighbours have, by the number of neighbours.

    Each counts as much as its cosine, so that equal numbers of votes decide nothing by chance.

    Args:
        units: float32 [N, C], of length 1.
        known: The neighbours, float32 [M, C].
        labels: Of the neighbours, int [M].
        num_classes: K.
        itself: Whether the neighbours are the images themselves; none is its own neighbour then.

    Returns:
        {k: classes int [N]}, for those of `NEIGHBOURS` of which there are enough.
    """
    counts = [k for k in NEIGHBOURS if k <= len(known) - itself]
    found: dict[int, list[np.ndarray]] = {k: [] for k in counts}
    step = max(_BLOCK // len(known), 1)
    for start in range(0, len(units), step):
        cosines = units[start : start + step] @ known.T
        rows = np.arange(len(cosines))
        if itself:
            cosines[rows, start + rows] = -np.inf
        order = top(cosines, counts[-1])
        weights = 1 + np.take_along_axis(cosines, order, 1)  # From 0, opposite, to 2.
        for k in counts:
            votes = np.zeros((len(cosines), num_classes))
            np.add.at(votes, (rows[:, None], labels[order[:, :k]]), weights[:, :k])
            found[k].append(votes.argmax(1))
    return {k: np.concatenate(each) for k, each in found.items()}


def top(cosines: np.ndarray, count: int) -> np.ndarray:
    """The columns of the largest values of every row, the largest first: int [N, count]."""
    count = min(count, cosines.shape[1])
    part = np.argpartition(-cosines, count - 1, 1)[:, :count]
    within = np.take_along_axis(cosines, part, 1)
    # Equal ones in their order, so that the same is found every time.
    order = np.lexsort((part, -within), 1)
    return np.take_along_axis(part, order, 1)
