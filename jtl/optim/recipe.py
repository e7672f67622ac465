"""How a phase trains: learning rates, schedule, regularization, with defaults filled in."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jtl.config.defaults import phase_defaults
from jtl.config.options import Config
from jtl.config.training import OptimizerName
from jtl.optim.schedules import Schedule, plateau_scale


@dataclasses.dataclass(frozen=True)
class Rates:
    """How learning rates differ between leaves.

    Attributes:
        lr: The run's learning rate, at its highest.
        head_lr_mult: The head's multiple of it.
        layer_decay: Every unit's multiple of the next one's rate, towards the input (BEiT,
            arXiv 2106.08254, as timm does it: the head keeps the whole rate); 1 for none.
    """

    lr: float
    head_lr_mult: float = 1.0
    layer_decay: float = 1.0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of a phase, under the names of their options.

    Attributes:
        rates: Learning rates.
        schedule: Of the learning rate.
        plateau_patience: Epochs that a `plateau` schedule waits.
        optimizer: Name of optax.
        momentum: Of `sgd`.
        weight_decay: Decoupled or not, as the optimizer has it.
        l2_sp: Pull of the backbone towards its pretrained weights.
        clip_norm: The largest norm of all gradients together; 0 for no limit.
        label_smoothing: Share of a label that is spread evenly over all classes.
        ema: Decay of the moving average of the weights; 0 for none.
    """

    rates: Rates
    schedule: Schedule
    plateau_patience: int = 1
    optimizer: OptimizerName = "adamw"
    momentum: float = 0.9
    weight_decay: float = 0.0
    l2_sp: float = 0.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0

    def scale_after(self, losses: Sequence[float]) -> float:
        """What the learning rate is multiplied by after epochs of these validation losses."""
        if self.schedule.name != "plateau":
            return 1.0
        return plateau_scale(losses, self.schedule.decay_rate, self.plateau_patience)


def recipe(config: Config, mask: str, lr: float | None = None) -> Recipe:
    """How a phase trains.

    Args:
        config: The options.
        mask: The phase's, whose defaults hold where the options say nothing.
        lr: The phase's own learning rate.
    """
    train, steps, chosen = config.train, config.steps, phase_defaults(config, mask)
    return Recipe(
        rates=Rates(lr or chosen.lr, chosen.head_lr_mult, train.layer_decay),
        schedule=Schedule(train.schedule, chosen.warmup, steps.decay_at, steps.decay_rate),
        plateau_patience=steps.plateau_patience,
        optimizer=train.optimizer,
        momentum=steps.momentum,
        weight_decay=chosen.weight_decay,
        l2_sp=train.l2_sp,
        clip_norm=steps.clip_norm,
        label_smoothing=steps.label_smoothing,
        ema=steps.ema,
    )
