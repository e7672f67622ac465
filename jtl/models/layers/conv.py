"""2-D convolution that lowers differently by platform.

Accelerators always get XLA's convolution, which the vendor's library serves. On CPU, XLA's
convolution is far from the machine's peak for two shapes that image classifiers are made
of, so those take another lowering of the same sum:

* 1x1 convolutions are one matrix product over all pixels;
* depthwise convolutions are a sum of shifted products, which XLA fuses into one pass.

The choice is that of `jtl.common.platforms`, and one program can be exported for every platform.
The gradients are those of the chosen lowering, by the same rule: nothing of one platform's
lowering is traced into another's.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from jtl import onednn
from jtl.common.platforms import by_platform
from jtl.models.layers.xla_convolution import Pads, direct, fastest_on_cpu
from jtl.onednn import Activation

Padding = Literal["SAME", "CEIL"] | int | Pads
"""`SAME` as TensorFlow pads it (more below and right), `CEIL` as PyTorch's pooling in ceil mode (so
much below and right that the last pixels are in a window), one number for every side, or `Pads`."""


ACTIVATIONS: dict[Activation, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
}
_PATCH = 8
"""From which size on windows that lie side by side are computed as a product over patches: oneDNN
3.2 reads memory that is not there in the gradients of windows of 16 x 16."""
# Those whose gradient their output does not tell.
_BY_INPUT = ("silu", "hard_swish", "gelu")


def explicit_padding(
    padding: Padding, size: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> Pads:
    """Resolves `padding` for an input of `size` (height, width) into explicit pads."""
    if padding == "CEIL":
        sizes = zip(size, kernel, strides, strict=True)
        below, right = (max(window - n, (window - n) % stride) for n, window, stride in sizes)
        return ((0, below), (0, right))
    if isinstance(padding, str):
        (top, bottom), (left, right) = lax.padtype_to_pads(size, kernel, strides, padding)
        return ((top, bottom), (left, right))
    if isinstance(padding, int):
        return ((padding, padding), (padding, padding))
    return padding


def output_shape(
    x: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, int], padding: Padding
) -> tuple[int, int, int, int]:
    """The shape (NHWC) of images of shape `x` (NHWC) convolved with a kernel (HWIO)."""
    pads = explicit_padding(padding, (x[1], x[2]), (kernel[0], kernel[1]), strides)
    sizes = zip(x[1:3], kernel[:2], strides, pads, strict=True)
    rows, columns = ((n + sum(pad) - k) // stride + 1 for n, k, stride, pad in sizes)
    return x[0], rows, columns, kernel[3]


def conv2d(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    residual: jax.Array | None = None,
    *,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    groups: int = 1,
    activation: Activation | None = None,
) -> jax.Array:
    """Cross-correlates images with a kernel, as `lax.conv_general_dilated` does.

    What follows a convolution in inference is part of it, so that the result is written once:
    activation(convolution + bias + residual).

    Args:
        x: Images, NHWC, float.
        kernel: HWIO with I = C / groups, the dtype of `x`.
        bias: float32 [O], added to every pixel; None for none.
        residual: An array of the result's shape, added; None for none.
        strides: (vertical, horizontal) steps in pixels.
        padding: See `Padding`.
        groups: Number of channel groups; C for a depthwise convolution.
        activation: Of `ACTIVATIONS`, applied at the end, or None. The gradient of `relu` and
            `relu6` is 0 at the kinks.

    Returns:
        NHWC array of `x`'s dtype.
    """
    _, height, width, _ = x.shape
    pads = explicit_padding(padding, (height, width), (kernel.shape[0], kernel.shape[1]), strides)
    covers = kernel.shape[:2] == x.shape[1:3] and pads == ((0, 0), (0, 0))
    # In an exported program the number of images is not known.
    any_number = not isinstance(x.shape[0], int)
    if covers and groups == 1 and (any_number or kernel.size > x.size):
        # A dense layer, with a kernel so large that a library which first brings it into a layout
        # of its own would do little else. Of matrices, since XLA's gradients of a product over
        # three axes copy the kernel into another order, which takes longer than the product.
        y = x.reshape(x.shape[0], -1) @ kernel.reshape(-1, kernel.shape[-1])
        following = [array for array in (bias, residual) if array is not None]
        return _followed(bias is not None, activation, y[:, None, None, :], *following)
    beside = tuple(strides) == kernel.shape[:2] and pads == ((0, 0), (0, 0))
    if beside and groups == 1 and min(strides) >= _PATCH:
        x, kernel = _patches(x, strides), kernel.reshape(1, 1, -1, kernel.shape[-1])
        strides = (1, 1)
    return _conv(x, kernel, bias, residual, strides, pads, groups, activation)


def _patches(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """The pixels of every patch as the channels of one: [N, H, W, C] -> [N, h, w, C * pixels]."""
    rows, columns = x.shape[1] // size[0], x.shape[2] // size[1]
    x = x[:, : rows * size[0], : columns * size[1]]
    x = x.reshape(x.shape[0], rows, size[0], columns, size[1], x.shape[3])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], rows, columns, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _conv(x, kernel, bias, residual, strides, pads, groups, activation):
    window = (x.shape, kernel.shape, strides, pads, groups)
    following = [array for array in (bias, residual) if array is not None]
    followed = functools.partial(_followed, bias is not None, activation)

    def by_xla(lowering):
        def run(x, kernel, *following):
            return followed(_of(lowering, "forward", *window)(x, kernel), *following)

        return run

    def on_cpu(x, kernel, *following):
        operation = dataclasses.replace(
            _operation("forward", x.dtype, *window),
            bias=bias is not None,
            residual=residual is not None,
            activation=activation,
        )
        if onednn.available(operation):
            return onednn.call(operation, x, kernel, *following)[0]
        return followed(_on_cpu("forward", *window)(x, kernel), *following)

    return by_platform(x, kernel, *following, cpu=on_cpu, default=by_xla(direct))


def _followed(has_bias: bool, activation, y, *following):
    """What follows a convolution, by XLA, in float32 at least."""
    total = y.astype(jnp.promote_types(y.dtype, jnp.float32))
    for index, array in enumerate(following):
        total = total + (array.reshape(1, 1, 1, -1) if has_bias and index == 0 else array)
    return activate(total, activation).astype(y.dtype)


def activate(x: jax.Array, activation: Activation | None) -> jax.Array:
    """An activation of `x`; `x` as it is for None."""
    return x if activation is None else ACTIVATIONS[activation](x)


def _conv_fwd(x, kernel, bias, residual, strides, pads, groups, activation):
    if activation in _BY_INPUT:
        # Two inputs have the same output, so the gradient needs what goes into the activation.
        z: Any = _conv(x, kernel, bias, residual, strides, pads, groups, None)
        return activate(z, activation), (x, kernel, bias, residual, z)
    y = _conv(x, kernel, bias, residual, strides, pads, groups, activation)
    return y, (x, kernel, bias, residual, y if activation else None)


def _conv_bwd(strides, pads, groups, activation, residuals, dy):
    x, kernel, bias, residual, y = residuals
    if activation in _BY_INPUT:
        [dy] = jax.vjp(ACTIVATIONS[activation], y)[1](dy)
    elif activation is not None:
        alive = (y > 0) & (y < 6) if activation == "relu6" else y > 0
        dy = jnp.where(alive, dy, jnp.zeros((), dy.dtype))
    window = (x.shape, kernel.shape, strides, pads, groups)
    # Each by itself, so that a gradient nobody needs is not computed.
    dx = _by_platform("input_gradient", *window)(dy, kernel)
    dkernel = _by_platform("kernel_gradient", *window)(x, dy)
    dbias = None if bias is None else jnp.sum(dy, (0, 1, 2), dtype=jnp.float32).astype(bias.dtype)
    return dx, dkernel, dbias, None if residual is None else dy


_conv.defvjp(_conv_fwd, _conv_bwd)


def _by_platform(kind: onednn.Kind, *window):
    """A function of two arrays: (x, kernel), (dy, kernel) or (x, dy), by the kind."""

    def choose(first, second):
        on_cpu, default = _on_cpu(kind, *window), _of(direct, kind, *window)
        return by_platform(first, second, cpu=on_cpu, default=default)

    return choose


def _on_cpu(kind: onednn.Kind, x_shape, kernel_shape, strides, pads, groups):
    window = (x_shape, kernel_shape, strides, pads, groups)

    def run(first, second):
        operation = _operation(kind, first.dtype, *window)
        if onednn.available(operation):
            return onednn.call(operation, first, second)[0]
        return _of(fastest_on_cpu(x_shape, kernel_shape, groups), kind, *window)(first, second)

    return run


def _of(lowering, kind: onednn.Kind, x_shape, kernel_shape, strides, pads, groups):
    forward = functools.partial(lowering, strides=strides, pads=pads, groups=groups)
    return functools.partial(_ARRAYS[kind], forward, x_shape, kernel_shape)


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


def _operation(
    kind: onednn.Kind, dtype, x_shape, kernel_shape, strides, pads, groups
) -> onednn.Convolution:
    outputs = output_shape(x_shape, kernel_shape, strides, pads)
    around = (*pads[0], *pads[1])
    return onednn.Convolution(
        *(kind, tuple(x_shape), tuple(kernel_shape), outputs, tuple(strides), around, groups),
        dtype=dtype.name,
    )
