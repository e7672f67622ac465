"""From a split's images to batches on the device: in memory where they fit, else decoded.

Which examples a step sees is decided in one place, `shuffled`, by seed and epoch alone: the same
whether they are features on the device, features in a file, images in memory or files to decode.
So training can go on within an epoch (from batch k of it), and be divided among processes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from jtl.common.errors import UserError
from jtl.data.augment import Augmentation
from jtl.data.decoding import HostTransform
from jtl.data.preprocessing import Prepare
from jtl.data.sources.registry import Dataset, Split
from jtl.distributed.sharding import SINGLE, DataSharding
from jtl.models import Preprocessing

ENLARGE = 4
"""How many times small images are enlarged by default, up to the weights' own input size."""
SMALLEST_INPUT = 96
"""What images are enlarged to at the least; below, a backbone's last maps get too small."""
CROPPED_FROM = 1.25
"""How many times the input's size the images are that random crops are cut from. At scales from
0.35 on, a crop is then as large as the input on average, neither enlarged nor reduced."""


@dataclasses.dataclass(frozen=True)
class InputPlan:
    """How images become the backbone's input.

    Attributes:
        host: Resizing while decoding; None where all images share a small square size and
            are enlarged on the device.
        device: What the compiled step does with uint8 batches.
        augmentation: What a training step does instead; None for the same.
        views: How many draws of it every image has where the frozen prefix's outputs are kept,
            one after the other by epoch; 0 for another draw in every epoch, and nothing kept.
    """

    host: HostTransform | None
    device: Prepare
    augmentation: Augmentation | None = None
    views: int = 0

    def host_for(
        self, native: tuple[int, int] | None, *, training: bool = False
    ) -> HostTransform | None:
        """The resizing while decoding for images of a split, which may not be training's.

        Where training saw small images whole, larger or mixed ones are taken whole as well.

        Args:
            native: The (height, width) that the split's images share, or None.
            training: Whether the images are augmented. Random crops are cut on the device from
                the square in the middle of an image, as large as its shorter side, of
                `CROPPED_FROM` times the input's size.
        """
        if self.host is not None:
            if training and self.augmentation is not None and self.augmentation.options.crops:
                side = math.ceil(self.host.size * CROPPED_FROM)
                return HostTransform(side, 1.0, self.host.interpolation)
            return self.host
        # Repeated pixels fill the input only from sizes that divide it.
        step = native[0] if native is not None and self.device.method == "nearest" else 1
        small = native is not None and native[0] == native[1] <= self.device.size
        if small and self.device.size % step == 0:
            return None
        return HostTransform(self.device.size, 1.0, self.device.preprocessing.interpolation)

    def bytes_per_image(self, native: tuple[int, int] | None, *, training: bool = False) -> int:
        """Memory of one image as uint8 on its way to the device."""
        host = self.host_for(native, training=training)
        side = self.device.size if host is None else host.size
        height, width = native if host is None and native else (side, side)
        return height * width * 3


def plan_input(
    native: tuple[int, int] | None,
    image_size: int | None,
    preprocessing: Preprocessing,
    dtype: str = "float32",
    upsample: str | None = None,
) -> InputPlan:
    """Chooses where images are resized.

    Images that share one square size no larger than the input travel as they are and are
    enlarged on the device, whole: a centre crop would cut what little they hold. All others
    get the field's evaluation preprocessing while they are decoded.

    Args:
        native: The (height, width) that all images share, or None.
        image_size: The input's height and width. None for the weights' own; for images that
            share a smaller square size, `ENLARGE` times theirs within `SMALLEST_INPUT` and
            the weights' own: more pixels cost time, and hold no more than the image had.
        preprocessing: Of the weights.
        dtype: Of the backbone's computation.
        upsample: As in `--upsample`; see `DataConfig.check`.

    Raises:
        UserError: Pixels cannot be repeated, as the images have no common square size.
    """
    square = native is not None and native[0] == native[1]
    side = native[0] if native is not None and square else None
    method = upsample
    if upsample is not None and upsample.startswith("nearest:"):
        if side is None:
            raise UserError(
                f"--upsample {upsample} repeats the pixels of images that share one square "
                "size, and these do not. Leave it out, or resize them first."
            )
        image_size, method = int(upsample.partition(":")[2]) * side, "nearest"
    if image_size is None:
        image_size = preprocessing.size
        if side is not None:
            image_size = min(image_size, max(ENLARGE * side, SMALLEST_INPUT))
    device = Prepare(image_size, preprocessing, dtype, method)
    if side is not None and side <= image_size:
        return InputPlan(None, device)
    host = HostTransform(image_size, preprocessing.crop_pct, preprocessing.interpolation)
    return InputPlan(host, device)


def common_size(dataset: Dataset) -> tuple[int, int] | None:
    """The (height, width) that the images of all splits share, or None."""
    splits = [s for s in (dataset.train, dataset.val, dataset.test) if s is not None]
    size = splits[0].native_size()
    for split in splits[1:]:
        if size is None:
            return None
        if split.native_size() != size:
            size = None
    return size


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
        self, values: jax.Array | np.ndarray, labels: np.ndarray, sharding: DataSharding = SINGLE
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


def draw_of(epoch: int, views: int) -> int:
    """Which random draw of the images an epoch sees, from 1 on: `views` by turns; 0 for new ones.

    Args:
        epoch: From 1 on.
        views: How many draws there are; 0 where every epoch has its own.
    """
    return (epoch - 1) % views + 1 if views else epoch


class Views(Features):
    """Features of several random draws of the same images; as such, those of the first."""

    def __init__(self, draws: Sequence[Features]):
        """Takes the features of every draw, in their order."""
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
        (values [batch_size, ...], labels int32 [batch_size]); the last batch is filled up
        with repeats of the last example labelled -1, so that every batch has one shape and
        one compiled program serves all.
    """
    count = len(examples)
    starts = range(first, count, batch_size)
    rows = [np.arange(s, s + batch_size) for s in starts]
    for batch, index in zip(
        prefetch(examples, [np.minimum(r, count - 1) for r in rows], sharding), rows, strict=True
    ):
        labels = examples.labels[np.minimum(index, count - 1)]
        yield batch, np.where(index < count, labels, -1).astype(np.int32)


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
