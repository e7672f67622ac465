"""Augmented trainings of the tiny network: options, a step's arguments, a run's figures."""

from __future__ import annotations

import dataclasses

import jax
import optax

from jtl.config.options import AugmentConfig, Config
from jtl.data.augment import Augmentation
from jtl.optim import optimizers
from jtl.train.state import init_state
from support import tiny

STRONG = AugmentConfig("strong")
TIMES = ("seconds", "images_per_second", "elapsed")


def augmented(data, folder, options: AugmentConfig = STRONG, **train) -> Config:
    return dataclasses.replace(tiny.config(data, folder, **train), augment=options)


def figures(run) -> list[dict]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in run.history]


def step_arguments(augment: Augmentation | None):
    parts = tiny.parts("full")
    tx = optimizers.build(parts.labels, {k: optax.sgd(0.1) for k in ("head", "backbone")})
    params, stats = jax.device_put((parts.params, parts.live_stats))
    static = dict(
        model=tiny.MODEL,
        tx=tx,
        start=None,
        train_units=parts.cut.train_units,
        stats_units=parts.cut.stats_units,
        augment=augment,
    )
    return init_state(params, stats, tx, seed=5), jax.device_put(parts.frozen), static
