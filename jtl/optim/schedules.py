"""How the learning rate goes over the steps of a phase, as a share of its highest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax

from jtl.config.training import ScheduleName

PLATEAU_DELTA = 1e-4
"""What a validation loss must fall by to count as better, as in Keras."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A schedule without its length.

    Attributes:
        name: `constant`; `cosine` to zero; `step`, which multiplies by `decay_rate` at each of
            `decay_at`; `one_cycle` (Smith and Topin, arXiv 1708.07120), which rises from a
            25th over the warmup and falls to nearly zero, both along a cosine; `plateau`,
            constant within an epoch, see `plateau_scale`.
        warmup: Share of the steps over which the rate rises, in a straight line but for
            `one_cycle`.
        decay_at: Shares of the steps.
        decay_rate: What the rate is multiplied by there.
    """

    name: ScheduleName = "cosine"
    warmup: float = 0.0
    decay_at: tuple[float, ...] = ()
    decay_rate: float = 0.1

    def over(self, steps: int, offset: int = 0) -> optax.Schedule:
        """The share of the highest rate, by step.

        Args:
            steps: Of the phase.
            offset: Steps that a group has taken before the phase began.
        """
        steps = max(steps, 1)
        curve = self._one_cycle(steps) if self.name == "one_cycle" else self._warmed(steps)
        return (lambda count: curve(count - offset)) if offset else curve

    def _one_cycle(self, steps: int) -> optax.Schedule:
        if steps < 2:
            return optax.constant_schedule(1.0)
        rise = min(max(round(self.warmup * steps), 1), steps - 1)
        # Half a step more, as optax rounds down.
        return optax.cosine_onecycle_schedule(steps, 1.0, pct_start=(rise + 0.5) / steps)

    def _warmed(self, steps: int) -> optax.Schedule:
        rise = min(round(self.warmup * steps), steps - 1)
        shape = self._shape(steps, rise)
        if not rise:
            return shape

        def curve(count: Any) -> Any:
            # The first step is one already: at a rate of zero it would teach nothing.
            ramp = jnp.minimum((count + 1) / (rise + 1), 1.0)
            return ramp * shape(jnp.maximum(count - rise, 0))

        return curve

    def _shape(self, steps: int, rise: int) -> optax.Schedule:
        """The schedule after the warmup, counted from its end."""
        if self.name == "cosine":
            return optax.cosine_decay_schedule(1.0, steps - rise)
        if self.name == "step":
            scales: dict[int, float] = {}
            for share in self.decay_at:
                at = max(round(share * steps) - rise, 1)
                scales[at] = scales.get(at, 1.0) * self.decay_rate
            return optax.piecewise_constant_schedule(1.0, scales)
        return optax.constant_schedule(1.0)


def plateau_scale(losses: Sequence[float], factor: float, patience: int) -> float:
    """What Keras's `ReduceLROnPlateau` multiplies the learning rate by.

    Args:
        losses: Validation losses of the phase's epochs so far.
        factor: By which the rate is multiplied when `patience` epochs brought nothing better.
        patience: Counted anew after each time.
    """
    best, waited, scale = math.inf, 0, 1.0
    for loss in losses:
        if loss < best - PLATEAU_DELTA:
            best, waited = loss, 0
            continue
        waited += 1
        if waited >= patience:
            scale, waited = scale * factor, 0
    return scale
