"""From a split's images to batches on the device: in memory where they fit, else decoded.

Which examples a step sees is decided in one place, `batches_of`, by seed and epoch alone: the same
whether they are features on the device, features in a file, images in memory or files to decode.
So training can go on within an epoch (from batch k of it), and be divided among processes.
"""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from jtl.data.decoding import HostTransform
from jtl.data.sampler import draw_of
from jtl.data.splits import Split
from jtl.distributed.sharding import SINGLE, DataSharding


class Images:
    """A split's images as uint8 batches, held in memory or decoded batch by batch."""

    def __init__(
        self,
        split: Split,
        host: HostTransform | None,
        *,
        hold: bool,
        on_device: bool = False,
        sharding: DataSharding = SINGLE,
    ):
        """Takes a split and how to resize.

        Args:
            split: The images.
            host: As in `Split.read`.
            hold: Decodes all images now; else whenever a batch asks for them.
            on_device: Whether what is held lies in the devices' memory, not in the host's.
            sharding: The devices; each process decodes and holds its share.
        """
        self.labels = split.labels
        self._split = split
        self._host = host
        self._sharding = sharding
        self._held: np.ndarray | jax.Array | None = None
        if hold:
            count = len(split)
            held = split.read(np.asarray(sharding.local_rows(count)), host)
            self._held = sharding.shard_table(held, count) if on_device else held

    @property
    def on_device(self) -> bool:
        """Whether batches are gathered on the device."""
        return isinstance(self._held, jax.Array)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> np.ndarray | jax.Array:
        """The images `indices`, uint8 [n, H, W, 3]."""
        if isinstance(self._held, jax.Array):
            return _rows(self._held, self._sharding.replicate(indices), self._sharding)
        if self._held is not None:
            return self._held[indices]
        return self._split.read(indices, self._host)


class Features:
    """A frozen prefix's outputs for a split: images that need no decoding."""

    def __init__(
        self,
        values: jax.Array | np.ndarray | Joined,
        labels: np.ndarray,
        sharding: DataSharding = SINGLE,
    ):
        """Takes features [N, ...], on the devices or mapped from a file, and labels int32 [N]."""
        self.values = values
        self.labels = labels
        self.sharding = sharding

    @property
    def on_device(self) -> bool:
        """Whether the features are in memory."""
        return isinstance(self.values, jax.Array)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: np.ndarray) -> jax.Array | np.ndarray:
        """The features `indices`, [n, ...]."""
        if isinstance(self.values, jax.Array):
            return _rows(self.values, self.sharding.replicate(indices), self.sharding)
        return np.asarray(self.values[indices])


class Joined:
    """Features in several files, one after the other, as if they were one array."""

    def __init__(self, parts: Sequence[np.ndarray]):
        """Takes arrays [n, ...]."""
        self._parts = tuple(parts)
        self._starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        """The rows `indices` of all."""
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        first = self._parts[0]
        rows = np.empty((len(indices), *first.shape[1:]), first.dtype)
        for part in np.unique(owner):
            here = owner == part
            rows[here] = self._parts[part][np.asarray(indices)[here] - self._starts[part]]
        return rows


class Views(Features):
    """Features of several random draws of the same images; as such, those of the first."""

    def __init__(self, draws: Sequence[Features]):
        super().__init__(draws[0].values, draws[0].labels, draws[0].sharding)
        self._draws = tuple(draws)

    def of_epoch(self, epoch: int) -> Features:
        """What an epoch, from 1 on, trains on."""
        return self._draws[draw_of(epoch, len(self._draws)) - 1]


@functools.partial(jax.jit, static_argnames="sharding")
def _rows(values: jax.Array, indices: jax.Array, sharding: DataSharding) -> jax.Array:
    """`values[indices]`, compiled once: indexing an array as such is traced at every call."""
    return sharding.sharded(sharding.take(values, indices))


Examples = Images | Features


def in_order(
    examples: Examples, batch_size: int, first: int = 0, sharding: DataSharding = SINGLE
) -> Iterator[tuple[np.ndarray | jax.Array, np.ndarray]]:
    """Every example from `first` on once, in order, in batches of one shape.

    Yields:
        (values [batch_size, ...], labels int32 [batch_size], or [batch_size, num_classes] where
        images have several classes); the last batch is filled up
        with repeats of the last example labelled -1, so that every batch has one shape and
        one compiled program serves all.
    """
    count = len(examples)
    starts = range(first, count, batch_size)
    rows = [np.arange(s, s + batch_size) for s in starts]
    for batch, index in zip(
        prefetch(examples, [np.minimum(r, count - 1) for r in rows], sharding), rows, strict=True
    ):
        labels = examples.labels[np.minimum(index, count - 1)].astype(np.int32)
        labels[index >= count] = -1
        yield batch, labels


def prefetch(
    examples: Examples, batches: list[np.ndarray], sharding: DataSharding = SINGLE
) -> Generator[np.ndarray | jax.Array, None, None]:
    """The batches `batches` (indices) of `examples`, the next one read in the meantime.

    Every process reads its part of each batch; `sharding` says which, and where it goes.
    """

    def read(indices: np.ndarray) -> np.ndarray | jax.Array:
        return sharding.shard(examples.batch(sharding.local_batch(indices)))

    if examples.on_device:
        yield from map(examples.batch, batches)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="jtl-decode") as pool:
        pending = None
        for indices in [*batches, None]:
            following = None if indices is None else pool.submit(read, indices)
            if pending is not None:
                yield pending.result()
            pending = following
