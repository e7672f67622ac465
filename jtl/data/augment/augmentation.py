"""From uint8 batches to augmented, normalized ones, inside the compiled training step."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jtl.config.augment import Augment
from jtl.data.augment import geometric, mixing, policy
from jtl.data.augment.keys import Stream, batch_key, example_keys, stream_keys
from jtl.data.augment.mapping import each
from jtl.data.preprocessing import Prepare


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Augments batches and prepares them for the backbone; compared by value.

    Attributes:
        options: What is augmented.
        prepare: What evaluation does to the same images.
        num_classes: Length of mixed labels.
    """

    options: Augment
    prepare: Prepare
    num_classes: int

    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        examples: jax.Array,
        epoch: jax.Array | int,
        step: jax.Array | int,
    ) -> tuple[jax.Array, jax.Array]:
        """A batch as the network sees it.

        Args:
            key: Of the run.
            images: uint8 [N, H, W, 3].
            labels: int32 [N], or uint8 [N, num_classes].
            examples: Indices of the examples in their split, int32 [N].
            epoch: Number of the epoch.
            step: Number of the step in the run; decides partners and shares of mixing.

        Returns:
            (normalized [N, size, size, 3] of the computation's dtype; the labels, or
            their shares float32 [N, num_classes] where examples are mixed).
        """
        x = self.views(key, images, examples, epoch)
        if self.options.mixes:
            count, height, width, _ = x.shape
            alphas = self.options.mixup, self.options.cutmix
            mix = mixing.draw_mix(batch_key(key, step), *alphas, count, height, width)
            x = mixing.mix_images(x, mix)
            labels = mixing.mix_labels(labels, mix, self.num_classes)
        return self.prepare.normalize(x), labels

    def views(
        self, key: jax.Array, images: jax.Array, examples: jax.Array, epoch: jax.Array | int
    ) -> jax.Array:
        """One random view of every example, before mixing and normalization.

        A pure function of the run's key, the example and the number of the epoch or view, so
        that K views of a whole split can be computed in any order and batches.

        Args:
            key: Of the run.
            images: uint8 [N, H, W, 3].
            examples: As in `__call__`.
            epoch: Number of the epoch, or of the view.

        Returns:
            float32 [N, size, size, 3], 0 to 255, RGB.
        """
        keys = example_keys(key, epoch, examples)
        x = self._cropped(keys, images)
        if any(self.options.color_jitter):
            of_jitter = stream_keys(keys, Stream.JITTER)
            strengths = self.options.color_jitter
            draws = jax.vmap(lambda one: policy.draw_jitter(one, strengths))(of_jitter)
            x = each(policy.apply_jitter, x, *draws)
        if self.options.policy == "trivial":
            draws = jax.vmap(policy.draw_operation)(stream_keys(keys, Stream.POLICY))
            x = each(policy.apply_operation, x, *draws)
        if self.options.erasing > 0:
            x = self._erased(keys, x)
        return x

    def _cropped(self, keys: jax.Array, images: jax.Array) -> jax.Array:
        """Cropped or whole, resized to the input's size, and flipped."""
        flips = geometric.draw_flips(stream_keys(keys, Stream.FLIP), self.options.flip)
        if not self.options.crops:
            x = self.prepare.resize(images)
            return x if self.options.flip == "none" else geometric.flip_each(x, flips)
        _, height, width, _ = images.shape
        smallest = self.options.crop_scale
        boxes = jax.vmap(lambda key: geometric.crop_box(key, smallest, height, width))(
            stream_keys(keys, Stream.CROP)
        )
        return geometric.crop(images, boxes, flips, self.prepare.size, self.prepare.interpolation)

    def _erased(self, keys: jax.Array, x: jax.Array) -> jax.Array:
        """With rectangles of the mean colour, which normalization makes zero."""
        _, height, width, _ = x.shape
        chance = self.options.erasing
        rectangles = jax.vmap(lambda key: mixing.erased(key, chance, height, width))(
            stream_keys(keys, Stream.ERASING)
        )
        fill = 255.0 * jnp.asarray(self.prepare.preprocessing.mean, jnp.float32)
        return mixing.erase(x, rectangles, fill)


@dataclasses.dataclass(frozen=True)
class View:
    """One random draw of every image of a split, as an epoch of training draws it.

    Attributes:
        options: What is augmented; nothing that mixes images.
        seed: Of the run.
        number: Of the epoch, from 1 on.
    """

    options: Augment
    seed: int
    number: int

    def __call__(
        self, images: np.ndarray | jax.Array, examples: np.ndarray, prepare: Prepare
    ) -> jax.Array:
        """A batch as a training step of that epoch makes it.

        Args:
            images: uint8 [N, H, W, 3].
            examples: Indices of the examples in their split, int32 [N].
            prepare: What evaluation does to the same images.

        Returns:
            Normalized [N, size, size, 3] of the computation's dtype.
        """
        # Labels stay as they are, whatever their number.
        augmentation = Augmentation(self.options, prepare, num_classes=0)
        key = jax.random.key(self.seed)
        return _view(key, images, examples, np.int32(self.number), augmentation=augmentation)


@functools.partial(jax.jit, static_argnames="augmentation")
def _view(
    key: jax.Array,
    images: jax.Array,
    examples: jax.Array,
    epoch: jax.Array,
    *,
    augmentation: Augmentation,
) -> jax.Array:
    views = augmentation.views(key, images, examples, epoch)
    return augmentation.prepare.normalize(views)
