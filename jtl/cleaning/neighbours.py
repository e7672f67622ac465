"""Images that are nearly the same, and images that are unlike all others of their class.

Both are measured by the cosine of the angle between features, after the mean of all features is
subtracted: without that, features of photographs point in nearly one direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jtl.data.multilabel import rows_by_class

NEAR = 0.95
"""The cosine from which on two images are near-duplicates."""
NEIGHBOURS = 5
"""Of its class, to which an image's distance is measured."""
FEWEST = 20
"""Images of a class in which some can be outliers."""
FAR = 5.0
"""Robust standard deviations above the median distance from which on an image is an outlier."""
_BLOCK = 2**25
"""Cosines that are held at a time: 128 MB."""


class Pair(NamedTuple):
    """Two images that are nearly the same: `row` is less than `other`."""

    row: int
    other: int
    score: float


class Outlier(NamedTuple):
    """An image unlike those of its class: as many times the usual distance away from them."""

    row: int
    score: float


def directions(features: np.ndarray) -> np.ndarray:
    """Features without their mean, of length 1: float32 [N, C]."""
    centred = features - features.mean(0, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def near_duplicates(
    units: np.ndarray,
    splits: np.ndarray,
    advance: Callable[[int], Any] = lambda _: None,
    near: float = NEAR,
) -> list[Pair]:
    """For every image the one most like it, of all and of the other splits; the likest first.

    Args:
        units: As `directions` gives them.
        splits: The split of every image [N].
        advance: Told of every few images that are done.
        near: The least cosine.
    """
    found: dict[tuple[int, int], float] = {}
    several = len(np.unique(splits)) > 1
    for start, cosines in _blocks(units, units):
        rows = np.arange(start, start + len(cosines))
        cosines[np.arange(len(rows)), rows] = -1.0  # Itself.
        kinds = [cosines]
        if several:
            kinds.append(np.where(splits[rows][:, None] != splits.reshape(1, -1), cosines, -1.0))
        for values in kinds:
            best = values.argmax(1)
            score = values[np.arange(len(rows)), best]
            for at in np.flatnonzero(score >= near).tolist():
                pair = sorted((int(rows[at]), int(best[at])))
                found[pair[0], pair[1]] = min(float(score[at]), 1.0)
        advance(len(rows))
    pairs = [Pair(row, other, score) for (row, other), score in found.items()]
    return sorted(pairs, key=lambda pair: (-pair.score, pair.row, pair.other))


def outliers(units: np.ndarray, labels: np.ndarray, far: float = FAR) -> list[Outlier]:
    """Images far from the nearest others of their class, the farthest first.

    The distance is the mean over `NEIGHBOURS`; far is what is so by the median and the median
    deviation of the logarithms of the class's distances.

    Args:
        units: As `directions` gives them.
        labels: The class of every image, int [N].
        far: In robust standard deviations.
    """
    found = []
    for _, members in rows_by_class(labels):
        if len(members) < FEWEST:
            continue
        own, distances = units[members], np.empty(len(members))
        for start, cosines in _blocks(own, own):
            rows = np.arange(len(cosines))
            cosines[rows, start + rows] = -np.inf
            nearest = np.partition(cosines, -NEIGHBOURS, axis=1)[:, -NEIGHBOURS:]
            distances[start : start + len(rows)] = 1 - nearest.mean(1)
        logs = np.log(np.maximum(distances, 1e-6))
        middle = np.median(logs)
        spread = 1.4826 * np.median(np.abs(logs - middle))
        for at in np.flatnonzero(logs > middle + far * max(spread, 0.05)).tolist():
            found.append(Outlier(int(members[at]), float(np.exp(logs[at] - middle))))
    return sorted(found, key=lambda outlier: (-outlier.score, outlier.row))


def _blocks(units: np.ndarray, others: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, cosines of some rows with all others [n, M]), one after the other."""
    step = max(_BLOCK // max(len(others), 1), 1)
    for start in range(0, len(units), step):
        yield start, units[start : start + step] @ others.T
