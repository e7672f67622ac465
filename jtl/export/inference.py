"""The whole way from uint8 images to logits as one function of JAX, resizing included."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from jtl.common.trees import ParamTree
from jtl.data.input_plan import InputPlan
from jtl.data.square_fit import fill_of
from jtl.models import ImageClassifier


def logits_of(
    images: jax.Array, variables: ParamTree, *, model: ImageClassifier, inputs: InputPlan
) -> jax.Array:
    """What `jtl.load(RUN).predict` computes, for images that share a size.

    Height and width may be symbolic: the images are resized and cropped in the program, by the
    kernel that Pillow has, rounded to whole values in between where Pillow rounds.

    Args:
        images: uint8 RGB [N, H, W, 3], any H and W.
        variables: {"params", "batch_stats"}.
        model: The classifier.
        inputs: How images become the network's input.

    Returns:
        float32 [N, num_classes].
    """
    x = inputs.device.normalize(_fitted(images, inputs))
    y: Any = model.apply(variables, x)
    return y


def _fitted(images: jax.Array, inputs: InputPlan) -> jax.Array:
    """Resized and cropped to the input's size: float32, 0 to 255."""
    size, device = inputs.device.size, inputs.device
    x = images.astype(jnp.float32)
    if inputs.host is not None and inputs.fit != "crop":
        return _whole(x, inputs, inputs.host.interpolation)
    if inputs.host is not None:
        return _cropped(x, size, inputs.host.crop_pct, inputs.host.interpolation)
    # As in `InputPlan.host_for`: small square images are enlarged whole, all others fitted.
    height, width = jnp.int32(x.shape[1]), jnp.int32(x.shape[2])
    small = (height == width) & (height <= size)
    if device.interpolation == "nearest":
        small &= size % height == 0
        enlarged = _nearest(x, size)
    else:
        scale = size / height.astype(jnp.float32)
        both = jnp.stack([scale, scale])
        shape = (x.shape[0], size, size, x.shape[3])
        enlarged = jax.image.scale_and_translate(
            x, shape, (1, 2), both, jnp.zeros(2), device.interpolation
        )
        enlarged = jnp.clip(enlarged, 0.0, 255.0)
    interpolation = device.preprocessing.interpolation
    if inputs.fit == "crop":
        fitted = _cropped(x, size, 1.0, interpolation)
    else:
        fitted = _whole(x, inputs, interpolation)
    return jnp.where(small, enlarged, fitted)


def _nearest(x: jax.Array, size: int) -> jax.Array:
    rows = jnp.arange(size) * jnp.int32(x.shape[1]) // size
    columns = jnp.arange(size) * jnp.int32(x.shape[2]) // size
    return jnp.take(jnp.take(x, rows, axis=1), columns, axis=2)


def _whole(x: jax.Array, inputs: InputPlan, interpolation: str) -> jax.Array:
    """`jtl.data.square_fit.fitted` in JAX, on float32 [N, H, W, 3] of whole values."""
    size = inputs.device.size
    sides = {1: jnp.int32(x.shape[1]), 2: jnp.int32(x.shape[2])}
    longer, resized = jnp.maximum(sides[1], sides[2]), {1: jnp.int32(size), 2: jnp.int32(size)}
    if inputs.fit == "pad":
        resized = {axis: jnp.maximum(size * side // longer, 1) for axis, side in sides.items()}
    starts = {axis: (size - side) // 2 for axis, side in resized.items()}
    x = _resized(x, size, resized, starts, interpolation)
    inside = jnp.ones((1, 1, 1, 1), bool)
    for axis in (1, 2):
        place = jnp.arange(size).reshape([-1 if a == axis else 1 for a in range(4)])
        inside = inside & (place >= starts[axis]) & (place < starts[axis] + resized[axis])
    fill = jnp.asarray(fill_of(inputs.device.preprocessing.mean), jnp.float32)
    return jnp.where(inside, x, fill.reshape(1, 1, 1, 3))


def _cropped(x: jax.Array, size: int, crop_pct: float, interpolation: str) -> jax.Array:
    """`jtl.data.decoding.HostTransform` in JAX, on float32 [N, H, W, 3] of whole values."""
    short = math.floor(size / crop_pct)
    sides = {1: jnp.int32(x.shape[1]), 2: jnp.int32(x.shape[2])}
    shorter = jnp.minimum(sides[1], sides[2])
    resized = {
        axis: jnp.where(side == shorter, short, short * side // shorter)
        for axis, side in sides.items()
    }
    starts = {axis: -jnp.round((side - size) / 2) for axis, side in resized.items()}
    return _resized(x, size, resized, starts, interpolation)


def _resized(
    x: jax.Array,
    size: int,
    resized: dict[int, jax.Array],
    starts: dict[int, jax.Array],
    interpolation: str,
) -> jax.Array:
    """As Pillow resizes: one direction after the other, rounded to whole values after each.

    Args:
        x: float32 [N, H, W, C].
        size: Of the square that is given.
        resized: By axis, the sides that the image gets.
        starts: By axis, where in the square it begins; negative where it is cropped.
        interpolation: `bilinear` or `bicubic`.
    """
    sides = {1: jnp.int32(x.shape[1]), 2: jnp.int32(x.shape[2])}

    def along(x: jax.Array, axis: int) -> jax.Array:
        scale = resized[axis].astype(jnp.float32) / sides[axis].astype(jnp.float32)
        shape = tuple(size if a == axis else x.shape[a] for a in range(4))
        start = starts[axis].astype(jnp.float32)
        x = jax.image.scale_and_translate(
            x, shape, (axis,), scale[None], start[None], interpolation
        )
        return jnp.floor(jnp.clip(x, 0.0, 255.0) + 0.5)

    def rows_last(x: jax.Array) -> jax.Array:
        return along(along(x, 2), 1)

    def rows_first(x: jax.Array) -> jax.Array:
        return along(along(x, 1), 2)

    if not _may_take_rows_first():
        return rows_last(x)
    fewer = {axis: sides[axis] - resized[axis] for axis in sides}
    return jax.lax.cond(fewer[1] > 2 * jnp.maximum(fewer[2], 0), rows_first, rows_last, x)


@functools.cache
def _may_take_rows_first() -> bool:
    """Whether Pillow resizes rows first where that saves most, as from 13.0.0 on.

    Which images these are is nowhere said; for all sizes that were tried, those that lose more
    than twice as many rows as columns.
    """
    pixels = np.arange(2 * 64, dtype=np.uint8).reshape(64, 2) * np.uint8(37)
    image = Image.fromarray(pixels)
    how = Image.Resampling.BICUBIC
    both, columns_first = image.resize((8, 8), how), image.resize((8, 64), how).resize((8, 8), how)
    return bool((np.asarray(both) != np.asarray(columns_first)).any())
