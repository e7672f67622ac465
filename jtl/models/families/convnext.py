"""ConvNeXt (Liu et al., arXiv 2201.03545)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.chain import Unit, unit
from jtl.models.layers.blocks import Conv, conv_norm
from jtl.models.layers.layer_norm import LayerNorm, LayerScale, scaled
from jtl.onednn import Activation


@dataclasses.dataclass(frozen=True)
class ConvNeXt:
    """Configuration of a ConvNeXt.

    Attributes:
        depths: Number of blocks in each of the four stages.
        channels: Channels of each stage.
    """

    depths: tuple[int, ...] = (3, 3, 9, 3)
    channels: tuple[int, ...] = (96, 192, 384, 768)

    activation: ClassVar[Activation] = "gelu"
    min_size: ClassVar[int] = 32
    """The stem and three downsamplings divide the sides by 32, rounded down."""

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of four stages, and a normalization of the pooled features."""
        chain = [unit("stem", Stem, features=self.channels[0])]
        for s, (depth, width) in enumerate(zip(self.depths, self.channels, strict=True), 1):
            if s > 1:
                chain.append(unit(f"stage{s}/downsample", Downsample, features=width))
            chain += [unit(f"stage{s}/block{b}", Block) for b in range(1, depth + 1)]
        return (*chain, unit("final", PooledNorm))


class Stem(nn.Module):
    """Patches of 4 x 4 pixels and their normalization: [N, H, W, 3] -> [N, H/4, W/4, features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(self.features, 4, 4, 0, use_bias=True, name="conv")
        return LayerNorm(name="norm")(conv_norm(x, conv, None, train=train))


class Downsample(nn.Module):
    """Normalization and a 2x2 convolution with stride 2."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(self.features, 2, 2, 0, use_bias=True, name="conv")
        return conv_norm(LayerNorm(name="norm")(x), conv, None, train=train)


class Block(nn.Module):
    """7x7 depthwise convolution, normalization, and two dense layers over channels."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        conv_dw = Conv(channels, 7, 1, 3, groups=channels, use_bias=True, name="conv_dw")
        fc1 = Conv(4 * channels, 1, 1, 0, use_bias=True, name="fc1")
        fc2 = Conv(channels, 1, 1, 0, use_bias=True, name="fc2")
        y = LayerNorm(name="norm")(conv_norm(x, conv_dw, None, train=train))
        y = conv_norm(y, fc1, None, train=train, activation="gelu")
        return scaled(y, fc2, LayerScale(name="layer_scale"), x)


class PooledNorm(nn.Module):
    """The average over the pixels, and its normalization: [N, H, W, C] -> [N, 1, 1, C]."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train  # The same in both modes.
        x = jnp.mean(x, (1, 2), dtype=jnp.float32, keepdims=True).astype(x.dtype)
        return LayerNorm(name="norm")(x)
