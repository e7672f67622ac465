"""Layer normalization and layer scale, of ConvNeXt and vision transformers."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jtl.models.layers.blocks import Conv, is_shapes_only, is_unfused, param
from jtl.models.layers.norm import along


class LayerNorm(nn.Module):
    """Normalization over the last axis (Ba et al., arXiv 1607.06450), with scale and bias.

    Each pixel or token by itself, in training as in inference: there are no running averages. Its
    arithmetic is float32, the result has the input's dtype.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = param(self, "scale", nn.initializers.ones_init(), (x.shape[-1],))
        bias = param(self, "bias", nn.initializers.zeros_init(), (x.shape[-1],))
        if is_shapes_only():
            return x
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, -1, keepdims=True)
        var = jnp.mean(jnp.square(centred), -1, keepdims=True)
        y = centred * lax.rsqrt(var + self.epsilon) * along(scale, x) + along(bias, x)
        return y.astype(x.dtype)


class LayerScale(nn.Module):
    """A learned factor per channel at the end of a residual branch (arXiv 2103.17239).

    Called with the convolution before it, whose kernel takes the factor, and with what the branch
    is added to.

    Attributes:
        initial: The factor of a new network: small, so that deep ones begin as the identity.
    """

    initial: float = 1e-6

    @nn.compact
    def __call__(
        self, x: jax.Array, conv: Conv | None = None, residual: jax.Array | None = None
    ) -> jax.Array:
        channels = x.shape[-1] if conv is None else conv.features
        start = nn.initializers.constant(self.initial)
        gamma = param(self, "gamma", start, (channels,))
        if conv is not None and not is_shapes_only():
            return conv(x, gamma, jnp.zeros_like(gamma), residual=residual)
        y = x if conv is None else conv(x)
        y = y if is_shapes_only() else (y * along(gamma, y)).astype(x.dtype)
        return y if residual is None else residual + y


def scaled(x: jax.Array, conv: Conv, scale: LayerScale | None, residual: jax.Array) -> jax.Array:
    """Adds scale(conv(x)) to `residual`: one convolution unless each layer is traced alone."""
    if scale is None:
        return residual + conv(x) if is_unfused() else conv(x, residual=residual)
    if is_unfused():
        return residual + scale(conv(x))
    return scale(x, conv, residual)
