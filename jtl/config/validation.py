"""Checks of a training run's options, before anything is read or computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jtl import models
from jtl.cache.sizes import parse
from jtl.common.errors import UserError
from jtl.config.defaults import mask_defaults
from jtl.config.limits import at_least, number, positive, share, whole, within
from jtl.config.options import Config, RunConfig, TrainConfig
from jtl.data.augment import Augment
from jtl.data.loader import check_upsample
from jtl.runs import trackers

LARGEST_IMAGE = 4096
"""Pixels. A feature map of that many squared takes gigabytes an image."""
LARGEST_BATCH = 2**20
MOST_EPOCHS = 10**6
MOST_VIEWS = 1000
MOST_ACCUMULATED = 10**6
MOST_SEEDS = 1000
MOST_PROCESSES = 2**16
LARGEST_SEED = 2**31 - 1
"""What every generator of random numbers takes."""


def resolve(config: Config) -> Config:
    """Checks every option that needs neither data nor network.

    Raises:
        UserError: An option's value is impossible; the message names the option.
    """
    if config.run.config is not None:
        raise UserError("--config is for the command line alone; give the options themselves.")
    models.get(config.model.model)
    config.head(source_classes=1)  # What the weights hold is checked when they are there.
    train = config.train
    mask_defaults(train.mask)
    _check_steps(config)
    within("--epochs", train.epochs, 1, MOST_EPOCHS)
    if isinstance(train.batch_size, str):
        if train.batch_size != "auto":
            raise UserError(f"--batch-size is a number or auto, not '{train.batch_size}'.")
    else:
        within("--batch-size", train.batch_size, 1, LARGEST_BATCH)
    at_least("--patience", train.patience, 0)
    share("--min-delta", train.min_delta)
    within("--image-size", config.data.image_size, 32, LARGEST_IMAGE)
    _check_smallest(config)
    check_upsample(config.data.upsample, config.data.image_size)
    _check_augmentation(config)
    if config.run.cache_budget is not None:
        parse("--cache-budget", config.run.cache_budget)
    within("--seed", train.seed, 0, LARGEST_SEED)
    within("--split-seed", config.data.split_seed, 0, LARGEST_SEED)
    _check_kind(config)
    at_least("--weight-decay", train.weight_decay, 0)
    at_least("--l2-sp", train.l2_sp, 0)
    positive("--lr", train.lr)
    positive("--head-lr-mult", train.head_lr_mult)
    positive("--layer-decay", train.layer_decay)
    if train.phases is not None and train.mask != TrainConfig.mask:
        raise UserError("--phases names a mask for each phase; leave --mask out.")
    if config.model.head != "mlp":
        _check_idle(
            config.model,
            ("head_widths", "head_dropout", "head_batch_norm"),
            f"no effect with --head {config.model.head}, only on the hidden layers of --head mlp. "
            "Add that, or write a list such as --head bn,dense:256,dropout:.2.",
        )
    _check_solver(config)
    trackers.check(config.run.log_to)
    return config


def check_processes(run: RunConfig) -> None:
    """Checks the options of a training by many processes.

    Raises:
        UserError: One of them is missing or impossible; the message names it.
    """
    given = {
        "--coordinator": run.coordinator,
        "--num-processes": run.num_processes,
        "--process-id": run.process_id,
    }
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: several processes need --coordinator HOST:PORT, "
            "--num-processes N and, each its own, --process-id 0 to N-1."
        )
    host, _, port = str(run.coordinator).rpartition(":")
    if not (host and 0 < (whole(port) or 0) < 2**16):
        raise UserError(f"--coordinator must be HOST:PORT, not '{run.coordinator}'.")
    within("--num-processes", run.num_processes, 1, MOST_PROCESSES)
    assert run.num_processes is not None
    within("--process-id", run.process_id, 0, run.num_processes - 1)


def _check_smallest(config: Config) -> None:
    name, size = config.model.model, config.data.image_size
    backbone: Any = models.get(name).backbone
    if config.model.aux_head:
        if not hasattr(backbone, "aux_classes"):
            raise UserError(f"--aux-head is InceptionV3's alone; {name} has none. Leave it out.")
        if config.model.truncate_at is not None:
            raise UserError("--aux-head trains a whole backbone; leave --truncate-at out.")
        backbone = dataclasses.replace(backbone, aux_classes=1)
    least = getattr(backbone, "min_size", 1)
    beside = " with --aux-head" if config.model.aux_head else ""
    if size is not None and size < least:
        raise UserError(f"--image-size must be at least {least} for {name}{beside}, not {size}.")


def _check_steps(config: Config) -> None:
    train, steps = config.train, config.steps
    share("--momentum", steps.momentum)
    share("--warmup", steps.warmup)
    share("--label-smoothing", steps.label_smoothing)
    share("--ema", steps.ema)
    at_least("--clip-norm", steps.clip_norm, 0)
    within("--accumulate", steps.accumulate, 1, MOST_ACCUMULATED)
    at_least("--plateau-patience", steps.plateau_patience, 1)
    if not steps.decay_at:
        raise UserError("--decay-at needs at least one share of a phase's steps, such as 0.5.")
    for at in steps.decay_at:
        if not 0 < at < 1:
            raise UserError(
                f"--decay-at takes shares of a phase's steps, above 0 and below 1, not {at}."
            )
    if not 0 < steps.decay_rate < 1:
        raise UserError(f"--decay-rate must be above 0 and below 1, not {steps.decay_rate}.")
    idle = {
        "momentum": (train.optimizer == "sgd", "--optimizer sgd"),
        "decay_at": (train.schedule == "step", "--schedule step"),
        "decay_rate": (train.schedule in ("step", "plateau"), "--schedule step or plateau"),
        "plateau_patience": (train.schedule == "plateau", "--schedule plateau"),
    }
    for name, (used, by) in idle.items():
        if not used:
            _check_idle(steps, (name,), f"no effect but with {by}. Add that, or leave it out.")
    if train.mask == "head_only" and train.phases is None and train.solver == "sgd":
        told = "no effect with --mask head_only, which trains no block of the backbone. "
        _check_idle(train, ("l2_sp", "layer_decay"), told + "Choose another mask, or leave it out.")
    if train.min_delta and not train.patience:
        raise UserError("--min-delta: no effect without --patience. Add that, or leave it out.")


def _check_kind(config: Config) -> None:
    """Of trainings, trials and rehearsals there is one at a time."""
    run = config.run
    within("--seeds", run.seeds, 1, MOST_SEEDS)
    within("--seeds with --seed", config.train.seed + run.seeds - 1, 0, LARGEST_SEED)
    asked = {"--dry-run": run.dry_run, "--find-lr": run.find_lr, "--seeds": run.seeds > 1}
    flags = [flag for flag, given in asked.items() if given]
    if len(flags) > 1:
        raise UserError(f"{' and '.join(flags)} do not go together; give one of them.")
    if run.find_lr and run.resume:
        raise UserError("--find-lr begins anew and finds no run to --resume; leave one out.")
    if run.profile and (asked["--dry-run"] or asked["--find-lr"]):
        raise UserError("--profile traces a training; leave --dry-run and --find-lr out.")
    if run.profile and config.train.solver == "lbfgs":
        raise UserError("--profile: no effect with --solver lbfgs, which takes no steps.")
    if run.find_lr and config.train.solver == "lbfgs":
        raise UserError("--find-lr: no effect with --solver lbfgs, which has no learning rate.")


def _check_augmentation(config: Config) -> None:
    options = config.augment.options()
    if options.mixes and config.train.batch_size == 1:
        raise UserError(
            "mixup and cutmix mix the images of a batch, and --batch-size 1 has only one. Use a "
            "larger one, or --mixup 0 --cutmix 0."
        )
    if options.random and config.train.solver == "lbfgs":
        raise UserError(
            "--solver lbfgs fits the head on fixed features, and augmentation makes new images "
            "all the time. Use --augment none, or --solver sgd."
        )
    _check_views(config, options)
    path = config.run.show_batch
    if path is not None and path.suffix.lower() != ".png":
        raise UserError(f"--show-batch writes a .png file, not '{path}'.")


def _check_views(config: Config, options: Augment) -> None:
    views = config.data.cache_views
    if views is None:
        return
    within("--cache-views", views, 1, MOST_VIEWS)
    if not options.random:
        raise UserError(
            f"--cache-views {views} has no effect without augmentation: every epoch sees the same "
            "images. Add --augment light, or leave it out."
        )
    if options.mixes:
        mixing = [f"--{name}" for name in ("mixup", "cutmix") if getattr(options, name) > 0]
        off = " ".join(f"{flag} 0" for flag in mixing)
        raise UserError(
            f"--cache-views {views} keeps what the frozen layers make of one image, and "
            f"{' and '.join(mixing)} mix each with others of its batch, labels too. Add {off}, or "
            "leave --cache-views out."
        )
    if config.run.cache_budget is not None and not parse("--cache-budget", config.run.cache_budget):
        raise UserError(
            f"--cache-views {views} keeps the frozen layers' outputs, and --cache-budget 0 keeps "
            "none. Leave one of them out."
        )


_STEPS_ONLY = (
    "epochs", "lr", "head_lr_mult", "layer_decay", "optimizer", "weight_decay", "l2_sp",
    "schedule", "patience", "min_delta",
)  # fmt: skip
"""What has no meaning for a solver that takes no steps."""


def _check_solver(config: Config) -> None:
    train = config.train
    if train.l2 != "auto":
        penalty = number(train.l2)
        if penalty is None or not 0 <= penalty < float("inf"):
            raise UserError(f"--l2 must be auto or a number from 0 on, not '{train.l2}'.")
    if train.solver != "lbfgs":
        told = f"no effect with --solver {train.solver}, only with --solver lbfgs."
        _check_idle(train, ("l2",), f"{told} Add that, or use --weight-decay instead.")
        return
    if train.mask != "head_only" or train.phases or config.model.head not in ("linear", "append"):
        raise UserError(
            "--solver lbfgs fits a linear head on a frozen backbone: it goes with --mask "
            "head_only and --head linear or append, not with phases."
        )
    if train.bn == "train":
        raise UserError(
            "--solver lbfgs fits the head on fixed features, and --bn train lets them change "
            "with every batch. Use --bn auto or frozen, or --solver sgd."
        )
    if train.batch_size == "auto":
        raise UserError("--batch-size auto: no effect with --solver lbfgs, which has no batches.")
    told = "no effect with --solver lbfgs, which takes no such steps; leave out one or the other."
    _check_idle(train, _STEPS_ONLY, told)
    _check_idle(config.steps, [field.name for field in dataclasses.fields(config.steps)], told)


def _check_idle(options: Any, names: Sequence[str], told: str) -> None:
    """Refuses options that were given and would do nothing; `told` says why."""
    defaults = {field.name: field.default for field in dataclasses.fields(options)}
    given = [name for name in names if getattr(options, name) != defaults[name]]
    if given:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UserError(f"{flags}: {told}")
