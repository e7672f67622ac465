"""The layers that the backbones are made of: convolution, batch normalization."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import ScopeParamShapeError
from jax import lax

from jtl.models.layers.conv import Padding, activate, conv2d, output_shape
from jtl.models.layers.norm import affine, batch_norm, factor_and_offset
from jtl.models.norm_spec import NormSpec
from jtl.onednn import Activation

# PyTorch's and Keras's ImageNet recipes for ReLU networks: variance 2 / fan_out.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


_unfused = contextvars.ContextVar("unfused", default=False)


@contextlib.contextmanager
def unfused_layers() -> Iterator[None]:
    """Trace every layer inside by itself, so that each has an output of its own.

    Elsewhere a convolution, the normalization after it and the activation are one where they
    can be, and what the layers between would give does not exist.
    """
    token = _unfused.set(True)
    try:
        yield
    finally:
        _unfused.reset(token)


def is_unfused() -> bool:
    """Whether a layer inside `unfused_layers` is traced."""
    return _unfused.get()


_shapes_only = contextvars.ContextVar("shapes_only", default=False)


@contextlib.contextmanager
def shapes_only(active: bool = True) -> Iterator[None]:
    """Trace convolutions and normalizations inside by their shapes alone.

    For whoever wants the shapes of a network and not its program: zeros of the result's shape
    stand for what a layer computes, and for its first kernel.

    Args:
        active: False for a part inside that needs the program after all.
    """
    token = _shapes_only.set(active)
    try:
        yield
    finally:
        _shapes_only.reset(token)


def is_shapes_only() -> bool:
    """Whether a layer inside `shapes_only` is traced."""
    return _shapes_only.get()


_statistics: contextvars.ContextVar[bool | None] = contextvars.ContextVar("stats", default=None)


@contextlib.contextmanager
def batch_statistics(active: bool) -> Iterator[None]:
    """Says for the batch normalizations inside whether the batch's statistics normalize.

    Elsewhere a module's `train` does. A unit in train mode may be one that normalizes with
    running averages: dropout is not batch normalization.
    """
    token = _statistics.set(active)
    try:
        yield
    finally:
        _statistics.reset(token)


def param(
    module: nn.Module, name: str, init: nn.initializers.Initializer, shape: tuple[int, ...]
) -> jax.Array:
    """A float32 param of a module: the one that was given, or a new one.

    As `Module.param`, which also traces the initializer of a param that was given, to compare
    shapes. Of a whole backbone that is half the time of tracing it.

    Raises:
        flax.errors.ScopeParamShapeError: What was given has another shape.
    """
    if not module.has_variable("params", name):
        if _shapes_only.get():  # To fold a random key for each takes most of the time.
            return module.variable("params", name, _blank, shape).value
        return module.param(name, init, shape, jnp.float32)
    given = module.get_variable("params", name)
    if jnp.shape(given) != shape:
        raise ScopeParamShapeError(name, "/".join(module.path), jnp.shape(given), shape)
    return given


def _blank(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    """Zeros that take no memory, and are no operation of what is traced."""
    return np.broadcast_to(np.zeros((), dtype), shape)


class Conv(nn.Module):
    """Convolution over NHWC images with a kernel in HWIO layout, with or without bias.

    Params are float32; the computation runs in the dtype of the input. A kernel of two sizes is
    (height, width).

    With `standardize` the kernel of each output channel has mean 0 and variance 1 in every call
    (weight standardization, Qiao et al., arXiv 1903.10520); it is what is added to the variance.
    """

    features: int
    kernel_size: int | tuple[int, int]
    strides: int = 1
    padding: Padding = "SAME"
    groups: int = 1
    use_bias: bool = False
    standardize: float | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        factor: jax.Array | None = None,
        offset: jax.Array | None = None,
        *,
        activation: Activation | None = None,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        size = self.kernel_size
        window = size if isinstance(size, tuple) else (size, size)
        shape = (*window, x.shape[-1] // self.groups, self.features)
        strides = (self.strides, self.strides)
        kernel = param(self, "kernel", conv_init, shape)
        bias = None
        if self.use_bias:
            bias = param(self, "bias", nn.initializers.zeros_init(), (self.features,))
        if _shapes_only.get():
            result = output_shape(x.shape, shape, strides, self.padding)
            return jnp.zeros(result, x.dtype)
        if self.standardize is not None:
            mean = jnp.mean(kernel, (0, 1, 2), keepdims=True)
            var = jnp.mean(jnp.square(kernel - mean), (0, 1, 2), keepdims=True)
            kernel = (kernel - mean) * lax.rsqrt(var + self.standardize)
        if factor is not None and offset is not None:  # A normalization's, folded in.
            kernel = kernel * factor.reshape(1, 1, 1, -1)
            bias = offset if bias is None else offset + bias * factor
        return conv2d(
            x,
            kernel.astype(x.dtype),
            bias,
            residual,
            strides=strides,
            padding=self.padding,
            groups=self.groups,
            activation=activation,
        )


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last (Ioffe and Szegedy, arXiv 1502.03167).

    Statistics and their arithmetic are float32 whatever the input's dtype; the result has
    the input's dtype. Written here rather than taken from Linen because the running variance
    must follow the source's convention (`NormSpec.unbiased`) for a fine-tuned model to equal
    the one that PyTorch or Keras would have given.

    Called with a convolution, it normalizes that one's output: with running averages the two
    become one convolution. `residual` is added before `activation`.
    """

    spec: NormSpec = NormSpec()

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        conv: Conv | None = None,
        activation: Activation | None = None,
        residual: jax.Array | None = None,
    ) -> jax.Array:
        channels = x.shape[-1] if conv is None else conv.features
        shapes_only = _shapes_only.get()
        zeros, ones = (_blank, _blank) if shapes_only else (jnp.zeros, jnp.ones)
        if self.spec.scale:
            scale = param(self, "scale", nn.initializers.ones_init(), (channels,))
        else:
            scale = ones((channels,), jnp.float32)
        bias = param(self, "bias", nn.initializers.zeros_init(), (channels,))
        running_mean = self.variable("batch_stats", "mean", zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", ones, (channels,), jnp.float32)
        if shapes_only:
            return x if conv is None else conv(x)
        epsilon = self.spec.epsilon
        chosen = _statistics.get()
        train = train if chosen is None else chosen
        if conv is not None and not train:
            statistics = running_mean.value, running_var.value
            folded = factor_and_offset(scale, bias, *statistics, epsilon)
            return conv(x, *folded, activation=activation, residual=residual)
        if conv is not None:
            x = conv(x)
        if not train:
            wide = x.astype(jnp.float32)
            y = affine(wide, scale, bias, running_mean.value, running_var.value, epsilon)
            return _finish(y.astype(x.dtype), residual, activation)
        fused = activation == "relu" and residual is None
        y, mean, var = batch_norm(x, scale, bias, epsilon, with_relu=fused)
        if not self.is_initializing():
            count = x.size // channels
            # A single value has no unbiased variance; PyTorch refuses it, we keep 0.
            correction = count / max(count - 1, 1) if self.spec.unbiased else 1.0
            keep = self.spec.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * correction * var
        return y if fused else _finish(y, residual, activation)


def _finish(y: jax.Array, residual: jax.Array | None, activation: Activation | None) -> jax.Array:
    return activate(y if residual is None else y + residual, activation)


def conv_norm(
    x: jax.Array,
    conv: Conv | None,
    norm: BatchNorm | None,
    *,
    train: bool,
    activation: Activation | None = None,
    residual: jax.Array | None = None,
) -> jax.Array:
    """activation(norm(conv(x)) + residual), in as few operations as there can be.

    Args:
        x: NHWC.
        conv: None where a normalization stands alone.
        norm: Of the convolution's output; None where there is none.
        train: Whether the batch's statistics normalize.
        activation: None for none.
        residual: None for none.
    """
    if _unfused.get() or (norm is None and conv is None):
        y = x if conv is None else conv(x)
        return _finish(y if norm is None else norm(y, train=train), residual, activation)
    if norm is None:
        assert conv is not None
        return conv(x, activation=activation, residual=residual)
    return norm(x, train=train, conv=conv, activation=activation, residual=residual)


def relu(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x)
