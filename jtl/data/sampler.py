"""Which images an epoch trains on, in which order and draw: of the seed and the epoch alone."""

from __future__ import annotations

import numpy as np

from jtl.data.multilabel import pairs, rows_by_class


def batches_of(
    labels: np.ndarray, batch_size: int, seed: int, epoch: int, *, balanced: bool
) -> np.ndarray:
    """The batches of one training epoch, of every class as many images if `balanced`.

    Else as of `shuffled`, whose other arguments it has; then an index may be there several times.
    """
    if not balanced:
        return shuffled(len(labels), batch_size, seed, epoch)
    order = balanced_order(labels, seed, epoch)
    batch_size = min(batch_size, len(order))
    steps = len(order) // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


def shuffled(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The batches of one training epoch: int32 [steps, batch_size], every index at most once.

    The order depends on seed and epoch alone, so an epoch that was left after k batches goes on
    with those from k on. A last incomplete batch is left out, as its batch statistics would weigh
    a few examples like many; another epoch leaves out others.
    """
    batch_size = min(batch_size, count)
    order = np.random.default_rng([seed, epoch]).permutation(count).astype(np.int32)
    steps = count // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


def balanced_order(labels: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The images of one epoch, as many as there are, of every class as many: int32 [N].

    Those of a class come again only when all of it have come. Images of several classes are drawn
    for each of them, those of none as a class of their own. Depends on seed and epoch alone.

    Args:
        labels: Of the training images; see `jtl.data.multilabel`.
        seed: Of the run.
        epoch: From 1 on.
    """
    random = np.random.default_rng([seed, epoch, 1])
    images, classes = pairs(labels)
    by_class = [images[rows] for _, rows in rows_by_class(classes)]
    total, count = len(labels), len(by_class)
    # What cannot be divided goes to classes drawn anew in each epoch.
    quota = np.full(count, total // count)
    quota[random.permutation(count)[: total % count]] += 1
    drawn = []
    for members, wanted in zip(by_class, quota.tolist(), strict=True):
        rounds = [random.permutation(members) for _ in range(-(-wanted // len(members)))]
        drawn.append(np.concatenate(rounds or [members])[:wanted])
    return random.permutation(np.concatenate(drawn)).astype(np.int32)


def draw_of(epoch: int, views: int) -> int:
    """Which random draw of the images an epoch sees, from 1 on: `views` by turns; 0 for new ones.

    Args:
        epoch: From 1 on.
        views: How many draws there are; 0 where every epoch has its own.
    """
    return (epoch - 1) % views + 1 if views else epoch
