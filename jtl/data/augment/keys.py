"""Keys for everything that is drawn."""

from __future__ import annotations

import enum

import jax

_AUGMENTATION = 0x6A746C61
"""Sets augmentation apart from what else is drawn from a run's key, such as dropout."""
_BATCHES = 2**32 - 1
"""Where an epoch would stand: of what is drawn by batch."""


class Stream(enum.IntEnum):
    """What is drawn for an example; each has a key of its own.

    An option that is turned on or off therefore leaves the others' draws as they are. The
    numbers are part of what a seed means: only append.
    """

    CROP = 0
    FLIP = 1
    JITTER = 2
    POLICY = 3
    ERASING = 4


def example_keys(key: jax.Array, epoch: jax.Array | int, examples: jax.Array) -> jax.Array:
    """A key for every example.

    Args:
        key: Of the run.
        epoch: Number of the epoch, or of the view.
        examples: Indices of the examples in their split, int32 [N].

    Returns:
        Keys [N].
    """
    of_epoch = jax.random.fold_in(jax.random.fold_in(key, _AUGMENTATION), epoch)
    return jax.vmap(jax.random.fold_in, (None, 0))(of_epoch, examples)


def stream_keys(keys: jax.Array, stream: Stream) -> jax.Array:
    """The keys [N] of one stream of examples with `keys` [N]."""
    return jax.vmap(jax.random.fold_in, (0, None))(keys, int(stream))


def batch_key(key: jax.Array, step: jax.Array | int) -> jax.Array:
    """A key for what is drawn in a step for the batch as a whole."""
    of_batches = jax.random.fold_in(jax.random.fold_in(key, _AUGMENTATION), _BATCHES)
    return jax.random.fold_in(of_batches, step)
