"""ResNet (He et al., arXiv 1512.03385) in the form of torchvision and timm, called v1.5.

ResNet-D (He et al., arXiv 1812.01187) has three 3x3 convolutions in its stem, and shortcuts that
average before they project. Wide ResNet (arXiv 1605.07146) and ResNeXt (arXiv 1611.05431) are
ResNets whose bottlenecks have another 3x3 convolution: a wider one, and one in groups.

v1.5 puts a bottleneck's stride on its 3x3 convolution; the paper and Keras put it on the
first 1x1. Which one holds, whether convolutions have biases and how batch normalization is
set belong to the source of the weights, so they are part of the configuration.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import flax.linen as nn
import jax

from jtl.models.chain import Unit, unit
from jtl.models.layers.blocks import BatchNorm, Conv, NormSpec, conv_norm
from jtl.models.layers.pool import halve, max_pool


@dataclasses.dataclass(frozen=True)
class ResNet:
    """Configuration of a ResNet.

    Attributes:
        block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1 with four times the width).
        depths: Number of blocks per stage.
        base_width: Channels of a bottleneck's 3x3 convolution per group in the first stage.
        groups: Of a bottleneck's 3x3 convolution.
        norm: Batch normalization of the weights' source.
        stride_in_1x1: Stride on a bottleneck's first 1x1 instead of its 3x3.
        conv_bias: Whether convolutions have biases.
        form_d: Whether it is a ResNet-D.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    base_width: int = 64
    groups: int = 1
    norm: NormSpec = NormSpec()
    stride_in_1x1: bool = False
    conv_bias: bool = False
    form_d: bool = False

    def units(self) -> tuple[Unit, ...]:
        """Stem, then the blocks of four stages with 64, 128, 256, 512 (times four) channels."""
        stem = DeepStem if self.form_d else Stem
        chain = [unit("stem", stem, norm=self.norm, conv_bias=self.conv_bias)]
        for s, depth in enumerate(self.depths, 1):
            for b in range(1, depth + 1):
                chain.append(self._block(s, b))
        return tuple(chain)

    def _block(self, stage: int, index: int) -> Unit:
        options = dict(
            width=64 * 2 ** (stage - 1),
            strides=2 if stage > 1 and index == 1 else 1,
            norm=self.norm,
            conv_bias=self.conv_bias,
            # The first block of a stage changes the shape, except where 64 channels stay 64.
            project=index == 1 and (stage > 1 or self.block == "bottleneck"),
            pools=self.form_d,
        )
        path = f"stage{stage}/block{index}"
        if self.block == "basic":
            return unit(path, BasicBlock, **options)
        inner = options["width"] * self.base_width // 64 * self.groups
        options |= dict(inner=inner, groups=self.groups, stride_in_1x1=self.stride_in_1x1)
        return unit(path, Bottleneck, **options)


class Stem(nn.Module):
    """7x7 convolution with stride 2 and 3x3 max pooling with stride 2: [N, H, W, 3] -> H/4."""

    norm: NormSpec
    conv_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(64, 7, 2, padding=3, use_bias=self.conv_bias, name="conv1")
        norm = BatchNorm(self.norm, name="bn1")
        x = conv_norm(x, conv, norm, train=train, activation="relu")
        return max_pool(x, 3, 2, padding=1)


class DeepStem(nn.Module):
    """Three 3x3 convolutions, the first with stride 2, and pooling: [N, H, W, 3] -> H/4."""

    norm: NormSpec
    conv_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        for i, features in enumerate((32, 32, 64), 1):
            strides, bias = 2 if i == 1 else 1, self.conv_bias
            conv = Conv(features, 3, strides, 1, use_bias=bias, name=f"conv{i}")
            norm = BatchNorm(self.norm, name=f"bn{i}")
            x = conv_norm(x, conv, norm, train=train, activation="relu")
        return max_pool(x, 3, 2, padding=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity or projected shortcut."""

    width: int
    strides: int
    norm: NormSpec
    conv_bias: bool
    project: bool
    pools: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bias = self.conv_bias
        conv1 = Conv(self.width, 3, self.strides, 1, use_bias=bias, name="conv1")
        conv2 = Conv(self.width, 3, 1, 1, use_bias=bias, name="conv2")
        bn1, bn2 = (BatchNorm(self.norm, name=f"bn{i}") for i in (1, 2))
        shortcut = x
        if self.project:
            down = Shortcut(self.width, self.strides, self.norm, bias, self.pools, name="down")
            shortcut = down(x, train=train)
        y = conv_norm(x, conv1, bn1, train=train, activation="relu")
        return conv_norm(y, conv2, bn2, train=train, activation="relu", residual=shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside an identity or projected shortcut.

    `inner` channels between them, four times `width` at the end.
    """

    width: int
    inner: int
    groups: int
    strides: int
    norm: NormSpec
    conv_bias: bool
    project: bool
    pools: bool
    stride_in_1x1: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        first, second = (self.strides, 1) if self.stride_in_1x1 else (1, self.strides)
        bias = self.conv_bias
        conv1 = Conv(self.inner, 1, first, 0, use_bias=bias, name="conv1")
        conv2 = Conv(self.inner, 3, second, 1, self.groups, use_bias=bias, name="conv2")
        conv3 = Conv(4 * self.width, 1, 1, 0, use_bias=bias, name="conv3")
        bn1, bn2, bn3 = (BatchNorm(self.norm, name=f"bn{i}") for i in (1, 2, 3))
        shortcut = x
        if self.project:
            features = 4 * self.width
            down = Shortcut(features, self.strides, self.norm, bias, self.pools, name="down")
            shortcut = down(x, train=train)
        y = conv_norm(x, conv1, bn1, train=train, activation="relu")
        y = conv_norm(y, conv2, bn2, train=train, activation="relu")
        return conv_norm(y, conv3, bn3, train=train, activation="relu", residual=shortcut)


class Shortcut(nn.Module):
    """1x1 projection of the shortcut with its own normalization.

    With `pools` it averages 2x2 pixels before instead of striding.
    """

    features: int
    strides: int
    norm: NormSpec
    conv_bias: bool
    pools: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        strides = self.strides
        if self.pools and strides == 2:
            x, strides = halve(x), 1
        conv = Conv(self.features, 1, strides, 0, use_bias=self.conv_bias, name="conv")
        return conv_norm(x, conv, BatchNorm(self.norm, name="bn"), train=train)
