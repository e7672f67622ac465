"""What is trained how by default, by mask and optimizer."""

from __future__ import annotations

import dataclasses

from jtl.config import walk
from jtl.config.augment import Preset
from jtl.config.options import Config
from jtl.config.training import MULTILABEL_METRICS, TrainConfig


@dataclasses.dataclass(frozen=True)
class MaskDefaults:
    """What a mask trains with unless told otherwise; docs/training.md names the sources."""

    epochs: int = 10
    lr: float = 1e-4
    head_lr_mult: float = 10.0
    weight_decay: float = 1e-3
    warmup: float = 0.1


_DEFAULTS = {
    "head_only": MaskDefaults(20, 1e-3, 1.0, 0.0, 0.0),
    "last_stage": MaskDefaults(lr=3e-4),
    "last_stages": MaskDefaults(lr=3e-4),
    "norm_only": MaskDefaults(10, 1e-3, 1.0, 0.0, 0.0),
    "bias_only": MaskDefaults(10, 1e-3, 1.0, 0.0, 0.0),
    "lora": MaskDefaults(10, 1e-3, 1.0, 0.0, 0.1),
}
_OPTIMIZERS = {"sgd": (10.0, 0.5), "lion": (0.1, 10.0), "lamb": (10.0, 1.0), "adagrad": (10.0, 1.0)}
"""Multiples of learning rate and weight decay beside those of AdamW."""
ONE_CYCLE_WARMUP = 0.3
"""The share of steps that warm up in Smith and Topin's schedule, as in optax and PyTorch."""


def mask_defaults(mask: str, optimizer: str = "adamw") -> MaskDefaults:
    """The defaults of a mask as `--mask` gives it, for an optimizer."""
    defaults = _DEFAULTS.get(mask.partition(":")[0], MaskDefaults())
    rate, decay = _OPTIMIZERS.get(optimizer, (1.0, 1.0))
    return dataclasses.replace(
        defaults, lr=defaults.lr * rate, weight_decay=defaults.weight_decay * decay
    )


def phase_defaults(config: Config, mask: str) -> MaskDefaults:
    """What a phase under a mask trains with: what was given, else the mask's defaults."""
    train, steps = config.train, config.steps
    defaults = mask_defaults(mask, train.optimizer)
    if train.schedule == "one_cycle":
        defaults = dataclasses.replace(defaults, warmup=ONE_CYCLE_WARMUP)
    given = {"weight_decay": train.weight_decay, "warmup": steps.warmup, "epochs": train.epochs}
    given |= {"lr": train.lr, "head_lr_mult": train.head_lr_mult}
    return dataclasses.replace(
        defaults, **{name: value for name, value in given.items() if value is not None}
    )


def augmentation(config: Config) -> Preset:
    """What `--augment auto` is: crops where all pretrained layers train, so nothing is cached.

    Crops gain accuracy on all kinds of images that were measured (docs/training.md); flips harm
    where left and right differ, so nobody gets them unasked.
    """
    train = config.train
    fine_tuned = train.mask == "full" and train.phases is None and config.model.weights != "random"
    return "crops" if fine_tuned else "none"


def with_task_metric(config: Config) -> Config:
    """The options with the metric of images that may have several labels, if they may."""
    if config.data.task == "multilabel" and config.train.metric == TrainConfig.metric:
        return walk.replace(config, {"metric": MULTILABEL_METRICS[0]})
    return config


def filled(config: Config) -> Config:
    """The options with the defaults of their mask written out, where there is one mask."""
    if config.train.phases is not None or config.train.solver == "lbfgs":
        return config
    return walk.replace(config, dataclasses.asdict(phase_defaults(config, config.train.mask)))
