"""Random erasing, mixup and cutmix."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jtl.data.augment.geometric import ATTEMPTS

ERASED_AREA = (0.02, 1 / 3)
ERASED_RATIO = (0.3, 3.3)
SWITCH = 0.5
"""How often an example is mixed by cutmix where mixup is on, too."""


class Rectangle(NamedTuple):
    """Whole pixels: rows from `top` up to but without `bottom`, columns likewise; int32."""

    top: jax.Array
    bottom: jax.Array
    left: jax.Array
    right: jax.Array


def inside(rectangles: Rectangle, height: int, width: int) -> jax.Array:
    """Which pixels lie in rectangles of arrays [N]: bool [N, height, width]."""
    top, bottom, left, right = (edge[:, None] for edge in rectangles)
    rows = jnp.arange(height, dtype=jnp.int32)[None, :]
    columns = jnp.arange(width, dtype=jnp.int32)[None, :]
    of_rows = (rows >= top) & (rows < bottom)
    of_columns = (columns >= left) & (columns < right)
    return of_rows[:, :, None] & of_columns[:, None, :]


def erased(key: jax.Array, probability: float, height: int, width: int) -> Rectangle:
    """What random erasing blots out of one picture; an empty rectangle where nothing is.

    Zhong et al. 2017, arXiv 1708.04896, with torchvision's draws: a share of the area from
    `ERASED_AREA`, the logarithm of height to width even over that of `ERASED_RATIO`, smaller
    than the picture both ways.
    """
    chance_key, area_key, ratio_key, place_key = jax.random.split(key, 4)
    low, high = ERASED_AREA
    areas = height * width * jax.random.uniform(area_key, (ATTEMPTS,), minval=low, maxval=high)
    low, high = map(math.log, ERASED_RATIO)
    ratios = jnp.exp(jax.random.uniform(ratio_key, (ATTEMPTS,), minval=low, maxval=high))
    heights = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    drawn = jnp.argmax(fits)
    happens = jax.random.bernoulli(chance_key, probability) & fits[drawn]
    tall = jnp.where(happens, heights[drawn], 0)
    wide = jnp.where(happens, widths[drawn], 0)
    last = jnp.stack([height - tall, width - wide])
    top, left = jax.random.randint(place_key, (2,), 0, last + 1)
    return Rectangle(top, top + tall, left, left + wide)


def erase(images: jax.Array, rectangles: Rectangle, fill: jax.Array) -> jax.Array:
    """Images [N, H, W, C] with rectangles in the colour `fill` [C]."""
    _, height, width, channels = images.shape
    where = inside(rectangles, height, width)[..., None]
    return jnp.where(where, fill.reshape(1, 1, 1, channels), images)


class Mix(NamedTuple):
    """How a batch is mixed with itself.

    Attributes:
        shift: Every example's partner is so many examples on, round the batch.
        kept: The share of an example's own picture, float32 [N].
        pasted: Where the partner's pixels replace it (cutmix), bool [N, H, W].
        pastes: Whether cutmix mixes the example, or mixup does, bool [N].
    """

    shift: jax.Array
    kept: jax.Array
    pasted: jax.Array
    pastes: jax.Array


def draw_mix(
    key: jax.Array, mixup: float, cutmix: float, count: int, height: int, width: int
) -> Mix:
    """Draws partners and shares for a batch.

    mixup: Zhang et al. 2017, arXiv 1710.09412; cutmix: Yun et al. 2019, arXiv 1905.04899. The
    shares are drawn for each example, from Beta(alpha, alpha); that of cutmix is then what is
    left of the picture's pixels.

    Args:
        key: Of the batch.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none. One of them is above 0.
        count: Examples in the batch.
        height: Of the images, in pixels.
        width: Of the images.
    """
    shift_key, switch_key, mixup_key, cutmix_key, place_key = jax.random.split(key, 5)
    # A batch has been shuffled, so that neighbours are as good as any; never oneself.
    shift = jax.random.randint(shift_key, (), 1, max(count, 2))
    pastes = jnp.full(count, cutmix > 0)
    kept = jnp.ones(count, jnp.float32)
    pasted = jnp.zeros((count, height, width), bool)
    if mixup > 0:
        kept = jax.random.beta(mixup_key, mixup, mixup, (count,), jnp.float32)
        if cutmix > 0:
            pastes = jax.random.bernoulli(switch_key, SWITCH, (count,))
    if cutmix > 0:
        share = 1.0 - jax.random.beta(cutmix_key, cutmix, cutmix, (count,), jnp.float32)
        boxes = _pasted(place_key, share, height, width)
        pasted = inside(boxes, height, width) & pastes[:, None, None]
        area = (boxes.bottom - boxes.top) * (boxes.right - boxes.left)
        kept = jnp.where(pastes, 1.0 - area.astype(jnp.float32) / (height * width), kept)
    return Mix(shift, kept, pasted, pastes)


def _pasted(key: jax.Array, share: jax.Array, height: int, width: int) -> Rectangle:
    """Rectangles of the picture's shape and about a share of its area, cut off at its edges."""
    (count,) = share.shape
    rows_key, columns_key = jax.random.split(key)
    edges = []
    for key_, side in ((rows_key, height), (columns_key, width)):
        middle = jax.random.randint(key_, (count,), 0, side)
        half = (0.5 * jnp.sqrt(share) * side).astype(jnp.int32)
        edges += [jnp.clip(middle - half, 0, side), jnp.clip(middle + half, 0, side)]
    return Rectangle(*edges)


def mix_images(images: jax.Array, mix: Mix) -> jax.Array:
    """Images [N, H, W, C] mixed with their partners."""
    partners = jnp.roll(images, -mix.shift, 0)
    kept = mix.kept.reshape(-1, 1, 1, 1)
    blended = kept * images + (1.0 - kept) * partners
    cut = jnp.where(mix.pasted[..., None], partners, images)
    return jnp.where(mix.pastes.reshape(-1, 1, 1, 1), cut, blended)


def mix_labels(labels: jax.Array, mix: Mix, num_classes: int) -> jax.Array:
    """The classes' shares in mixed examples: int32 [N] -> float32 [N, num_classes]."""
    own = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    kept = mix.kept[:, None]
    return kept * own + (1.0 - kept) * jnp.roll(own, -mix.shift, 0)
