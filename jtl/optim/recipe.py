"""How the steps of a phase go: weight decay and schedule, with the defaults of its mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jtl.config.defaults import phase_defaults
from jtl.config.options import Config
from jtl.optim.schedules import Schedule, plateau_scale


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the steps of a phase go, with defaults filled in.

    Attributes:
        weight_decay: As in `--weight-decay`.
        schedule: Of the learning rate.
        plateau_patience: As in `--plateau-patience`.
    """

    weight_decay: float
    schedule: Schedule
    plateau_patience: int

    def scale_after(self, losses: Sequence[float]) -> float:
        """What the learning rate is multiplied by after epochs of these validation losses."""
        if self.schedule.name != "plateau":
            return 1.0
        return plateau_scale(losses, self.schedule.decay_rate, self.plateau_patience)


def recipe(config: Config, mask: str) -> Recipe:
    """How the steps of a phase under a mask go."""
    steps, chosen = config.steps, phase_defaults(config, mask)
    return Recipe(
        chosen.weight_decay,
        Schedule(config.train.schedule, chosen.warmup, steps.decay_at, steps.decay_rate),
        steps.plateau_patience,
    )
