"""Training images in several parts, each of which validates once what is trained on the others."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.config.data import fold_of
from jtl.data.multilabel import class_counts, is_multilabel, pairs, rows_by_class

_MANY = 5
"""Folds; with fewer, labels that share images may have no way to be in several."""


class Fold(NamedTuple):
    """The images of one fold.

    Attributes:
        train: All parts but one, one after the other.
        val: That one.
        parts: Those of `train`, which other folds have, too.
        note: What a user should know.
    """

    train: Any
    val: Any
    parts: tuple[Any, ...]
    note: str


def fold(
    split: Any,
    which: str,
    seed: int,
    class_names: tuple[str, ...],
    groups: Mapping[str, str] | None = None,
) -> Fold:
    """One of several folds of training images.

    Args:
        split: The training images.
        which: As of `--fold`, such as "2/5".
        seed: Divides them, not negative.
        class_names: The name of every class.
        groups: The group of every image by name; no group is divided.

    Raises:
        UserError: Some class is in one fold alone, so that it could not be learned without it.
    """
    number, count = fold_of(which)
    of_image = None
    if groups:
        _, of_image = np.unique([groups[name] for name in split.names], return_inverse=True)
    place = assigned(split.labels, count, seed, of_image)
    parts = [split.subset(np.flatnonzero(place == part)) for part in range(count)]
    total = class_counts(split.labels, len(class_names))
    alone = {
        name
        for part in parts
        for name, here, all_of in zip(
            class_names, class_counts(part.labels, len(class_names)), total, strict=True
        )
        if here and here == all_of
    }
    what = "groups" if groups else "images"
    if alone or not all(map(len, parts)):
        raise UserError(
            f"{count} folds cannot be made: "
            + (
                f"each class needs {what} in at least two, and these have them in one alone: "
                f"{listed(sorted(alone))}. If they have several, try another --split-seed"
                f"{' or more folds' if count < _MANY else ''}."
                if alone
                else f"there are fewer {what}. Use fewer folds."
            )
        )
    others = [part for index, part in enumerate(parts) if index != number - 1]
    order = np.concatenate([np.flatnonzero(place == p) for p in range(count) if p != number - 1])
    val = parts[number - 1]
    told = "groups undivided, stratified as well as they allow" if groups else "stratified"
    note = (
        f"Fold {number} of {count}: {len(val):,} of {len(split):,} training images held out "
        f"({told}, seed {seed})."
    )
    return Fold(split.subset(order), val, tuple(others), note)


def assigned(
    labels: np.ndarray, count: int, seed: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """The fold of every image, from 0 on: int [N].

    Args:
        labels: See `jtl.data.multilabel`.
        count: Of folds.
        seed: Not negative.
        groups: The group of every image, from 0 on; None where each is one by itself.
    """
    random = np.random.default_rng((seed, 2))
    if groups is None and not is_multilabel(labels):
        place, start = np.empty(len(labels), np.int64), 0
        for _, rows in rows_by_class(labels):
            members = random.permutation(rows)
            # Each class begins where the one before has ended, so that folds are of one size.
            place[members] = (start + np.arange(len(members))) % count
            start += len(members)
        return place
    owners = np.arange(len(labels)) if groups is None else groups
    return _dealt(labels, owners, count, random)[owners]


def _dealt(
    labels: np.ndarray, owners: np.ndarray, count: int, random: np.random.Generator
) -> np.ndarray:
    """The fold of every group: those with rare classes first, to where these are fewest so far."""
    images, classes = pairs(labels)
    owned, times = np.unique(np.stack([owners[images], classes]), axis=1, return_counts=True)
    total = np.bincount(classes)
    ends = np.searchsorted(owned[0], np.arange(owners.max() + 2)).tolist()
    contents = [(owned[1, a:b], times[a:b]) for a, b in itertools.pairwise(ends)]
    rarest = [int(total[own].min()) for own, _ in contents]
    shuffled = random.permutation(len(contents)).tolist()
    order = sorted(shuffled, key=lambda unit: (rarest[unit], -int(contents[unit][1].sum())))
    held, sizes = np.zeros((count, len(total))), np.zeros(count)
    place = np.empty(len(contents), np.int64)
    for unit in order:
        own, number = contents[unit]
        # The rarer a class, the more its share counts.
        burden = (held[:, own] * number / total[own].astype(float) ** 2).sum(1)
        chosen = min(range(count), key=lambda fold: (round(burden[fold], 12), sizes[fold]))
        held[chosen, own] += number
        sizes[chosen] += number.sum()
        place[unit] = chosen
    return place
