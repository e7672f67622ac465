"""BiT, Big Transfer (Kolesnikov et al., arXiv 1912.11370): ResNet v2 for transfer learning.

Its blocks normalize and activate before they convolve (He et al., arXiv 1603.05027), in groups of
channels (Wu and He, arXiv 1803.08494), and its convolutions standardize their kernels (Qiao et
al., arXiv 1903.10520). No batch has statistics here, so nothing but the params trains or freezes.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.chain import Unit, unit
from jtl.models.layers.blocks import Conv
from jtl.models.layers.group_norm import GroupNorm
from jtl.models.layers.pool import max_pool


@dataclasses.dataclass(frozen=True)
class BiT:
    """Configuration of a BiT.

    Attributes:
        depths: Number of blocks per stage.
        width: Multiplier of the channels, as the 1 of R50x1.
        epsilon: Added to the variance of a kernel before the square root.
    """

    depths: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 1
    epsilon: float = 1e-8

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of four stages with 256 to 2048 channels, and a last normalization."""
        chain = [unit("stem", Stem, features=64 * self.width, epsilon=self.epsilon)]
        for s, depth in enumerate(self.depths, 1):
            for b in range(1, depth + 1):
                block = unit(
                    f"stage{s}/block{b}",
                    PreActivationBottleneck,
                    width=64 * 2 ** (s - 1) * self.width,
                    strides=2 if s > 1 and b == 1 else 1,
                    project=b == 1,
                    epsilon=self.epsilon,
                )
                chain.append(block)
        return (*chain, unit("final", LastNorm))


class Stem(nn.Module):
    """7x7 convolution with stride 2 and 3x3 max pooling with stride 2: [N, H, W, 3] -> H/4."""

    features: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.features, 7, 2, 3, standardize=self.epsilon, name="conv")(x)
        # Nothing is activated here, so the zeros around it may be the largest of a window.
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return max_pool(x, 3, 2, padding=0)


class PreActivationBottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, each after a normalization and ReLU, beside a shortcut."""

    width: int
    strides: int
    project: bool
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        width, wide, epsilon = self.width, 4 * self.width, self.epsilon
        y = jax.nn.relu(GroupNorm(name="norm1")(x))
        shortcut = x
        if self.project:
            shortcut = Projection(wide, self.strides, epsilon, name="down")(y)
        y = Conv(width, 1, 1, 0, standardize=epsilon, name="conv1")(y)
        y = jax.nn.relu(GroupNorm(name="norm2")(y))
        y = Conv(width, 3, self.strides, 1, standardize=epsilon, name="conv2")(y)
        y = jax.nn.relu(GroupNorm(name="norm3")(y))
        return Conv(wide, 1, 1, 0, standardize=epsilon, name="conv3")(y) + shortcut


class Projection(nn.Module):
    """1x1 projection of the shortcut."""

    features: int
    strides: int
    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        conv = Conv(self.features, 1, self.strides, 0, standardize=self.epsilon, name="conv")
        return conv(x)


class LastNorm(nn.Module):
    """Normalization and ReLU."""

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return jax.nn.relu(GroupNorm(name="norm")(x))
