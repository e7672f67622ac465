"""The ways in which a convolution is computed by XLA."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Explicit zero padding: ((top, bottom), (left, right))."""

_DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")


def fastest_on_cpu(x_shape, kernel_shape, groups):
    """The lowering that CPUs run fastest for a convolution of these shapes."""
    height, width, kernel_in, kernel_out = kernel_shape
    if (height, width) == (1, 1) and groups == 1:
        return matrix_product
    if kernel_in == 1 and kernel_out == groups == x_shape[-1]:
        return shifted_sum
    return direct


def direct(x: jax.Array, kernel: jax.Array, *, strides, pads: Pads, groups: int) -> jax.Array:
    """XLA's own convolution: the lowering of every accelerator."""
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        pads,
        dimension_numbers=_DIMENSION_NUMBERS,
        feature_group_count=groups,
    )


def matrix_product(x: jax.Array, kernel: jax.Array, *, strides, pads: Pads, groups) -> jax.Array:
    """A 1x1 convolution as one matrix product over all pixels that the strides keep."""
    del groups  # Always 1 here.
    if any(pad for pair in pads for pad in pair):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    if tuple(strides) != (1, 1):
        x = x[:, :: strides[0], :: strides[1], :]
    # As XLA's convolution does. In bfloat16 the kernel's gradient, a sum over all pixels, would be
    # accumulated in its 8 bits by XLA for CPUs from jaxlib 0.12 on, a hundredth off and slower.
    wide = jnp.promote_types(x.dtype, jnp.float32)
    product = lax.dot_general(
        x, kernel[0, 0], (((3,), (0,)), ((), ())), preferred_element_type=wide
    )
    return product.astype(x.dtype)


def shifted_sum(x: jax.Array, kernel: jax.Array, *, strides, pads: Pads, groups) -> jax.Array:
    """A depthwise convolution as a sum of shifted images, each scaled by one kernel tap."""
    del groups  # Always the channel count here.
    # Accumulated at least in float32, as XLA's convolution is: up to 25 taps added one after
    # the other in bfloat16 would lose most of its 8 bits, in the gradients too.
    dtype = x.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    x, kernel = x.astype(wide), kernel.astype(wide)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    batch, height, width, channels = x.shape
    taps_down, taps_across = kernel.shape[:2]
    rows = (height - taps_down) // strides[0] + 1
    columns = (width - taps_across) // strides[1] + 1
    total = None
    for i in range(taps_down):
        for j in range(taps_across):
            window = lax.slice(
                x,
                (0, i, j, 0),
                (
                    batch,
                    i + (rows - 1) * strides[0] + 1,
                    j + (columns - 1) * strides[1] + 1,
                    channels,
                ),
                (1, *strides, 1),
            )
            tap = window * kernel[i, j, 0, :].reshape(1, 1, 1, -1)
            total = tap if total is None else total + tap
    assert total is not None  # A kernel has at least one tap.
    return total.astype(dtype)
