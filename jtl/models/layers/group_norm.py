"""Group normalization (Wu and He, arXiv 1803.08494)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jtl.models.layers.blocks import param


class GroupNorm(nn.Module):
    """Normalizes each image over its pixels and the channels of a group: NHWC -> NHWC.

    Statistics and their arithmetic are float32 whatever the input's dtype; the result has the
    input's dtype. Written as one factor and one offset for each image and channel, which is two
    passes over the images for the statistics and one for the result.

    Attributes:
        groups: Their number, which divides the channels.
        epsilon: Added to the variance before the square root.
    """

    groups: int = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        scale = param(self, "scale", nn.initializers.ones_init(), (channels,))
        bias = param(self, "bias", nn.initializers.zeros_init(), (channels,))
        wide = x.astype(jnp.float32)
        mean = self._over_groups(jnp.mean(wide, (1, 2)))
        var = self._over_groups(jnp.mean(jnp.square(wide - _along(mean)), (1, 2)))
        factor = scale[None] * lax.rsqrt(var + self.epsilon)
        offset = bias[None] - mean * factor
        return (wide * _along(factor) + _along(offset)).astype(x.dtype)

    def _over_groups(self, by_channel: jax.Array) -> jax.Array:
        """The mean of each group [N, C], for each of its channels."""
        count, channels = by_channel.shape
        size = channels // self.groups
        means = jnp.mean(by_channel.reshape(count, self.groups, size), -1, keepdims=True)
        return jnp.broadcast_to(means, (count, self.groups, size)).reshape(count, channels)


def _along(x: jax.Array) -> jax.Array:
    return x[:, None, None, :]
