"""Validation and test images that are held out of training images, groups undivided."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.multilabel import is_multilabel, pairs, rows_by_class

FEW = 20
"""Images: of fewer, all of which are recognized, accuracy may as well be below 84 %."""
NO_VALIDATION = (
    "There is no validation split: jtl train will set aside 20 % of the training images for "
    "validation."
)
_TRIES, _MOST_GROUPS = 10, 5000
"""Orders of the groups that are tried, where there are not too many of them."""


def hold_out(
    split: Any, seed: int, fraction: float, groups: Mapping[str, str] | None = None
) -> tuple[Any, Any, str]:
    """Train and validation parts of a split, and the sentence that says so.

    The same share of every class is held out, chosen by the seed.

    Args:
        split: The training images.
        seed: Not negative.
        fraction: The share to hold out, between 0 and 1.
        groups: The group of every image by name; no group is divided.

    Raises:
        UserError: Every class has a single image, or is in a single group.
    """
    train, val, told = _divided(split, np.random.default_rng(seed), fraction, groups)
    if not len(val):
        raise UserError(
            f"There is no validation split, and none can be held out of train: {_whole(groups)}. "
            "Add images, or a validation split (a val/ folder, say)."
        )
    note = (
        f"No validation split found: held out {len(val):,} of {len(split):,} training images "
        f"({fraction * 100:g} %, {told}, seed {seed})."
    )
    return train, val, note


def hold_out_test(
    split: Any, seed: int, fraction: float, groups: Mapping[str, str] | None = None
) -> tuple[Any, Any, str]:
    """Train and test parts of a split, and the sentence that says so; as `hold_out`."""
    random = np.random.default_rng((seed, 1))  # Other images than those for validation.
    train, test, told = _divided(split, random, fraction, groups)
    if not len(test):
        raise UserError(
            f"--test-split {fraction}: nothing can be held out, as {_whole(groups)}. Add images, "
            "or leave it out."
        )
    note = (
        f"Held out {len(test):,} of {len(split):,} training images for the test "
        f"({fraction * 100:g} %, {told}, seed {seed})."
    )
    return train, test, note


def too_few(splits: Mapping[str, Any]) -> list[str]:
    """A sentence if there are, or will be, too few validation images."""
    count = len(splits["val"]) if "val" in splits else round(len(splits["train"]) / 5)
    if count >= FEW:
        return []
    return [
        f"{counted(count, 'validation image')}: too few to choose a model by. Add more validation "
        f"images, so that there are at least {FEW}."
    ]


def _whole(groups: Mapping[str, str] | None) -> str:
    """Why nothing can be held out."""
    return f"every class {'is in a single group' if groups else 'has a single image'}"


def refuse_divided(splits: Mapping[str, Any], groups: Mapping[str, str]) -> None:
    """Raises `UserError` if the source's own splits divide groups."""
    seen: dict[str, str] = {}
    divided: dict[str, str] = {}
    for split, images in splits.items():
        for group in dict.fromkeys(groups[name] for name in images.names):
            if seen.setdefault(group, split) != split:
                divided.setdefault(group, f"{group} (in {seen[group]} and {split})")
    if divided:
        raise UserError(
            f"{counted(len(divided), 'group')} in several splits: {listed(divided.values(), 5)}. "
            "Scores on images of a group that was trained on say little about others. Correct the "
            "splits, or leave out --group-column and --group-from."
        )


def _divided(
    split: Any, random: np.random.Generator, fraction: float, groups: Mapping[str, str] | None
) -> tuple[Any, Any, str]:
    if groups:
        _, of_image = np.unique([groups[name] for name in split.names], return_inverse=True)
        held_out = _by_groups(split.labels, of_image, random, fraction)
        count = len(np.unique(of_image[held_out]))
        told = f"{count:,} of {of_image.max() + 1:,} groups, stratified as well as they allow"
    elif is_multilabel(split.labels):
        held_out, told = _by_label_sets(split.labels, random, fraction), "stratified by class"
    else:
        held_out, told = _by_images(split.labels, random, fraction), "stratified"
    train, held = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return split.subset(train), split.subset(held), told


