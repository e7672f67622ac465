"""SqueezeNet (Iandola et al., arXiv 1602.07360), versions 1.0 and 1.1, in torchvision's form."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.chain import Unit, unit
from jtl.models.layers.blocks import Conv, conv_norm
from jtl.models.layers.conv import Padding
from jtl.models.layers.pool import max_pool
from jtl.models.layers.sequential import MaxPool

# Channels of the squeezing and of each expanding convolution.
_FIRES = tuple((n, 4 * n) for n in (16, 16, 32, 32, 48, 48, 64, 64))


@dataclasses.dataclass(frozen=True)
class SqueezeNet:
    """Configuration of a SqueezeNet.

    Attributes:
        stem: Channels and kernel of the first convolution.
        depths: Number of fire modules per stage; a max pooling stands between stages.
        pool_last: Whether the poolings take a last partial window, as torchvision's do; Keras's
            port drops it. They differ where a map's side minus 3 is odd, not for 224 pixels.
    """

    stem: tuple[int, int]
    depths: tuple[int, ...]
    pool_last: bool = True

    relu_logits: ClassVar[bool] = True
    """The published weights' logits are ReLUs of a 1x1 convolution, averaged over the pixels."""

    @property
    def min_size(self) -> int:
        """The poolings need 8 x 8 pixels after the first convolution."""
        return 14 + self.stem[1]

    def units(self) -> tuple[Unit, ...]:
        """First convolution and pooling, then eight fire modules of 128 to 512 channels."""
        features, kernel = self.stem
        padding: Padding = "CEIL" if self.pool_last else 0
        chain = [unit("stem", Stem, features=features, kernel_size=kernel, pool_padding=padding)]
        fires = iter(_FIRES)
        for s, depth in enumerate(self.depths, 1):
            for b in range(1, depth + 1):
                squeeze, expand = next(fires)
                chain.append(unit(f"stage{s}/block{b}", Fire, squeeze=squeeze, expand=expand))
            if s < len(self.depths):
                chain.append(unit(f"stage{s}/pool", MaxPool, window=3, strides=2, padding=padding))
        return tuple(chain)


class Stem(nn.Module):
    """Convolution with stride 2 and 3x3 max pooling with stride 2."""

    features: int
    kernel_size: int
    pool_padding: Padding = "CEIL"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(self.features, self.kernel_size, 2, 0, use_bias=True, name="conv")
        x = conv_norm(x, conv, None, train=train, activation="relu")
        return max_pool(x, 3, 2, self.pool_padding)


class Fire(nn.Module):
    """1x1 convolution to few channels; from these a 1x1 and a 3x3 one, beside one another."""

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        squeeze = Conv(self.squeeze, 1, 1, 0, use_bias=True, name="squeeze")
        expand1x1 = Conv(self.expand, 1, 1, 0, use_bias=True, name="expand1x1")
        expand3x3 = Conv(self.expand, 3, 1, 1, use_bias=True, name="expand3x3")
        x = conv_norm(x, squeeze, None, train=train, activation="relu")
        sides = [
            conv_norm(x, conv, None, train=train, activation="relu")
            for conv in (expand1x1, expand3x3)
        ]
        return jnp.concatenate(sides, axis=-1)
