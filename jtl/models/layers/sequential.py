"""The units of networks without shortcuts: convolution, pooling, dense layers over pixels."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax

from jtl.models.layers.blocks import BatchNorm, Conv, NormSpec, conv_norm
from jtl.models.layers.conv import Padding
from jtl.models.layers.pool import adaptive_avg_pool, max_pool

InputFit = Literal["adaptive", "sliding"]
"""How a dense layer takes images of other sizes than its own: `adaptive` averages them to that
size, as torchvision does; `sliding` moves the layer over larger ones, as timm does, and averages
smaller ones."""


class ConvRelu(nn.Module):
    """Convolution with bias, batch normalization where there is a `norm`, ReLU."""

    features: int
    kernel_size: int
    strides: int = 1
    padding: Padding = "SAME"
    norm: NormSpec | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        options: dict[str, Any] = dict(
            strides=self.strides, padding=self.padding, use_bias=True, name="conv"
        )
        conv = Conv(self.features, self.kernel_size, **options)
        norm = None if self.norm is None else BatchNorm(self.norm, name="bn")
        return conv_norm(x, conv, norm, train=train, activation="relu")


class MaxPool(nn.Module):
    """Max pooling as a unit of its own, so that a backbone can end before and after it."""

    window: int
    strides: int
    padding: Padding = 0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train  # The same in both modes.
        return max_pool(x, self.window, self.strides, self.padding)


class DenseRelu(nn.Module):
    """A dense layer over `window` x `window` pixels, ReLU, and dropout before or after both.

    A convolution, so that it can slide: [N, H, W, C] -> [N, H', W', features], of one pixel if
    the window has the image's size. Dropout needs the random stream `dropout` in train mode.
    """

    features: int
    window: int
    fit: InputFit
    dropout: float
    dropout_first: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        height = width = self.window
        if self.fit == "sliding":
            height, width = (max(self.window, n) for n in x.shape[1:3])
        x = adaptive_avg_pool(x, (height, width))
        dropout = nn.Dropout(self.dropout, deterministic=not train, name="dropout")
        x = dropout(x) if self.dropout_first else x
        conv = Conv(self.features, self.window, 1, 0, use_bias=True, name="conv")
        x = conv_norm(x, conv, None, train=train, activation="relu")
        return x if self.dropout_first else dropout(x)
