"""From one image to a batch, as suits the platform."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from jtl.common.platforms import by_platform


def each(function: Callable[..., jax.Array], images: jax.Array, *draws: Any) -> jax.Array:
    """Applies a function of one image and its draws to every image.

    A CPU goes from image to image: one fits its caches, and where a function chooses among
    operations, only the chosen one is computed. Accelerators take the whole batch at once, and
    compute all operations in less time than choosing would take.

    Args:
        function: Of one image [H, W, C] and its draws.
        images: [N, H, W, C].
        draws: Trees of arrays [N, ...].
    """
    return by_platform(
        images,
        *draws,
        cpu=lambda *arguments: lax.map(lambda one: function(*one), arguments),
        default=jax.vmap(function),
    )
