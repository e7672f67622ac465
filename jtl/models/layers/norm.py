"""Batch normalization with the statistics of its batch, and its gradient, by platform.

Written as one operation with a gradient of its own (Ioffe and Szegedy, arXiv 1502.03167,
section 3), so that on CPU oneDNN can take each direction in as few passes over the images as
there can be, the ReLU included. Elsewhere XLA fuses the same formulas.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jtl import onednn
from jtl.common.platforms import by_platform


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, *, with_relu: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalizes over all axes but the last; arithmetic is float32.

    Args:
        x: Float [..., C].
        scale: float32 [C].
        bias: float32 [C].
        epsilon: Added to the variance before the square root.
        with_relu: Whether a ReLU follows; its gradient at 0 is 0.

    Returns:
        (y of `x`'s shape and dtype, mean float32 [C], biased variance float32 [C]). Mean and
        variance are for running averages: no gradient passes through them.
    """
    results: Any = _batch_norm(x, scale, bias, epsilon, with_relu)
    y, mean, var = results
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _batch_norm(x, scale, bias, epsilon, with_relu):
    return tuple(_forward(x, scale, bias, epsilon, with_relu)[:3])


def _forward(x, scale, bias, epsilon, with_relu):
    """(y, mean, var), and with a ReLU by oneDNN what its gradient needs to know."""
    by_xla = functools.partial(_plain, epsilon=epsilon, with_relu=with_relu)
    operation = _operation("normalization", x, epsilon, with_relu)
    if operation is None:
        return by_xla(x, scale, bias)
    remembered = [jnp.zeros(operation.workspace, jnp.uint8)] if with_relu else []

    def on_cpu(x, scale, bias):
        return tuple(onednn.call(operation, x, scale, bias))

    def default(x, scale, bias):
        return *by_xla(x, scale, bias), *remembered

    return by_platform(x, scale, bias, cpu=on_cpu, default=default)


def _fwd(x, scale, bias, epsilon, with_relu):
    y, mean, var, *workspace = _forward(x, scale, bias, epsilon, with_relu)
    return (y, mean, var), (x, scale, bias, mean, var, *workspace)


def _bwd(epsilon, with_relu, residuals, cotangents):
    x, scale, bias, mean, var, *workspace = residuals
    dy = cotangents[0]
    by_xla = functools.partial(_plain_gradient, epsilon=epsilon, with_relu=with_relu)
    operation = _operation("normalization_gradient", x, epsilon, with_relu)
    if operation is None:
        return by_xla(x, dy, mean, var, scale, bias)

    def default(x, dy, mean, var, scale, bias, *workspace):
        del workspace
        return by_xla(x, dy, mean, var, scale, bias)

    def on_cpu(x, dy, mean, var, scale, bias, *workspace):
        del bias
        return tuple(onednn.call(operation, x, dy, mean, var, scale, *workspace))

    arrays = (x, dy, mean, var, scale, bias, *workspace)
    return by_platform(*arrays, cpu=on_cpu, default=default)


_batch_norm.defvjp(_fwd, _bwd)


def _operation(kind, x, epsilon, with_relu) -> onednn.Normalization | None:
    """oneDNN's, where it has one for both directions."""
    if x.ndim != 4:
        return None
    what: Any = {"images": x.shape, "epsilon": epsilon, "relu": with_relu, "dtype": x.dtype.name}
    fitted = [
        onednn.with_workspace(onednn.Normalization(direction, **what))
        for direction in ("normalization", "normalization_gradient")
    ]
    if None in fitted:
        return None
    return fitted[0] if kind == "normalization" else fitted[1]


def _plain(x, scale, bias, *, epsilon, with_relu):
    """By the two-pass formula.

    The one-pass formula (mean of squares minus squared mean) is what cuDNN and Linen use,
    but it cancels for channels whose mean is large beside their spread, and on CPU the second
    pass costs little.
    """
    wide, axes = x.astype(jnp.float32), tuple(range(x.ndim - 1))
    mean = jnp.mean(wide, axes)
    var = jnp.mean(jnp.square(wide - along(mean, x)), axes)
    y = affine(wide, scale, bias, mean, var, epsilon)
    return (jax.nn.relu(y) if with_relu else y).astype(x.dtype), mean, var


def _plain_gradient(x, dy, mean, var, scale, bias, *, epsilon, with_relu):
    wide, g, axes = x.astype(jnp.float32), dy.astype(jnp.float32), tuple(range(x.ndim - 1))
    if with_relu:
        g = jnp.where(affine(wide, scale, bias, mean, var, epsilon) > 0, g, 0.0)
    inverse = lax.rsqrt(var + epsilon)
    normalized = (wide - along(mean, x)) * along(inverse, x)
    dbias, dscale = jnp.sum(g, axes), jnp.sum(g * normalized, axes)
    count = x.size // x.shape[-1]
    common = along(dbias / count, x) + normalized * along(dscale / count, x)
    return (along(scale * inverse, x) * (g - common)).astype(x.dtype), dscale, dbias


def affine(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    mean: jax.Array,
    var: jax.Array,
    epsilon: float,
) -> jax.Array:
    """Normalization with given statistics [C], as one factor and one offset per channel."""
    factor, offset = factor_and_offset(scale, bias, mean, var, epsilon)
    return x * along(factor, x) + along(offset, x)


def factor_and_offset(
    scale: jax.Array, bias: jax.Array, mean: jax.Array, var: jax.Array, epsilon: float
) -> tuple[jax.Array, jax.Array]:
    """What normalization with given statistics multiplies by and adds, each [C]."""
    factor = scale * lax.rsqrt(var + epsilon)
    return factor, bias - mean * factor


def along(channels: jax.Array, x: jax.Array) -> jax.Array:
    """A value per channel with axes to go with `x`, whose last axis they are."""
    return channels.reshape((1,) * (x.ndim - 1) + (-1,))
