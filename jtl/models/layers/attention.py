"""Multi-head self-attention (Vaswani et al., arXiv 1706.03762)."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def self_attention(qkv: jax.Array, heads: int) -> jax.Array:
    """Each token's mean of all tokens' values, weighted by how its query fits their keys.

    Args:
        qkv: Queries, keys and values of every token, one after the other: [N, L, 3 * C].
        heads: Among which the C channels are divided.

    Returns:
        [N, L, C] of `qkv`'s dtype. The softmax is computed in float32.
    """
    batch, length, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    parts = qkv.reshape(batch, length, 3, heads, channels // heads)
    query, key, value = (parts[:, :, i] for i in range(3))
    return jax.nn.dot_product_attention(query, key, value).reshape(batch, length, channels)


def attention(query: jax.Array, pairs: jax.Array, heads: int) -> jax.Array:
    """The mean of all tokens' values, weighted by how their keys fit a query that all images share.

    Args:
        query: [1, 1, C].
        pairs: Keys and values of every token, one after the other: [N, L, 2 * C].
        heads: Among which the C channels are divided.

    Returns:
        [N, 1, C] of the dtype of `pairs`. The softmax is computed in float32.
    """
    batch, length, channels = pairs.shape[0], pairs.shape[1], pairs.shape[2] // 2
    parts = pairs.reshape(batch, length, 2, heads, channels // heads)
    queries = jnp.broadcast_to(query.reshape(1, 1, heads, -1), (batch, 1, heads, channels // heads))
    attended = jax.nn.dot_product_attention(queries, parts[:, :, 0], parts[:, :, 1])
    return attended.reshape(batch, 1, channels)


def resized_positions(table: jax.Array, size: tuple[int, int]) -> jax.Array:
    """A table of positions [h, w, C] for a grid of another `size`, by bicubic interpolation.

    Antialiased where the grid is smaller, as timm resizes position embeddings.
    """
    if table.shape[:2] == size:
        return table
    return jax.image.resize(table, (*size, table.shape[2]), "cubic", antialias=True)
