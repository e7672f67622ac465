"""Colour jitter and TrivialAugment: operations that are drawn for every example by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jtl.data.augment import colour
from jtl.data.augment.geometric import Affine, spread, warp

OPERATIONS = (
    "identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate",
    "brightness", "color", "contrast", "sharpness", "posterize", "solarize",
    "autocontrast", "equalize",
)  # fmt: skip
"""The operations of TrivialAugment; each is drawn equally often."""
BINS = 31
"""Strengths that are drawn from, from none to the full one."""
TRANSLATION = 32 / 224
"""The farthest shift, as a share of the side: the published 32 pixels at 224. In pixels it would
push an image of 32 off the stage."""


def draw_operation(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """An operation, its strength and its sign, all evenly distributed.

    Returns:
        (index into `OPERATIONS`, number of the bin from 0 to `BINS` - 1, -1 or 1): int32.
    """
    choices = jnp.array([len(OPERATIONS), BINS, 2], jnp.float32)
    operation, strength, negative = (jax.random.uniform(key, (3,)) * choices).astype(jnp.int32)
    return operation, strength, 1 - 2 * negative


def apply_operation(
    image: jax.Array, operation: jax.Array, strength: jax.Array, sign: jax.Array
) -> jax.Array:
    """Applies one operation of TrivialAugment (wide; Mueller and Hutter, arXiv 2103.10158).

    The space of operations and strengths is torchvision's, but for `TRANSLATION`. Affine maps
    are bilinear, black beyond the edges.

    Args:
        image: float32 [H, W, 3], 0 to 255.
        operation: As in `draw_operation`, like the rest.
        strength: Number of the bin.
        sign: Direction, where an operation has one.

    Returns:
        float32 [H, W, 3], 0 to 255.
    """
    share = strength.astype(jnp.float32) / (BINS - 1)
    factor = 1.0 + 0.99 * share * sign.astype(jnp.float32)
    branches: list[tuple[tuple[str, ...], Callable[[jax.Array], jax.Array]]] = [
        (("identity",), lambda x: x),
        (
            ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
            lambda x: warp(x, _affine(operation, share, sign, x.shape[0], x.shape[1])),
        ),
        (("brightness",), lambda x: colour.brightness(x, factor)),
        (("color",), lambda x: colour.saturation(x, factor)),
        (("contrast",), lambda x: colour.contrast(x, factor)),
        (("sharpness",), lambda x: colour.sharpness(x, factor)),
        (("posterize",), lambda x: colour.posterize(x, 8.0 - jnp.round(6.0 * share))),
        (("solarize",), lambda x: colour.solarize(x, 255.0 * (1.0 - share))),
        (("autocontrast",), colour.autocontrast),
        (("equalize",), colour.equalize),
    ]
    of_operation = [
        next(i for i, (names, _) in enumerate(branches) if name in names) for name in OPERATIONS
    ]
    return lax.switch(
        jnp.asarray(of_operation, jnp.int32)[operation], [f for _, f in branches], image
    )


def _affine(
    operation: jax.Array, share: jax.Array, sign: jax.Array, height: int, width: int
) -> Affine:
    """The map of a geometric operation from the result back to the image."""

    def is_(name: str) -> jax.Array:
        return operation == OPERATIONS.index(name)

    signed = share * sign.astype(jnp.float32)
    # Shears keep the upper left corner, rotations the middle.
    shear = 0.99 * signed
    angle = jnp.where(is_("rotate"), jnp.deg2rad(135.0) * signed, 0.0)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    matrix = jnp.array(
        [
            [cos, jnp.where(is_("shear_x"), shear, -sin)],
            [jnp.where(is_("shear_y"), shear, sin), cos],
        ]
    )
    middle = jnp.array([width / 2, height / 2], jnp.float32)
    turned = middle - jnp.sum(matrix * middle[None, :], axis=1)
    # Whole pixels, so that a shift blurs nothing.
    shift = jnp.array(
        [
            jnp.where(is_("translate_x"), jnp.trunc(TRANSLATION * width * signed), 0.0),
            jnp.where(is_("translate_y"), jnp.trunc(TRANSLATION * height * signed), 0.0),
        ]
    )
    return Affine(matrix, jnp.where(is_("rotate"), turned, -shift))


def draw_jitter(key: jax.Array, strengths: Sequence[float]) -> tuple[jax.Array, jax.Array]:
    """Strengths and order of a colour jitter.

    Args:
        key: Of the example.
        strengths: Of brightness, contrast, saturation and hue, as in `Augment.color_jitter`.

    Returns:
        (factors of the first three and the turn of the hue, float32 [4]; the order in which
        they apply, int32 [4]).
    """
    amounts, order = jax.random.uniform(key, (2, 4))
    base = jnp.array([1.0, 1.0, 1.0, 0.0], jnp.float32)
    widest = jnp.asarray(strengths, jnp.float32)
    return base + spread(amounts, -1.0, 1.0) * widest, jnp.argsort(order)


def apply_jitter(image: jax.Array, amounts: jax.Array, order: jax.Array) -> jax.Array:
    """Changes brightness, contrast, saturation and hue, as torchvision's ColorJitter does.

    Args:
        image: float32 [H, W, 3], 0 to 255.
        amounts: float32 [4], as in `draw_jitter`.
        order: int32 [4].

    Returns:
        float32 [H, W, 3], 0 to 255.
    """
    operations = (colour.brightness, colour.contrast, colour.saturation, colour.hue)
    for place in range(len(operations)):
        image = lax.switch(order[place], operations, image, amounts[order[place]])
    return image
