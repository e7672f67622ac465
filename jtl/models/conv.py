"""2-D convolution that lowers differently by platform.

Accelerators always get XLA's convolution, which the vendor's library serves. On CPU, XLA's
convolution is far from the machine's peak for two shapes that image classifiers are made
of, so those take another lowering of the same sum:

* 1x1 convolutions are one matrix product over all pixels;
* depthwise convolutions are a sum of shifted products, which XLA fuses into one pass.

The choice is made by `jax.lax.platform_dependent` while a program is lowered, so one traced
program exports for every platform. The gradients are those of the chosen lowering, by the
same rule: nothing of one platform's lowering is traced into another's.
"""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from jtl import onednn

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Explicit zero padding: ((top, bottom), (left, right))."""

Padding = Literal["SAME"] | int | Pads
"""`SAME` as TensorFlow pads it (more below and right), one number for every side, or `Pads`."""

_DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")


def explicit_padding(
    padding: Padding, size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> Pads:
    """Resolves `padding` for an input of `size` (height, width) into explicit pads."""
    if isinstance(padding, str):
        (top, bottom), (left, right) = lax.padtype_to_pads(size, kernel, strides, padding)
        return ((top, bottom), (left, right))
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    return padding


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    groups: int = 1,
) -> jax.Array:
    """Cross-correlates images with a kernel, as `lax.conv_general_dilated` does.

    Args:
        x: Images, NHWC, float.
        kernel: HWIO with I = C / groups, the dtype of `x`.
        strides: (vertical, horizontal) steps in pixels.
        padding: See `Padding`.
        groups: Number of channel groups; C for a depthwise convolution.

    Returns:
        NHWC array of `x`'s dtype.
    """
    _, height, width, _ = x.shape
    pads = explicit_padding(padding, (height, width), (kernel.shape[0], kernel.shape[1]), strides)
    return _conv(x, kernel, strides, pads, groups)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv(x, kernel, strides, pads, groups):
    return _by_platform("forward", x.shape, kernel.shape, strides, pads, groups)(x, kernel)


def _conv_fwd(x, kernel, strides, pads, groups):
    return _conv(x, kernel, strides, pads, groups), (x, kernel)


def _conv_bwd(strides, pads, groups, residuals, dy):
    x, kernel = residuals
    window = (x.shape, kernel.shape, strides, pads, groups)
    # Each by itself, so that a gradient nobody needs is not computed.
    dx = _by_platform("input_gradient", *window)(dy, kernel)
    dkernel = _by_platform("kernel_gradient", *window)(x, dy)
    return dx, dkernel


_conv.defvjp(_conv_fwd, _conv_bwd)


def _by_platform(kind: onednn.Kind, x_shape, kernel_shape, strides, pads, groups):
    """A function of two arrays: (x, kernel), (dy, kernel) or (x, dy), by the kind."""

    def of(lowering):
        forward = functools.partial(lowering, strides=strides, pads=pads, groups=groups)
        return functools.partial(_ARRAYS[kind], forward, x_shape, kernel_shape)

    def on_cpu(first, second):
        geometry = _geometry(kind, x_shape, kernel_shape, strides, pads, groups)
        if onednn.available(geometry, first.dtype):
            return onednn.call(geometry, first, second)
        return of(_cpu_lowering(x_shape, kernel_shape, groups))(first, second)

    def choose(first, second):
        return lax.platform_dependent(first, second, cpu=on_cpu, default=of(plain))

    return choose


def _forward_of(lowering, x_shape, kernel_shape, x, kernel):
    del x_shape, kernel_shape
    return lowering(x, kernel)


def _input_gradient_of(lowering, x_shape, kernel_shape, dy, kernel):
    del kernel_shape
    x = jax.ShapeDtypeStruct(x_shape, dy.dtype)
    [dx] = jax.linear_transpose(lambda x: lowering(x, kernel), x)(dy)
    return dx


def _kernel_gradient_of(lowering, x_shape, kernel_shape, x, dy):
    del x_shape
    kernel = jax.ShapeDtypeStruct(kernel_shape, x.dtype)
    [dkernel] = jax.linear_transpose(lambda kernel: lowering(x, kernel), kernel)(dy)
    return dkernel


_ARRAYS = {
    "forward": _forward_of,
    "input_gradient": _input_gradient_of,
    "kernel_gradient": _kernel_gradient_of,
}


def _geometry(kind: onednn.Kind, x_shape, kernel_shape, strides, pads, groups) -> onednn.Geometry:
    sizes = zip(x_shape[1:3], kernel_shape[:2], strides, pads, strict=True)
    rows, columns = ((n + sum(pad) - k) // stride + 1 for n, k, stride, pad in sizes)
    outputs = (x_shape[0], rows, columns, kernel_shape[3])
    around = (*pads[0], *pads[1])
    return onednn.Geometry(
        kind, tuple(x_shape), tuple(kernel_shape), outputs, tuple(strides), around, groups
    )


def _cpu_lowering(x_shape, kernel_shape, groups):
    height, width, kernel_in, kernel_out = kernel_shape
    if (height, width) == (1, 1) and groups == 1:
        return matrix_product
    if kernel_in == 1 and kernel_out == groups == x_shape[-1]:
        return shifted_sum
    return plain


def plain(x: jax.Array, kernel: jax.Array, *, strides, pads: Pads, groups: int) -> jax.Array:
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
    return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))


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
