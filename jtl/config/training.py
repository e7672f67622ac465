"""What trains, and how: the options that every training has."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import tyro

from jtl.freeze.split import BatchNormMode
from jtl.optim.optimizers import OptimizerName
from jtl.optim.schedules import ScheduleName

TOLD = tyro.conf.arg(help_behavior_hint="")
"""Of options whose help tells the default, which tyro would call None."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What trains, and how. Several defaults depend on the mask and the optimizer.

    Attributes:
        mask: What trains: head_only (linear probe), last_stage, last_stages:K, from:PATH,
            first_stages:K, norm_only, bias_only, full, rules:FILE (a rule a line), or rules in
            place, such as 'rules:stage4/.*=x0.1;head/.*=train;.*=frozen'; see docs/freezing.md.
        phases: Several masks one after the other instead of --mask: lp_ft, gradual,
            freeze_unfreeze:EPOCHS, or a list such as '3,head_only,3e-3;7,last_stage,1e-4' of
            epochs, mask and learning rate. Default: one mask for all epochs.
        bn: Which blocks normalize with batch statistics: auto (those that train), frozen (none
            of the backbone), train (all, and their running statistics move).
        solver: How a linear head on a frozen backbone is fitted: sgd (steps of --optimizer),
            or lbfgs (to the optimum, without learning rate and epochs).
        l2: Penalty of --solver lbfgs: a number, or auto for the best of 25 on the validation
            split.
        class_weights: How much each class counts in the training loss: none (as much as it has
            images), or balanced (all classes the same, however many images they have).
        epochs: Passes over the training images. Default: 100 for head_only, else 10.
        batch_size: Images in each training step; auto for as many as fit in memory, up to 512
            and to a tenth of the training images.
        lr: Learning rate, at its highest. Default: 3e-3 for head_only, 1e-3 for norm_only and
            bias_only, else 1e-4; ten times that for sgd, lamb and adagrad, a tenth for lion.
        head_lr_mult: The head learns at this multiple of the learning rate. Default: 10 where a
            backbone trains at 1e-4 by default, else 1.
        layer_decay: Each block learns at this multiple of the next one's learning rate; 1 for
            the same rate everywhere.
        optimizer: Of optax: adamw (weight decay decoupled), sgd (with Nesterov momentum), lion
            and others.
        weight_decay: Strength of the pull of trainable params towards zero; 0 for none. Default:
            none for head_only, norm_only and bias_only, else 1e-3; half of that for sgd, ten times
            that for lion.
        l2_sp: Strength of the pull of backbone params towards their pretrained values; 0 for
            none.
        schedule: How the learning rate goes over the steps of a phase: falling to zero along a
            cosine; constant; in steps (--decay-at); up and down (one_cycle); or lowered when the
            validation loss no longer falls (plateau).
        patience: Epochs without a better validation accuracy before training stops; 0 never
            stops early. The best epoch is what counts in any case.
        min_delta: What the validation accuracy must gain for --patience to call it better.
        seed: Decides the validation split, the new head's first params and the order of the
            images. The same seed gives the same run, on CPU bit for bit.
    """

    mask: str = "head_only"
    phases: Annotated[str | None, TOLD] = None
    bn: BatchNormMode = "auto"
    solver: Literal["sgd", "lbfgs"] = "sgd"
    l2: str = "auto"
    class_weights: Literal["none", "balanced"] = "none"
    epochs: Annotated[int | None, TOLD] = None
    batch_size: int | Literal["auto"] = 32
    lr: Annotated[float | None, TOLD] = None
    head_lr_mult: Annotated[float | None, TOLD] = None
    layer_decay: float = 1.0
    optimizer: OptimizerName = "adamw"
    weight_decay: Annotated[float | None, TOLD] = None
    l2_sp: float = 0.0
    schedule: ScheduleName = "cosine"
    patience: int = 0
    min_delta: float = 0.0
    seed: int = 0

    @property
    def batch(self) -> int:
        """The batch size as a number, which it is once a task is prepared."""
        assert self.batch_size != "auto", "see jtl.train.batch_size.prepared"
        return self.batch_size


@dataclasses.dataclass(frozen=True)
class StepsConfig:
    """Finer points of the training steps; see docs/training.md.

    Attributes:
        momentum: Nesterov momentum of --optimizer sgd; 0 for none.
        warmup: Share of a phase's steps over which the learning rate rises to its highest.
            Default: 0.1, or 0 for head_only, norm_only and bias_only; 0.3 with --schedule
            one_cycle.
        decay_at: Where --schedule step lowers the learning rate, as shares of a phase's steps,
            such as 0.3,0.6,0.9.
        decay_rate: What the learning rate is multiplied by there, and by --schedule plateau.
        plateau_patience: Epochs whose validation loss is no better before --schedule plateau
            lowers the learning rate.
        clip_norm: Gradients of all that trains are scaled down to this norm together where it is
            larger; 0 for no limit.
        accumulate: The mean gradient of so many batches makes one update: like a larger
            --batch-size, but for the memory and for batch statistics.
        label_smoothing: Share of each label that is spread evenly over all classes in training.
        ema: Keeps an exponential moving average of what trains, with this decay such as 0.999,
            and evaluates and saves that; 0 for none.
    """

    momentum: float = 0.9
    warmup: Annotated[float | None, TOLD] = None
    decay_at: tuple[float, ...] = (0.3, 0.6, 0.9)
    decay_rate: float = 0.1
    plateau_patience: int = 10
    clip_norm: float = 0.0
    accumulate: int = 1
    label_smoothing: float = 0.0
    ema: float = 0.0
