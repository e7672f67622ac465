"""Labels that are likely wrong: what a classifier says that was not trained on the image.

Confident learning (Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in
Dataset Labels, 2021): an image counts for a class if the class's probability is at least as high as
it is on average for images labelled so. As many labels are taken for wrong as there are images that
count for another class than their label, and of all images those whose labels have the least
probability. cleanlab's `low_self_confidence` finds the same; its pandas and scikit-learn would be
large dependencies for this. Its other rules found fewer of the labels of photographs that were
changed for a test (docs/data.md), among more that were right.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jtl.data import folds
from jtl.data.multilabel import is_multilabel
from jtl.optim import lbfgs
from jtl.runs import metrics

FOLDS = 5
_SURE = 0.1
"""Below this probability a label always counts as wrong: where classes are told apart well,
half of the wrong labels do not count, as their images are less typical than the average."""
_FEWEST = 2
"""Images of a class, or groups with it, from which its labels can be judged."""


class Suspect(NamedTuple):
    """An image whose label is likely wrong.

    Attributes:
        row: Which.
        suggested: The class, or classes, that it seems to have.
        score: How sure that is: 1 less the probability of the label.
    """

    row: int
    suggested: tuple[int, ...]
    score: float


def find(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    groups: np.ndarray | None = None,
    seed: int = 0,
    advance: Callable[[int], Any] = lambda _: None,
) -> list[Suspect]:
    """The images whose labels are likely wrong, the surest first.

    Args:
        features: float32 [N, C].
        labels: See `jtl.data.multilabel`.
        num_classes: K.
        groups: The group of every image; those of one group are not judged by one another.
        seed: Divides the folds.
        advance: Told of every fold that is done.
    """
    place = folds.assigned(labels, FOLDS, seed, groups)
    shares, known = out_of_fold(features, labels, num_classes, place, advance)
    suspects = _of_sets(shares, labels, known) if is_multilabel(labels) else None
    if suspects is None:
        suspects = _of_classes(shares, labels, known[np.arange(len(labels)), labels])
    return sorted(suspects, key=lambda suspect: -suspect.score)


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    place: np.ndarray,
    advance: Callable[[int], Any] = lambda _: None,
) -> tuple[np.ndarray, np.ndarray]:
    """What linear probes of the other folds say of the images of each.

    The penalty is the best of the first fold, by its loss.

    Args:
        features: float32 [N, C].
        labels: See `jtl.data.multilabel`.
        num_classes: K.
        place: The fold of every image.
        advance: Told of every fold that is done.

    Returns:
        (probabilities float32 [N, K]; whether the other folds had images of the class, and for
        several labels images without it, bool [N, K]).
    """
    shares = np.zeros((len(labels), num_classes), np.float32)
    known = np.zeros((len(labels), num_classes), bool)
    several, penalties = is_multilabel(labels), lbfgs.GRID
    scale = np.sqrt(np.mean(np.var(features, 0))) or 1.0  # Penalties are for features of one size.
    for fold in np.unique(place):
        held = place == fold
        if held.all():  # One group has everything.
            break
        train, val = ((jnp.asarray(features[rows] / scale), jnp.asarray(labels[rows]))
                      for rows in (~held, held))  # fmt: skip
        path = lbfgs.fit_path(train, val, num_classes, penalties, score=_likelihood)
        fit = lbfgs.best(path)
        penalties = (fit.l2,)
        logits = np.asarray(val[0]) @ fit.kernel + fit.bias
        shares[held] = _sigmoid(logits) if several else _softmax(logits)
        counts = labels[~held] if several else np.eye(num_classes, dtype=np.uint8)[labels[~held]]
        known[held] = counts.any(0) & (not several or ~counts.all(0))
        advance(1)
    return shares, known


def _likelihood(logits: np.ndarray, labels: np.ndarray) -> float:
    return metrics.measure("loss", logits, labels)


def _of_classes(shares: np.ndarray, labels: np.ndarray, judged: np.ndarray) -> list[Suspect]:
    """Of images with one class each."""
    own = shares[np.arange(len(labels)), labels]
    count = np.bincount(labels[judged], minlength=shares.shape[1])
    total = np.bincount(labels[judged], own[judged], minlength=shares.shape[1])
    usual = np.where(count >= _FEWEST, total / np.maximum(count, 1), np.inf)
    counted = np.where(shares >= usual.reshape(1, -1), shares, -1.0)
    errors = judged & (counted.max(1) > own) & (counted.argmax(1) != labels)
    best = shares.argmax(1)
    rows = _least(own, judged & (best != labels), int(errors.sum()))
    return [Suspect(row, (int(best[row]),), float(1 - own[row])) for row in rows.tolist()]


def _of_sets(shares: np.ndarray, labels: np.ndarray, known: np.ndarray) -> list[Suspect]:
    """Of images with several classes, each of which may be wrong by itself."""
    has = labels > 0
    own, other = np.where(has, shares, 1 - shares), np.where(has, 1 - shares, shares)
    usual = np.empty((2, shares.shape[1]))
    for value, which in enumerate((~has & known, has & known)):
        count = which.sum(0)
        mean = (own * which).sum(0) / np.maximum(count, 1)
        usual[value] = np.where(count >= _FEWEST, mean, np.inf)
    counted = np.where(has, usual[0].reshape(1, -1), usual[1].reshape(1, -1)) <= other
    errors = known & counted & (other > own)
    chosen = _least(own.ravel(), (known & (other > own)).ravel(), int(errors.sum()))
    wrong = np.zeros(own.size, bool)
    wrong[chosen] = True
    wrong = wrong.reshape(own.shape)
    return [
        Suspect(
            row,
            tuple(np.flatnonzero(has[row] ^ wrong[row]).tolist()),
            float(1 - own[row][wrong[row]].min()),
        )
        for row in np.flatnonzero(wrong.any(1)).tolist()
    ]


def _least(own: np.ndarray, candidates: np.ndarray, count: int) -> np.ndarray:
    """Of the candidates as many as are counted: those whose labels have the least probability."""
    rows = np.flatnonzero(candidates)
    count = max(count, int((own[rows] < _SURE).sum()))
    return rows[np.argsort(own[rows], kind="stable")[:count]]


def _softmax(logits: np.ndarray) -> np.ndarray:
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
