"""Options of what trains, and how."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Annotated, Literal

from jtl.common.errors import UserError
from jtl.common.quantities import number
from jtl.config import checks, walk

BatchNormMode = Literal["auto", "frozen", "batch", "train"]
"""Which units use batch statistics: `frozen`: only the head, which is new; `batch`: those that
train; `train`: all. `auto` is one of the first two.

Of BatchNorm alone: dropout is on in the units that train, whatever the mode.
"""
OptimizerName = Literal[
    "adam", "adamw", "nadam", "nadamw", "radam", "adabelief", "amsgrad", "adan",
    "lion", "lamb", "sgd", "rmsprop", "adagrad",
]  # fmt: skip
"""Names of optax."""
ScheduleName = Literal["constant", "cosine", "step", "one_cycle", "plateau"]

_OF_STEPS = (
    "epochs", "lr", "head_lr_mult", "layer_decay", "optimizer", "weight_decay", "l2_sp",
    "schedule", "patience", "min_delta", "extended", "sampler",
)  # fmt: skip
"""What has no meaning for a solver that takes no steps."""
NO_STEPS = "no effect with --solver lbfgs, which takes no training steps; leave one of them out."


def _penalty(flag: str, value: str) -> None:
    penalty = math.nan if (read := number(value)) is None else read
    if value != "auto" and not 0 <= penalty < math.inf:
        raise UserError(f"{flag} must be auto, or a number that is 0 or larger, not '{value}'.")


def _epochs(flag: str, value: tuple[int, ...]) -> None:
    for more in value:
        checks.within(1, 10**6)(flag, more)


def _inside(flag: str, value: tuple[float, ...]) -> None:
    if not value:
        raise UserError(f"{flag} needs at least one fraction of a phase's steps, such as 0.5.")
    for at in value:
        if not 0 < at < 1:
            raise UserError(
                f"{flag} takes fractions of a phase's steps, above 0 and below 1, not {at}."
            )


def _factor(flag: str, value: float) -> None:
    if not 0 < value < 1:
        raise UserError(f"{flag} must be above 0 and below 1, not {value}.")


def balance_of(text: str) -> float | None:
    """How strongly `--class-weights` evens out classes: 1 for `balanced`; None if it does not."""
    word, colon, strength = text.partition(":")
    if word != "balanced":
        return None
    return (math.nan if (read := number(strength)) is None else read) if colon else 1.0


def _weights(flag: str, value: str) -> None:
    strength = balance_of(value)
    if strength is not None and not 0 < strength <= 2:
        raise UserError(
            f"{flag} {value}: the strength must be above 0 and at most 2, such as balanced:0.5."
        )
    if not value.strip():
        raise UserError(
            f"{flag} must be none, balanced, balanced:STRENGTH, NAME=WEIGHT,... or a file."
        )


OneClassMetric = Literal["accuracy", "macro_f1", "balanced_accuracy", "auroc", "loss"]
MetricName = Literal[OneClassMetric, "map", "micro_f1"]
MULTILABEL_METRICS = ("map", "macro_f1", "micro_f1", "loss")
"""Metrics of images that may have several labels, that by default first."""


WITHOUT_STEPS = ("mask", "solver", "l2", "metric", "class_weights", "bn", "calibrate", "seed")
"""Options of a training that a solver without steps has too."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """What is trained, and how. Several defaults depend on --mask and --optimizer.

    Attributes:
        mask: Which layers are trained, while all others stay frozen: head_only (the new classifier
            alone), last_stage (also the last layers), full (every layer) or another mask. Others:
            last_stages:K, from:PATH, first_stages:K, norm_only, bias_only, lora:RANK (low-rank
            adapters), rules:FILE (one rule per line), or the rules themselves, such as
            'rules:stage4/.*=x0.1;head/.*=train;.*=frozen'; see docs/freezing.md.
        lora_alpha: Strength of the adapters of --mask lora:RANK: what they add to a layer is
            multiplied by this number divided by RANK.
        phases: Train in phases with different masks, instead of one --mask: lp_ft, gradual,
            freeze_unfreeze:EPOCHS, or a list of epochs, mask and learning rate, such as
            '3,head_only,3e-3;7,last_stage,1e-4'. Default: one mask for all epochs.
        extended: Set by jtl when --resume --epochs N makes a run longer: the epochs added each
            time, which train under the last mask with a fresh schedule. You need it only to repeat
            such a run.
        bn: What BatchNorm layers normalize with: frozen (their stored running averages, which stay
            as they are), batch (the statistics of each batch in layers that are trained) or train
            (the same in all layers, frozen ones too). Default: auto, which is frozen for pretrained
            weights and batch for random ones.
        solver: How a linear head on a frozen backbone is fitted: sgd (step by step, with
            --optimizer), or lbfgs (to the optimum; needs no learning rate or epochs). Default:
            auto, which is lbfgs unless an option asks for steps or for augmentation.
        l2: L2 penalty of --solver lbfgs: a number, or auto for the best of 25 on the validation
            split.
        class_weights: Weight of each class in the training loss: none (every image counts the
            same), balanced (every class counts the same; with --task multilabel, having a class
            counts as much as not having it), balanced:STRENGTH (less of it, such as balanced:0.5),
            NAME=WEIGHT,... (such as 'ant=2,bee=0.5'; all others 1), or a .json or .csv file of
            names and weights.
        sampler: Which training images an epoch uses: each one once (shuffle), or equally many of
            every class, so that images of small classes are repeated (balanced).
        epochs: Passes over the training images. Default: 10. head_only normally needs none: its
            head is computed directly; 20 where it is trained step by step (see --solver).
        batch_size: Images per training step, or auto. auto takes as many as fit in memory, up to
            512 and at most a tenth of the training images.
        lr: Peak learning rate. Default: 1e-3 for head_only, 3e-4 for last_stage, else 1e-4;
            norm_only, bias_only and lora:RANK as head_only, last_stages:K as last_stage; ten times
            that for sgd, lamb and adagrad, a tenth for lion.
        head_lr_mult: Multiple of the learning rate for the head. Default: 1 for head_only,
            norm_only, bias_only and lora:RANK, else 10.
        layer_decay: Layer-wise learning-rate decay: each block learns at this multiple of the next
            block's rate; 1 for the same rate everywhere.
        optimizer: Optimizer (from optax): adamw, sgd (with Nesterov momentum), lion and others.
        weight_decay: Weight decay of the trained parameters; 0 for none. Default: none for
            head_only, norm_only, bias_only and lora:RANK, else 1e-3; half of that for sgd, ten
            times that for lion.
        l2_sp: L2-SP penalty, which pulls backbone parameters towards their pretrained values; 0 for
            none.
        schedule: Learning-rate schedule of each phase: cosine decay to zero; constant; step
            (--decay-at); one_cycle (up, then down); or plateau (lower when the validation loss
            stops falling).
        patience: Early stopping: stop after this many epochs without a better --metric;
            0 to train all epochs. The best epoch is kept in any case.
        metric: What decides the best epoch, early stopping (--patience) and --l2 auto, on
            the validation images: accuracy, macro_f1, balanced_accuracy, auroc or loss; with --task
            multilabel map (the mean average precision, the default there), macro_f1, micro_f1 or
            loss.
        calibrate: How probabilities are made to match how often predictions are right: temperature
            (scaled by one number that is fitted on the validation images; the predicted classes
            stay the same), or none. With --task multilabel it is the threshold of each class that
            is fitted; none leaves all at 0.5.
        min_delta: Smallest gain in --metric that counts as an improvement for --patience.
        seed: Seed for the validation split, the new head's initial parameters and the order of the
            images. The same seed gives the same result, bit for bit on CPUs.
    """

    mask: str = "head_only"
    lora_alpha: Annotated[float, checks.positive] = 8.0
    phases: str | None = None
    extended: Annotated[tuple[int, ...], _epochs] = ()
    bn: BatchNormMode = "auto"
    solver: Literal["auto", "sgd", "lbfgs"] = "auto"
    l2: Annotated[str, _penalty] = "auto"
    class_weights: Annotated[str, _weights] = "none"
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    epochs: Annotated[int | None, checks.within(1, 10**6)] = None
    batch_size: Annotated[int | Literal["auto"], checks.within(1, 2**20)] = 32
    lr: Annotated[float | None, checks.positive] = None
    head_lr_mult: Annotated[float | None, checks.positive] = None
    layer_decay: Annotated[float, checks.positive] = 1.0
    optimizer: OptimizerName = "adamw"
    weight_decay: Annotated[float | None, checks.at_least(0)] = None
    l2_sp: Annotated[float, checks.at_least(0)] = 0.0
    schedule: ScheduleName = "cosine"
    patience: Annotated[int, checks.at_least(0)] = 0
    metric: MetricName = "accuracy"
    calibrate: Literal["temperature", "none"] = "temperature"
    min_delta: Annotated[float, checks.share] = 0.0
    seed: Annotated[int, checks.seed] = 0

    @property
    def batch(self) -> int:
        """The batch size as a number, which it is once the training is set up."""
        assert self.batch_size != "auto", "see jtl.train.batch_size.prepared"
        return self.batch_size

    def check(self) -> None:
        """Checks what the options say together.

        Raises:
            UserError: They do not go together; the message names them.
        """
        if self.phases is not None and self.mask != TrainConfig.mask:
            raise UserError("--phases already sets a mask for each phase; leave --mask out.")
        if self.mask == "head_only" and self.phases is None and self.solver != "lbfgs":
            why = "no effect with --mask head_only, which trains no block of the backbone. "
            checks.idle(
                self, ("l2_sp", "layer_decay"), f"{why}Choose another mask, or leave it out."
            )
        self._check_adapters()
        if self.min_delta and not self.patience:
            raise UserError("--min-delta: no effect without --patience. Add that, or leave it out.")
        if self.sampler == "balanced" and balance_of(self.class_weights) is not None:
            raise UserError(
                "--sampler balanced and --class-weights balanced both even out the classes, which "
                "together would be too much. Leave one of them out."
            )
        if self.solver == "lbfgs":
            self._check_lbfgs()
        elif self.solver == "sgd":
            why = f"no effect with --solver {self.solver}, only with --solver lbfgs."
            checks.idle(self, ("l2",), f"{why} Add that, or use --weight-decay instead.")

    def _check_adapters(self) -> None:
        """Refuses options that adapters do not go with, or that do nothing without adapters."""
        if not re.search(r"(^|[,\s])lora\b", self.phases or self.mask):
            why = "no effect without --mask lora:RANK. Add that, or leave it out."
            checks.idle(self, ("lora_alpha",), why)
        elif self.l2_sp:
            raise UserError(
                "--l2-sp pulls the backbone's own parameters, which adapters (lora:RANK) leave as "
                "they are. Leave one of them out; --weight-decay pulls the adapters towards zero."
            )

    def _check_lbfgs(self) -> None:
        if self.bn == "train":
            raise UserError(
                "--solver lbfgs fits the head on fixed features, but --bn train changes them "
                "with every batch. Use --bn auto or frozen, or --solver sgd."
            )
        if self.batch_size == "auto":
            raise UserError(
                "--batch-size auto: no effect with --solver lbfgs, which has no batches."
            )
        checks.idle(self, _OF_STEPS, NO_STEPS)


@dataclasses.dataclass(frozen=True)
class StepsConfig:
    """Details of the training steps; see docs/training.md.

    Attributes:
        momentum: Nesterov momentum of --optimizer sgd; 0 for none.
        warmup: Fraction of a phase's steps over which the learning rate rises to its peak.
            Default: 0.1, or 0 for head_only, norm_only and bias_only; 0.3 with --schedule
            one_cycle.
        decay_at: When --schedule step lowers the learning rate, as fractions of a phase's steps,
            such as 0.3,0.6,0.9.
        decay_rate: Factor by which --schedule step and plateau multiply the learning rate.
        plateau_patience: Epochs without a better validation loss before --schedule plateau lowers
            the learning rate.
        clip_norm: Global-norm clipping: gradients are scaled down to this norm; 0 for no limit.
        accumulate: Average the gradients of this many batches per update: like a larger
            --batch-size with less memory (batch statistics still come from single batches).
        label_smoothing: Label smoothing: this fraction of each label is spread evenly over all
            classes.
        ema: Keep an exponential moving average of the trained parameters with this decay, such as
            0.999; the average is evaluated and saved. 0 for none.
    """

    momentum: Annotated[float, checks.share] = 0.9
    warmup: Annotated[float | None, checks.share] = None
    decay_at: Annotated[tuple[float, ...], _inside] = (0.3, 0.6, 0.9)
    decay_rate: Annotated[float, _factor] = 0.1
    plateau_patience: Annotated[int, checks.at_least(1)] = 10
    clip_norm: Annotated[float, checks.at_least(0)] = 0.0
    accumulate: Annotated[int, checks.within(1, 10**6)] = 1
    label_smoothing: Annotated[float, checks.share] = 0.0
    ema: Annotated[float, checks.share] = 0.0

    def check(self, train: TrainConfig) -> None:
        """Refuses options that the optimizer and the schedule do not use.

        Raises:
            UserError: One was given; the message names it.
        """
        if train.solver == "lbfgs":
            checks.idle(self, walk.options(StepsConfig), NO_STEPS)
        used = {
            "momentum": (train.optimizer == "sgd", "--optimizer sgd"),
            "decay_at": (train.schedule == "step", "--schedule step"),
            "decay_rate": (train.schedule in ("step", "plateau"), "--schedule step or plateau"),
            "plateau_patience": (train.schedule == "plateau", "--schedule plateau"),
        }
        for name, (has_effect, by) in used.items():
            if not has_effect:
                why = f"no effect without {by}. Add that, or leave it out."
                checks.idle(self, (name,), why)
