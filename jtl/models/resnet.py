"""ResNet (He et al., arXiv 1512.03385) in the form of torchvision and timm, called v1.5.

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
from jtl.models.layers import BatchNorm, Conv, NormSpec, relu
from jtl.models.pool import max_pool


@dataclasses.dataclass(frozen=True)
class ResNet:
    """Configuration of a ResNet.

    Attributes:
        block: `basic` (two 3x3) or `bottleneck` (1x1, 3x3, 1x1 with four times the width).
        depths: Number of blocks per stage.
        norm: Batch normalization of the weights' source.
        stride_in_1x1: Stride on a bottleneck's first 1x1 instead of its 3x3.
        conv_bias: Whether convolutions have biases.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    norm: NormSpec = NormSpec()
    stride_in_1x1: bool = False
    conv_bias: bool = False

    def units(self) -> tuple[Unit, ...]:
        """Stem, then the blocks of four stages with 64, 128, 256, 512 (times four) channels."""
        chain = [unit("stem", Stem, norm=self.norm, conv_bias=self.conv_bias)]
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
        )
        path = f"stage{stage}/block{index}"
        if self.block == "basic":
            return unit(path, BasicBlock, **options)
        return unit(path, Bottleneck, **options, stride_in_1x1=self.stride_in_1x1)


class Stem(nn.Module):
    """7x7 convolution with stride 2 and 3x3 max pooling with stride 2: [N, H, W, 3] -> H/4."""

    norm: NormSpec
    conv_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(64, 7, 2, padding=3, use_bias=self.conv_bias, name="conv1")(x)
        x = relu(BatchNorm(self.norm, name="bn1")(x, train=train))
        return max_pool(x, 3, 2, padding=1)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity or projected shortcut."""

    width: int
    strides: int
    norm: NormSpec
    conv_bias: bool
    project: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        shortcut = x
        y = Conv(self.width, 3, self.strides, 1, use_bias=self.conv_bias, name="conv1")(x)
        y = relu(BatchNorm(self.norm, name="bn1")(y, train=train))
        y = Conv(self.width, 3, 1, 1, use_bias=self.conv_bias, name="conv2")(y)
        y = BatchNorm(self.norm, name="bn2")(y, train=train)
        if self.project:
            shortcut = Shortcut(self.width, self.strides, self.norm, self.conv_bias, name="down")(
                x, train=train
            )
        return relu(y + shortcut)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions beside an identity or projected shortcut."""

    width: int
    strides: int
    norm: NormSpec
    conv_bias: bool
    project: bool
    stride_in_1x1: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        first, second = (self.strides, 1) if self.stride_in_1x1 else (1, self.strides)
        bias = self.conv_bias
        shortcut = x
        y = Conv(self.width, 1, first, 0, use_bias=bias, name="conv1")(x)
        y = relu(BatchNorm(self.norm, name="bn1")(y, train=train))
        y = Conv(self.width, 3, second, 1, use_bias=bias, name="conv2")(y)
        y = relu(BatchNorm(self.norm, name="bn2")(y, train=train))
        y = Conv(4 * self.width, 1, 1, 0, use_bias=bias, name="conv3")(y)
        y = BatchNorm(self.norm, name="bn3")(y, train=train)
        if self.project:
            shortcut = Shortcut(4 * self.width, self.strides, self.norm, bias, name="down")(
                x, train=train
            )
        return relu(y + shortcut)


class Shortcut(nn.Module):
    """1x1 projection of the shortcut with its own normalization."""

    features: int
    strides: int
    norm: NormSpec
    conv_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.features, 1, self.strides, 0, use_bias=self.conv_bias, name="conv")(x)
        return BatchNorm(self.norm, name="bn")(x, train=train)
