"""The blocks of networks for small devices: depthwise convolutions between 1x1 convolutions.

MobileNetV2 and V3, EfficientNet and its relatives are made of them. A block may weigh its
channels by what the whole image shows (squeeze-and-excitation, Hu et al., arXiv 1709.01507).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.layers.blocks import BatchNorm, Conv, NormSpec, conv_norm
from jtl.models.layers.conv import Padding
from jtl.onednn import Activation

Gate = Literal["sigmoid", "hard_sigmoid"]
_GATES = {"sigmoid": jax.nn.sigmoid, "hard_sigmoid": jax.nn.hard_sigmoid}


class Squeeze(NamedTuple):
    """How a block weighs its channels.

    Attributes:
        features: Channels between the two layers that compute the weights.
        activation: After the first of them.
        gate: Makes weights of what the second gives.
    """

    features: int
    activation: Activation
    gate: Gate


def round_channels(channels: float, divisor: int = 8, least: float = 0.9) -> int:
    """The nearest multiple of `divisor`, but never less than 90 % of `channels`, or `least`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < least * channels else rounded


def _padding(kind: str, kernel_size: int) -> Padding:
    return "SAME" if kind == "SAME" else kernel_size // 2


class Stem(nn.Module):
    """3x3 convolution with stride 2: [N, H, W, 3] -> [N, H/2, W/2, features]."""

    features: int
    norm: NormSpec
    padding: str
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(self.features, 3, 2, _padding(self.padding, 3), name="conv")
        norm = BatchNorm(self.norm, name="bn")
        return conv_norm(x, conv, norm, train=train, activation=self.activation)


class SqueezeExcite(nn.Module):
    """Squeeze-and-excitation: each channel times a weight that the whole image decides."""

    spec: Squeeze

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        reduce = Conv(self.spec.features, 1, 1, 0, use_bias=True, name="conv_reduce")
        expand = Conv(x.shape[-1], 1, 1, 0, use_bias=True, name="conv_expand")
        y = jnp.mean(x, (1, 2), dtype=jnp.float32, keepdims=True).astype(x.dtype)
        y = conv_norm(y, reduce, None, train=train, activation=self.spec.activation)
        y = conv_norm(y, expand, None, train=train)
        return x * _GATES[self.spec.gate](y)


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution and a linear 1x1: the block without expansion."""

    features: int
    kernel_size: int
    strides: int
    residual: bool
    activation: Activation
    squeeze: Squeeze | None
    norm: NormSpec
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pads = _padding(self.padding, self.kernel_size)
        channels, size, strides = x.shape[-1], self.kernel_size, self.strides
        conv_dw = Conv(channels, size, strides, pads, groups=channels, name="conv_dw")
        conv_pw = Conv(self.features, 1, 1, 0, name="conv_pw")
        bn1, bn2 = (BatchNorm(self.norm, name=f"bn{i}") for i in (1, 2))
        y = conv_norm(x, conv_dw, bn1, train=train, activation=self.activation)
        if self.squeeze is not None:
            y = SqueezeExcite(self.squeeze, name="se")(y, train=train)
        return conv_norm(y, conv_pw, bn2, train=train, residual=x if self.residual else None)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1."""

    features: int
    kernel_size: int
    strides: int
    expansion: float
    residual: bool
    activation: Activation
    squeeze: Squeeze | None
    norm: NormSpec
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pads = _padding(self.padding, self.kernel_size)
        channels = round_channels(self.expansion * x.shape[-1])
        size, strides = self.kernel_size, self.strides
        conv_pw = Conv(channels, 1, 1, 0, name="conv_pw")
        conv_dw = Conv(channels, size, strides, pads, groups=channels, name="conv_dw")
        conv_pwl = Conv(self.features, 1, 1, 0, name="conv_pwl")
        bn1, bn2, bn3 = (BatchNorm(self.norm, name=f"bn{i}") for i in (1, 2, 3))
        y = conv_norm(x, conv_pw, bn1, train=train, activation=self.activation)
        y = conv_norm(y, conv_dw, bn2, train=train, activation=self.activation)
        if self.squeeze is not None:
            y = SqueezeExcite(self.squeeze, name="se")(y, train=train)
        return conv_norm(y, conv_pwl, bn3, train=train, residual=x if self.residual else None)


class FusedInvertedResidual(nn.Module):
    """Full convolution that expands, linear 1x1: Fused-MBConv of EfficientNetV2."""

    features: int
    kernel_size: int
    strides: int
    expansion: float
    residual: bool
    activation: Activation
    norm: NormSpec
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pads = _padding(self.padding, self.kernel_size)
        channels = round_channels(self.expansion * x.shape[-1])
        conv_exp = Conv(channels, self.kernel_size, self.strides, pads, name="conv_exp")
        conv_pwl = Conv(self.features, 1, 1, 0, name="conv_pwl")
        bn1, bn2 = (BatchNorm(self.norm, name=f"bn{i}") for i in (1, 2))
        y = conv_norm(x, conv_exp, bn1, train=train, activation=self.activation)
        return conv_norm(y, conv_pwl, bn2, train=train, residual=x if self.residual else None)


class FusedBlock(nn.Module):
    """One full convolution: the fused block without expansion. The shortcut is not activated."""

    features: int
    kernel_size: int
    strides: int
    residual: bool
    activation: Activation
    norm: NormSpec
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pads = _padding(self.padding, self.kernel_size)
        conv = Conv(self.features, self.kernel_size, self.strides, pads, name="conv")
        norm = BatchNorm(self.norm, name="bn1")
        y = conv_norm(x, conv, norm, train=train, activation=self.activation)
        return x + y if self.residual else y


class Final(nn.Module):
    """The last 1x1 convolution."""

    features: int
    norm: NormSpec
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm = Conv(self.features, 1, 1, 0, name="conv"), BatchNorm(self.norm, name="bn")
        return conv_norm(x, conv, norm, train=train, activation=self.activation)


class PooledDense(nn.Module):
    """The average over the pixels, a dense layer and an activation: -> [N, 1, 1, features]."""

    features: int
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = jnp.mean(x, (1, 2), dtype=jnp.float32, keepdims=True).astype(x.dtype)
        conv = Conv(self.features, 1, 1, 0, use_bias=True, name="conv")
        return conv_norm(x, conv, None, train=train, activation=self.activation)