def _by_images(labels: np.ndarray, random: np.random.Generator, fraction: float) -> np.ndarray:
    """The images to hold out, bool [N]."""
    held_out = np.zeros(len(labels), dtype=bool)
    for _, members in rows_by_class(labels):
        # Both parts get an image of every class that has two; train comes first.
        count = min(max(math.floor(len(members) * fraction + 0.5), 1), len(members) - 1)
        held_out[random.permutation(members)[:count]] = True
    return held_out


def _by_label_sets(labels: np.ndarray, random: np.random.Generator, fraction: float) -> np.ndarray:
    """The images to hold out, bool [N], where they have several classes.

    Iterative stratification (Sechidis et al. 2011): the rarest class first, as the common ones can
    still be evened out by images without it.

    Args:
        labels: uint8 [N, K].
        random: Draws the images.
        fraction: The share of every class, and of the images of none, to hold out.
    """
    images, classes = pairs(labels)
    total = np.bincount(classes, minlength=labels.shape[1] + 1)
    held, held_out, decided = np.zeros_like(total), *np.zeros((2, len(labels)), bool)
    order = np.argsort(classes, kind="stable")
    of_class = np.split(images[order], np.cumsum(total)[:-1])
    for label in np.argsort(total, kind="stable"):
        members = of_class[label][~decided[of_class[label]]]
        decided[of_class[label]] = True
        most = min(max(math.floor(total[label] * fraction + 0.5), 1), total[label] - 1)
        for image in random.permutation(members):
            if held[label] >= most:
                break
            own = np.append(labels[image], not labels[image].any()).astype(bool)
            if (held[own] + 1 < total[own]).all():  # Train keeps images of every class.
                held[own] += 1
                held_out[image] = True
    return held_out


def _by_groups(
    labels: np.ndarray, groups: np.ndarray, random: np.random.Generator, fraction: float
) -> np.ndarray:
    """The images to hold out, bool [N], in whole groups.

    Groups are taken in a random order wherever that brings the classes closer to their shares, as
    long as train keeps some of each; of several orders the best counts. scikit-learn's
    StratifiedGroupKFold gives only shares of 1 / k, and is no dependency.

    Args:
        labels: The classes of every image; see `jtl.data.multilabel`.
        groups: int [N], the group of every image, from 0 on.
        random: Draws the orders.
        fraction: The share of every class to hold out.
    """
    images, classes = pairs(labels)
    owned, counts = np.unique(np.stack([groups[images], classes]), axis=1, return_counts=True)
    ends = np.searchsorted(owned[0], np.arange(groups.max() + 2))
    contents = [
        list(zip(owned[1, a:b].tolist(), counts[a:b].tolist(), strict=True))
        for a, b in itertools.pairwise(ends.tolist())
    ]
    total = np.bincount(classes).tolist()
    tries = _TRIES if len(contents) <= _MOST_GROUPS else 1
    orders = [random.permutation(len(contents)).tolist() for _ in range(tries)]
    found = [_taken(contents, order, total, fraction) for order in orders]
    taken = min(found, key=lambda one: one[0])[1]
    return np.isin(groups, taken)


def _taken(
    contents: Sequence[Sequence[tuple[int, int]]],
    order: Sequence[int],
    total: Sequence[int],
    fraction: float,
) -> tuple[float, list[int]]:
    """How far the shares are off, and the groups to hold out, taken in an order."""
    held, taken, off = [0] * len(total), [], sum(fraction**2 * count for count in total)
    smallest: tuple[float, list[int]] = (math.inf, [])
    for group in order:
        content = contents[group]
        if any(held[label] + count >= total[label] for label, count in content):
            continue  # Train keeps images of every class.
        change = sum(
            count * (2 * (held[label] - fraction * total[label]) + count) / total[label]
            for label, count in content
        )
        smallest = min(smallest, (off + change, [group]))
        if change < 0:
            off += change
            taken.append(group)
            for label, count in content:
                held[label] += count
    return (off, taken) if taken else smallest
