"""What is trained how by default, by mask and optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jtl.config.options import Config
from jtl.freeze import masks
from jtl.optim.schedules import Schedule, plateau_scale


@dataclasses.dataclass(frozen=True)
class MaskDefaults:
    """What a mask trains with unless told otherwise; docs/training.md names the sources."""

    epochs: int = 10
    lr: float = 1e-4
    head_lr_mult: float = 10.0
    weight_decay: float = 1e-3
    warmup: float = 0.1


_DEFAULTS = {
    "head_only": MaskDefaults(100, 3e-3, 1.0, 0.0, 0.0),
    "norm_only": MaskDefaults(10, 1e-3, 1.0, 0.0, 0.0),
    "bias_only": MaskDefaults(10, 1e-3, 1.0, 0.0, 0.0),
}
_OPTIMIZERS = {"sgd": (10.0, 0.5), "lion": (0.1, 10.0), "lamb": (10.0, 1.0), "adagrad": (10.0, 1.0)}
"""Multiples of learning rate and weight decay beside those of AdamW."""
ONE_CYCLE_WARMUP = 0.3
"""Of Smith and Topin's schedule, as optax and PyTorch have it."""


def mask_defaults(mask: str, optimizer: str = "adamw") -> MaskDefaults:
    """The defaults of a mask as `--mask` gives it, for an optimizer."""
    defaults = _DEFAULTS.get(masks.check_form(mask), MaskDefaults())
    rate, decay = _OPTIMIZERS.get(optimizer, (1.0, 1.0))
    return dataclasses.replace(
        defaults, lr=defaults.lr * rate, weight_decay=defaults.weight_decay * decay
    )


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
    train, steps = config.train, config.steps
    defaults = mask_defaults(mask, train.optimizer)
    warmup = ONE_CYCLE_WARMUP if train.schedule == "one_cycle" else defaults.warmup
    return Recipe(
        defaults.weight_decay if train.weight_decay is None else train.weight_decay,
        Schedule(
            train.schedule,
            warmup if steps.warmup is None else steps.warmup,
            steps.decay_at,
            steps.decay_rate,
        ),
        steps.plateau_patience,
    )


def filled(config: Config) -> Config:
    """The options with the defaults of their mask written out, where there is one mask."""
    train, steps = config.train, config.steps
    if train.phases is not None or train.solver == "lbfgs":
        return config
    defaults = mask_defaults(train.mask, train.optimizer)
    values = {
        name: getattr(defaults, name)
        for name in ("epochs", "lr", "head_lr_mult", "weight_decay")
        if getattr(train, name) is None
    }
    warmup = recipe(config, train.mask).schedule.warmup
    return dataclasses.replace(
        config,
        train=dataclasses.replace(train, **values),
        steps=dataclasses.replace(steps, warmup=warmup),
    )
