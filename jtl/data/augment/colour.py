"""Operations on an image's levels: float32 [H, W, 3] from 0 to 255, RGB, both ways."""

from __future__ import annotations

import jax
import jax.numpy as jnp

_LUMA = (0.2989, 0.587, 0.114)
"""ITU-R BT.601, as torchvision rounds it."""


def grey(image: jax.Array) -> jax.Array:
    """The brightness of every pixel, [H, W, 1]."""
    red, green, blue = (image[..., channel, None] for channel in range(3))
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _blend(image: jax.Array, other: jax.Array, factor: jax.Array) -> jax.Array:
    """`other` at factor 0, the image at 1, beyond it above."""
    return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 255.0)


def brightness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Black at factor 0, the image at 1."""
    return jnp.clip(factor * image, 0.0, 255.0)


def contrast(image: jax.Array, factor: jax.Array) -> jax.Array:
    """The mean brightness everywhere at factor 0, the image at 1."""
    return _blend(image, grey(image).mean(keepdims=True), factor)


def saturation(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Grey at factor 0, the image at 1."""
    return _blend(image, grey(image), factor)


def sharpness(image: jax.Array, factor: jax.Array) -> jax.Array:
    """Smoothed with a 3 x 3 kernel (5 in the middle, 1 around) at factor 0, the image at 1.

    The outermost pixels stay.
    """
    height, width, _ = image.shape
    if height <= 2 or width <= 2:
        return image
    rows = image[:-2] + image[1:-1] + image[2:]
    total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    smooth = (total + 4.0 * image[1:-1, 1:-1]) / 13.0
    return _blend(image, image.at[1:-1, 1:-1].set(smooth), factor)


def hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Colours turned round the circle by a share of it, saturation and value kept.

    Hue, saturation and value as in Smith 1978, "Color gamut transform pairs".
    """
    red, green, blue = (image[..., channel] for channel in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    unit = jnp.where(chroma > 0, chroma, 1.0)
    sixth = jnp.where(
        value == red,
        (green - blue) / unit,
        jnp.where(value == green, 2.0 + (blue - red) / unit, 4.0 + (red - green) / unit),
    )
    sixth = sixth + 6.0 * turn

    def channel(offset: float) -> jax.Array:
        place = offset + sixth
        place = place - 6.0 * jnp.floor(place / 6.0)  # XLA's remainder is a call a pixel.
        return value - chroma * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)

    return jnp.stack([channel(5.0), channel(3.0), channel(1.0)], -1)


def posterize(image: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest `bits` bits of every level, 0 to 8."""
    step = jnp.exp2(8.0 - bits)
    return jnp.floor(jnp.round(image) / step) * step


def solarize(image: jax.Array, threshold: jax.Array) -> jax.Array:
    """Inverts levels from the threshold on."""
    return jnp.where(image >= threshold, 255.0 - image, image)


def autocontrast(image: jax.Array) -> jax.Array:
    """Stretches each channel's levels to 0..255; a channel of one level stays."""
    low = image.min((0, 1), keepdims=True)
    spread = image.max((0, 1), keepdims=True) - low
    flat = spread == 0
    stretched = (image - low) * (255.0 / jnp.where(flat, 1.0, spread))
    return jnp.where(flat, image, jnp.clip(stretched, 0.0, 255.0))


def equalize(image: jax.Array) -> jax.Array:
    """Makes each channel's levels as evenly distributed as a table of levels can.

    As in Pillow's `ImageOps.equalize`: of as many levels as there are pixels over 255, the
    highest level's own aside. A channel that has too few for that stays, rounded.
    """
    levels = jnp.round(image).astype(jnp.int32)
    height, width, channels = levels.shape
    offsets = jnp.arange(channels, dtype=jnp.int32).reshape(1, 1, channels) * 256
    counts = jnp.zeros(channels * 256, jnp.int32).at[levels + offsets].add(1)
    counts = counts.reshape(channels, 256)
    highest = jnp.max(levels, (0, 1))
    of_highest = jnp.take_along_axis(counts, highest[:, None], 1)
    step = (height * width - of_highest) // 255
    below = jnp.cumsum(counts, 1, dtype=jnp.int32) - counts
    table = jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255)
    table = jnp.where(step > 0, table, jnp.arange(256, dtype=jnp.int32)[None, :])
    return table.reshape(-1)[levels + offsets].astype(jnp.float32)
