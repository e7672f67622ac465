"""DenseNet (Huang et al., arXiv 1608.06993) in the form of torchvision, timm and Keras."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.chain import Unit, unit
from jtl.models.layers.blocks import BatchNorm, Conv, NormSpec, conv_norm
from jtl.models.layers.pool import avg_pool, max_pool


@dataclasses.dataclass(frozen=True)
class DenseNet:
    """Configuration of a DenseNet with bottleneck layers and transitions that halve (BC).

    Attributes:
        depths: Number of dense layers per stage (dense block).
        growth: Channels that each dense layer adds.
        norm: Batch normalization of the weights' source.
    """

    depths: tuple[int, ...]
    growth: int = 32
    norm: NormSpec = NormSpec()

    @property
    def min_size(self) -> int:
        """What leaves a pixel after the transitions, which halve: 29 for four stages."""
        return 4 * 2 ** (len(self.depths) - 1) - 3

    def units(self) -> tuple[Unit, ...]:
        """Stem, the dense layers and the transition of each stage, final normalization."""
        channels = 2 * self.growth
        chain = [unit("stem", Stem, features=channels, norm=self.norm)]
        for s, depth in enumerate(self.depths, 1):
            for b in range(1, depth + 1):
                path = f"stage{s}/block{b}"
                chain.append(unit(path, DenseLayer, growth=self.growth, norm=self.norm))
            channels += depth * self.growth
            if s < len(self.depths):
                channels //= 2
                path = f"stage{s}/transition"
                chain.append(unit(path, Transition, features=channels, norm=self.norm))
        return (*chain, unit("final", Final, norm=self.norm))


class Stem(nn.Module):
    """7x7 convolution with stride 2 and 3x3 max pooling with stride 2: [N, H, W, 3] -> H/4."""

    features: int
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(self.features, 7, 2, padding=3, name="conv")
        norm = BatchNorm(self.norm, name="bn")
        x = conv_norm(x, conv, norm, train=train, activation="relu")
        return max_pool(x, 3, 2, padding=1)


class DenseLayer(nn.Module):
    """Adds `growth` channels computed from all channels before: [.., C] -> [.., C + growth]."""

    growth: int
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        y = conv_norm(x, None, BatchNorm(self.norm, name="bn1"), train=train, activation="relu")
        conv, norm = Conv(4 * self.growth, 1, 1, 0, name="conv1"), BatchNorm(self.norm, name="bn2")
        y = conv_norm(y, conv, norm, train=train, activation="relu")
        y = Conv(self.growth, 3, 1, 1, name="conv2")(y)
        return jnp.concatenate([x, y], axis=-1)


class Transition(nn.Module):
    """Halves channels by a 1x1 convolution and pixels by 2x2 average pooling."""

    features: int
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = conv_norm(x, None, BatchNorm(self.norm, name="bn"), train=train, activation="relu")
        x = Conv(self.features, 1, 1, 0, name="conv")(x)
        return avg_pool(x, 2, 2)


class Final(nn.Module):
    """Normalization and ReLU after the last dense block."""

    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return conv_norm(x, None, BatchNorm(self.norm, name="bn"), train=train, activation="relu")
