"""How a set of weights normalizes; needs neither JAX nor Flax, like what lists models."""

from __future__ import annotations

import dataclasses


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
        scale: Whether there is a learned factor beside the learned offset.
    """

    epsilon: float = 1e-5
    momentum: float = 0.9
    unbiased: bool = True
    scale: bool = True
