"""Random erasing, mixup and cutmix."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jtl.data.augment.geometric import ATTEMPTS, spread

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
    """What random erasing blots out of one image; an empty rectangle where nothing is.

    Zhong et al. 2017, arXiv 1708.04896, with torchvision's draws: a share of the area from
    `ERASED_AREA`, the logarithm of height to width even over that of `ERASED_RATIO`, smaller
    than the image both ways.
    """
    areas, ratios, place, chance = jnp.split(
        jax.random.uniform(key, (2 * ATTEMPTS + 3,)), [ATTEMPTS, 2 * ATTEMPTS, 2 * ATTEMPTS + 2]
    )
    areas = height * width * spread(areas, *ERASED_AREA)
    ratios = jnp.exp(spread(ratios, *map(math.log, ERASED_RATIO)))
    heights = jnp.round(jnp.sqrt(areas * ratios)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(areas / ratios)).astype(jnp.int32)
    fits = (heights < height) & (widths < width)
    drawn = jnp.argmax(fits)
    happens = (chance[0] < probability) & fits[drawn]
    tall = jnp.where(happens, heights[drawn], 0)
    wide = jnp.where(happens, widths[drawn], 0)
    places = jnp.stack([height - tall, width - wide]) + 1
    top, left = (place * places.astype(jnp.float32)).astype(jnp.int32)
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
        kept: The share of an example's own image, float32 [N].
        pasted: Where the partner's pixels replace it by cutmix, bool [N, H, W].
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
    left of the image's pixels.

    Args:
        key: Of the batch.
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of cutmix; 0 for none. One of them is above 0.
        count: Examples in the batch.
        height: Of the images, in pixels.
        width: Of the images.
    """
    unit_key, share_key = jax.random.split(key)
    units = jax.random.uniform(unit_key, (3 * count + 1,))
    switch, rows, columns = units[1:].reshape(3, count)
    # A batch has been shuffled, so that neighbours are as good as any; never oneself.
    shift = 1 + (units[0] * max(count - 1, 1)).astype(jnp.int32)
    pastes = switch < {(True, True): SWITCH, (True, False): 0.0}.get((mixup > 0, cutmix > 0), 1.0)
    alphas = jnp.where(pastes, cutmix, mixup)
    kept = jax.random.beta(share_key, alphas, alphas, dtype=jnp.float32)
    boxes = pasted_boxes(1.0 - kept, rows, columns, height, width)
    area = (boxes.bottom - boxes.top) * (boxes.right - boxes.left)
    kept = jnp.where(pastes, 1.0 - area.astype(jnp.float32) / (height * width), kept)
    return Mix(shift, kept, inside(boxes, height, width), pastes)


def pasted_boxes(
    share: jax.Array, rows: jax.Array, columns: jax.Array, height: int, width: int
) -> Rectangle:
    """Rectangles of the image's shape and about a share of its area, cut off at its edges.

    Args:
        share: Of the area, [N].
        rows: Where their middle is, as a share of the height, [N].
        columns: The same of the width.
        height: In pixels.
        width: In pixels.
    """
    edges = []
    for place, side in ((rows, height), (columns, width)):
        middle = (place * side).astype(jnp.int32)
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
    """The classes' shares in mixed examples: int32 [N] -> float32 [N, num_classes].

    Of several labels, uint8 [N, num_classes], those of both images.
    """
    if labels.ndim > 1:
        own = labels.astype(jnp.float32)
    else:
        own = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    kept = mix.kept[:, None]
    return kept * own + (1.0 - kept) * jnp.roll(own, -mix.shift, 0)
