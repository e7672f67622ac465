"""The layers that the backbones are made of: convolution, batch normalization."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jtl.models.conv import Padding, conv2d

# PyTorch's and Keras's ImageNet recipes for ReLU networks: variance 2 / fan_out.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


@dataclasses.dataclass(frozen=True)
class NormSpec:
    """How the source of a set of weights normalizes; travels with converted weights.

    Attributes:
        epsilon: Added to the variance before the square root.
        momentum: Share of the old running statistic that a step keeps (Flax's and Keras's
            sense; PyTorch's `momentum` is one minus this).
        unbiased: Whether the running variance is fed with the unbiased batch variance
            (n - 1 in the denominator), as PyTorch does; Keras 3 feeds the biased one. The
            batch itself is normalized with the biased variance in both.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    unbiased: bool = True


class Conv(nn.Module):
    """Convolution over NHWC images with a kernel in HWIO layout, with or without bias.

    Params are float32; the computation runs in the dtype of the input.
    """

    features: int
    kernel_size: int
    strides: int = 1
    padding: Padding = "SAME"
    groups: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", conv_init, shape, jnp.float32)
        y = conv2d(
            x,
            kernel.astype(x.dtype),
            strides=(self.strides, self.strides),
            padding=self.padding,
            groups=self.groups,
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), jnp.float32)
            y = y + bias.astype(x.dtype).reshape(1, 1, 1, -1)
        return y


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last (Ioffe and Szegedy, arXiv 1502.03167).

    Statistics and their arithmetic are float32 whatever the input's dtype; the result has
    the input's dtype. Written here rather than taken from Linen because the running variance
    must follow the source's convention (`NormSpec.unbiased`) for a fine-tuned model to equal
    the one that PyTorch or Keras would have given.
    """

    spec: NormSpec = NormSpec()

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        if train:
            mean, var = _moments(x)
            if not self.is_initializing():
                count = x.size // channels
                # A single value has no unbiased variance; PyTorch refuses it, we keep 0.
                correction = count / max(count - 1, 1) if self.spec.unbiased else 1.0
                keep = self.spec.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * correction * var
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(var + self.spec.epsilon)
        shape = (1,) * (x.ndim - 1) + (channels,)
        offset = (bias - mean * factor).reshape(shape)
        y = x.astype(jnp.float32) * factor.reshape(shape) + offset
        return y.astype(x.dtype)


def _moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance per channel, in float32, by the two-pass formula.

    The one-pass formula (mean of squares minus squared mean) is what cuDNN and Linen use,
    but it cancels for channels whose mean is large beside their spread, and on CPU the second
    pass costs little.
    """
    x = x.astype(jnp.float32)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    centred = x - mean.reshape((1,) * (x.ndim - 1) + (-1,))
    return mean, jnp.mean(jnp.square(centred), axes)


Activation = Callable[[jax.Array], jax.Array]
relu: Activation = jax.nn.relu
relu6: Activation = jax.nn.relu6
