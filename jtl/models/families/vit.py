"""Vision transformers (Dosovitskiy et al., arXiv 2010.11929), also DeiT, DINOv2, CLIP and SigLIP.

Their units pass tokens on as [N, L, 1, C], one row of a map for each token, so that everything
that takes feature maps takes them: first the class token, then the registers, then the patches
from left to right and from above.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, assert_never

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.chain import Unit, unit
from jtl.models.layers.attention import attention, resized_positions, self_attention
from jtl.models.layers.blocks import Conv, conv_norm, is_shapes_only, param
from jtl.models.layers.layer_norm import LayerNorm, LayerScale, scaled

_HEAD_CHANNELS = 64
Pooling = Literal["token", "avg", "normed_avg", "map"]
"""What the classifier sees, normalized: the class token; the average of the patches; the average of
the normalized patches (big_vision's `gap`); or what a learned query attends to among the normalized
patches (its `map`, of SigLIP; arXiv 1810.00825)."""
Activation = Literal["gelu", "gelu_tanh", "quick_gelu"]
"""Of the blocks: GELU, its approximation by tanh, or x sigmoid(1.702 x), of OpenAI's CLIP."""


@dataclasses.dataclass(frozen=True)
class ViT:
    """Configuration of a vision transformer.

    Attributes:
        channels: Of a token; an attention head has 64 of them.
        patch: Height and width of a patch, in pixels.
        depth: Number of blocks.
        grid: Height and width of the table of position embeddings, in patches. For images of
            another size it is interpolated.
        class_token: Whether there is a token that stands for the whole image.
        embeds_class: Whether the class token has a position embedding, too.
        registers: Number of further tokens without a position (arXiv 2309.16588).
        layer_scale: Whether learned factors end the branches of a block.
        pooling: What the classifier sees.
        norm_pre: Whether a normalization follows the positions, as in CLIP; patches have no bias
            then.
        epsilon: Of the normalizations.
        activation: Between the dense layers of the blocks.
    """

    channels: int = 384
    patch: int = 16
    depth: int = 12
    grid: int = 14
    class_token: bool = True
    embeds_class: bool = True
    registers: int = 0
    layer_scale: bool = False
    pooling: Pooling = "token"
    norm_pre: bool = False
    epsilon: float = 1e-6
    activation: Activation = "gelu"

    @property
    def min_size(self) -> int:
        """One patch."""
        return self.patch

    @property
    def image_size(self) -> int:
        """Height and width of the images that the table of positions is of, in pixels."""
        return self.grid * self.patch

    @property
    def prefix_tokens(self) -> int:
        """How many tokens come before those of the patches."""
        return int(self.class_token) + self.registers

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks, and the normalization of what the classifier sees.

        A stage is a quarter of the blocks; the blocks are numbered through all stages.
        """
        stem = unit(
            "stem",
            Stem,
            channels=self.channels,
            patch=self.patch,
            grid=self.grid,
            class_token=self.class_token,
            embeds_class=self.embeds_class,
            registers=self.registers,
            epsilon=self.epsilon if self.norm_pre else None,
        )
        options = dict(
            layer_scale=self.layer_scale, epsilon=self.epsilon, activation=self.activation
        )
        blocks = [
            unit(f"stage{1 + 4 * (b - 1) // self.depth}/block{b}", Block, **options)
            for b in range(1, self.depth + 1)
        ]
        final = unit(
            "final",
            Final,
            prefix_tokens=self.prefix_tokens,
            pooling=self.pooling,
            epsilon=self.epsilon,
            activation=self.activation,
        )
        return (stem, *blocks, final)


class Stem(nn.Module):
    """Images as tokens: [N, H, W, 3] -> [N, L, 1, channels]."""

    channels: int
    patch: int
    grid: int
    class_token: bool
    embeds_class: bool
    registers: int
    epsilon: float | None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        bias = self.epsilon is None
        conv = Conv(self.channels, self.patch, self.patch, 0, use_bias=bias, name="conv")
        x = conv_norm(x, conv, None, train=train)
        start = nn.initializers.normal(0.02)
        own = int(self.class_token and self.embeds_class)
        places = (1, own + self.grid**2, self.channels)
        positions = param(self, "pos_embed", start, places).astype(x.dtype)
        table = positions[0, own:].reshape(self.grid, self.grid, self.channels)
        height, width = x.shape[1:3]
        x = x + resized_positions(table, (height, width))[None].astype(x.dtype)
        tokens = [x.reshape(x.shape[0], height * width, self.channels)]
        if self.registers:
            shape = (1, self.registers, self.channels)
            tokens.insert(0, self._repeated(param(self, "reg_token", start, shape), x))
        if self.class_token:
            token = param(self, "cls_token", start, (1, 1, self.channels)).astype(x.dtype)
            token = token + positions[:, :1] if own else token
            tokens.insert(0, self._repeated(token, x))
        x = jnp.concatenate(tokens, axis=1)[:, :, None]
        return x if self.epsilon is None else LayerNorm(self.epsilon, name="norm")(x)

    def _repeated(self, token: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(token.astype(x.dtype), (x.shape[0], *token.shape[1:]))


class Block(nn.Module):
    """Self-attention and two dense layers, each after a normalization and beside a shortcut."""

    layer_scale: bool
    epsilon: float
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        qkv, proj, fc1, fc2 = (
            Conv(width, 1, 1, 0, use_bias=True, name=name)
            for name, width in (
                ("qkv", 3 * channels),
                ("proj", channels),
                ("fc1", 4 * channels),
                ("fc2", channels),
            )
        )
        scale1, scale2 = (
            LayerScale(name=f"layer_scale{i}") if self.layer_scale else None for i in (1, 2)
        )
        y = LayerNorm(self.epsilon, name="norm1")(x)
        y = conv_norm(y, qkv, None, train=train)
        if is_shapes_only():
            y = y[..., :channels]
        else:
            y = self_attention(y[:, :, 0], channels // _HEAD_CHANNELS)[:, :, None]
        x = scaled(y, proj, scale1, x)
        y = LayerNorm(self.epsilon, name="norm2")(x)
        y = _activated(y, fc1, self.activation, train=train)
        return scaled(y, fc2, scale2, x)


def _activated(x: jax.Array, dense: Conv, activation: Activation, *, train: bool) -> jax.Array:
    """A dense layer and what follows it."""
    if activation == "gelu":
        return conv_norm(x, dense, None, train=train, activation="gelu")
    x = conv_norm(x, dense, None, train=train)
    if activation == "gelu_tanh":
        return jax.nn.gelu(x, approximate=True)
    if activation == "quick_gelu":
        return x * jax.nn.sigmoid(1.702 * x)
    assert_never(activation)


class AttentionPool(nn.Module):
    """What a learned query attends to among all tokens: [N, L, 1, C] -> [N, 1, 1, C].

    Then two dense layers beside a shortcut, as in a block (timm's AttentionPoolLatent, big_vision's
    MAPHead).
    """

    epsilon: float
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        q, kv, proj, fc1, fc2 = (
            Conv(width, 1, 1, 0, use_bias=True, name=name)
            for name, width in (
                ("q", channels),
                ("kv", 2 * channels),
                ("proj", channels),
                ("fc1", 4 * channels),
                ("fc2", channels),
            )
        )
        start = nn.initializers.normal(channels**-0.5)
        latent = param(self, "latent", start, (1, 1, channels)).astype(x.dtype)
        query = conv_norm(latent[:, :, None], q, None, train=train)[:, :, 0]
        pairs = conv_norm(x, kv, None, train=train)
        if is_shapes_only():
            y = pairs[:, :1, :, :channels]
        else:
            y = attention(query, pairs[:, :, 0], channels // _HEAD_CHANNELS)[:, :, None]
        y = conv_norm(y, proj, None, train=train)
        z = LayerNorm(self.epsilon, name="norm")(y)
        return y + conv_norm(
            _activated(z, fc1, self.activation, train=train), fc2, None, train=train
        )


class Final(nn.Module):
    """What the classifier sees, normalized: [N, L, 1, C] -> [N, 1, 1, C]."""

    prefix_tokens: int
    pooling: Pooling
    epsilon: float
    activation: Activation

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        norm = LayerNorm(self.epsilon, name="norm")
        if self.pooling == "token":
            return norm(x)[:, :1]
        if self.pooling == "map":
            pool = AttentionPool(self.epsilon, self.activation, name="attn_pool")
            return pool(norm(x), train=train)
        if self.pooling == "normed_avg":
            return _mean(norm(x)[:, self.prefix_tokens :])
        return norm(_mean(x[:, self.prefix_tokens :]))


def _mean(tokens: jax.Array) -> jax.Array:
    return jnp.mean(tokens, 1, dtype=jnp.float32, keepdims=True).astype(tokens.dtype)
