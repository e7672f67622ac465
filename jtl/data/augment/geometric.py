"""Random resized crops, flips and affine maps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jtl.data.augment.mapping import each

CROP_RATIO = (3 / 4, 4 / 3)
ATTEMPTS = 10
"""Boxes that are drawn until one lies within the image, as in torchvision."""


class Box(NamedTuple):
    """A rectangle in pixels; (0, 0) is the upper left corner of the upper left pixel."""

    top: jax.Array
    left: jax.Array
    height: jax.Array
    width: jax.Array


def crop_box(key: jax.Array, smallest: float, height: int, width: int) -> Box:
    """The part of an image that a random resized crop keeps.

    The distribution of torchvision's RandomResizedCrop (Szegedy et al. 2015, arXiv
    1409.4842), but without rounding to whole pixels: a share of the area from `smallest` to 1,
    the logarithm of width to height even over that of `CROP_RATIO`, anywhere within.

    Args:
        key: Of the example.
        smallest: Share of the area, above 0.
        height: Of the image, in pixels.
        width: Of the image.

    Returns:
        float32 scalars.
    """
    # One call, as every one adds to the time of compiling.
    areas, ratios, place = jnp.split(
        jax.random.uniform(key, (2 * ATTEMPTS + 2,)), [ATTEMPTS, 2 * ATTEMPTS]
    )
    areas = height * width * spread(areas, smallest, 1.0)
    ratios = jnp.exp(spread(ratios, *map(math.log, CROP_RATIO)))
    heights, widths = jnp.sqrt(areas / ratios), jnp.sqrt(areas * ratios)
    fits = (heights <= height) & (widths <= width)
    drawn = jnp.argmax(fits)
    # Where none fits: the largest box in the middle whose ratio is allowed.
    largest_width = min(width, height * CROP_RATIO[1])
    largest_height = min(height, width / CROP_RATIO[0])
    found = fits[drawn]
    box_height = jnp.where(found, heights[drawn], largest_height)
    box_width = jnp.where(found, widths[drawn], largest_width)
    place = jnp.where(found, place, 0.5)
    return Box(
        place[0] * (height - box_height), place[1] * (width - box_width), box_height, box_width
    )


def spread(unit: jax.Array, low: float, high: float) -> jax.Array:
    """Numbers from 0 to 1 stretched to those from `low` to `high`."""
    return low + (high - low) * unit


def resize_matrix(
    start: jax.Array, length: jax.Array, flip: jax.Array, *, pixels: int, size: int, method: str
) -> jax.Array:
    """What one direction of a crop, its resizing and its flip are: a matrix of weights.

    Antialiased: where pixels get fewer, the kernel is as wide as the pixels of the result. As
    in Pillow's `Image.resize(size, method, box)`, pixels beyond the box count at its edges, and
    weights beyond the image go to those within.

    Args:
        start: First coordinate of the box.
        length: Of the box.
        flip: Whether the result is mirrored, bool.
        pixels: Of the image.
        size: Pixels of the result.
        method: `bilinear`, `bicubic` (Keys's kernel with a = -0.5) or `nearest`.

    Returns:
        float32 [size, pixels]; rows sum to 1.
    """
    scale = length / size
    place = jnp.arange(size, dtype=jnp.float32)
    place = jnp.where(flip, size - 1 - place, place)
    centres = (start + (place + 0.5) * scale)[:, None]
    source = jnp.arange(pixels, dtype=jnp.float32)[None, :]
    if method == "nearest":
        return (jnp.clip(jnp.floor(centres), 0, pixels - 1) == source).astype(jnp.float32)
    distances = jnp.abs(source + 0.5 - centres) / jnp.maximum(scale, 1.0)
    weights = {"bilinear": _triangle, "bicubic": _keys}[method](distances)
    return weights / weights.sum(axis=1, keepdims=True)


def _triangle(distance: jax.Array) -> jax.Array:
    return jnp.maximum(1.0 - distance, 0.0)


def _keys(distance: jax.Array) -> jax.Array:
    near = (1.5 * distance - 2.5) * distance * distance + 1.0
    far = ((-0.5 * distance + 2.5) * distance - 4.0) * distance + 2.0
    return jnp.where(distance < 1.0, near, jnp.where(distance < 2.0, far, 0.0))


def crop(images: jax.Array, boxes: Box, flips: jax.Array, size: int, method: str) -> jax.Array:
    """Cuts a box out of every image, resizes it to a square and flips it.

    Two products of matrices an image, which suits every platform; see `resize_matrix`.

    Args:
        images: [N, H, W, 3], 0 to 255.
        boxes: Of arrays [N].
        flips: Whether to turn (rows, columns) round, bool [N, 2].
        size: Height and width of the result.
        method: As in `resize_matrix`.

    Returns:
        float32 [N, size, size, 3], clipped to 0..255.
    """

    def one(image: jax.Array, box: Box, flip: jax.Array) -> jax.Array:
        height, width, _ = image.shape
        options: Any = dict(size=size, method=method)
        rows = resize_matrix(box.top, box.height, flip[0], pixels=height, **options)
        columns = resize_matrix(box.left, box.width, flip[1], pixels=width, **options)
        # Accelerators would round the products to bfloat16: visible steps in 256 levels.
        exact = lax.Precision.HIGHEST
        x = jnp.einsum("sh,hwc->swc", rows, image.astype(jnp.float32), precision=exact)
        x = jnp.einsum("tw,swc->stc", columns, x, precision=exact)
        # A cubic kernel overshoots at edges; no image file could hold such values.
        return jnp.clip(x, 0.0, 255.0)

    return each(one, images, boxes, flips)


def draw_flips(keys: jax.Array, flip: str) -> jax.Array:
    """Whether to turn (rows, columns) round, bool [N, 2], for keys [N]; see `Augment.flip`."""
    drawn = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys) < 0.5
    allowed = jnp.asarray([flip == "both", flip in ("both", "horizontal")])
    return drawn & allowed[None, :]


def flip_each(images: jax.Array, flips: jax.Array) -> jax.Array:
    """Images [N, H, W, C] with rows and columns turned round where `flips` [N, 2] says so."""
    for axis in (1, 2):
        where = flips[:, axis - 1].reshape(-1, 1, 1, 1)
        images = jnp.where(where, jnp.flip(images, axis), images)
    return images


class Affine(NamedTuple):
    """A map from the result's coordinates to the image's: (x, y) -> M (x, y) + offset."""

    matrix: jax.Array
    offset: jax.Array


def warp(image: jax.Array, inverse: Affine) -> jax.Array:
    """An image under an affine map, bilinear, black beyond its edges.

    Args:
        image: float32 [H, W, C].
        inverse: From pixels of the result, as (x, y) from the upper left corner of the upper
            left pixel, to places in the image. float32 [2, 2] and [2].

    Returns:
        float32 [H, W, C].
    """
    height, width, channels = image.shape
    rows = jnp.arange(height, dtype=jnp.float32)[:, None] + 0.5
    columns = jnp.arange(width, dtype=jnp.float32)[None, :] + 0.5
    (xx, xy), (yx, yy) = inverse.matrix
    x = xx * columns + xy * rows + inverse.offset[0] - 0.5
    y = yx * columns + yy * rows + inverse.offset[1] - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    pixels = image.reshape(height * width, channels)
    result = jnp.zeros_like(image)
    for row, row_weight in ((top, 1.0 - (y - top)), (top + 1.0, y - top)):
        for column, column_weight in ((left, 1.0 - (x - left)), (left + 1.0, x - left)):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = jnp.where(inside, row_weight * column_weight, 0.0)
            index = jnp.where(inside, row * width + column, 0.0).astype(jnp.int32)
            result += pixels[index] * weight[..., None]
    return result
