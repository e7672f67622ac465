"""Trainings on 1, 2 and 8 devices, run by `test_devices.py` in a process that has eight."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.common.trees import leaf_paths, lookup
from jtl.config.options import AugmentConfig, Config, ModelConfig, StepsConfig
from jtl.data.loader import Images, prefetch
from jtl.data.sampler import shuffled
from jtl.distributed.sharding import SINGLE, DataSharding
from jtl.models import registry
from jtl.runs.checkpoints import reading
from jtl.train import batch_size, memory_estimate, step
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.state import TrainState, init_state
from support import quick, tiny

COUNTS = (1, 2, 8)
STEPS, BATCH = 6, 16
TX = optax.sgd(0.1, momentum=0.9)


def sharding(count: int) -> DataSharding:
    return DataSharding(tuple(jax.devices()[:count])) if count > 1 else SINGLE


def counts(kind: str) -> tuple[int, ...]:
    """On how many devices a training is run; each compiles its programs anew."""
    return COUNTS if kind in ("cached", "full") else (1, 8)


def kinds(data: Path) -> dict[str, Config]:
    """Trainings that reach every way in which examples come to a step."""
    # 39 train and 21 val images, which eight devices do not divide.
    cached = tiny.config(data, None, epochs=3, batch_size=8)
    features = tiny.config(data, None, mask="last_stages:1", batch_size=8)
    full = tiny.config(data, None, mask="full", epochs=2, batch_size=8, optimizer="adamw", lr=1e-3)
    everything = dataclasses.replace(
        full,
        model=ModelConfig("tiny", full.model.weights, head="dropout:.3"),
        augment=AugmentConfig("strong"),
        steps=StepsConfig(ema=0.9, accumulate=2, clip_norm=1.0, label_smoothing=0.1),
    )
    return {"cached": cached, "features": features, "full": full, "everything": everything}


def fitted(config: Config, folder: Path, devices: DataSharding) -> tuple[list[Any], dict[str, Any]]:
    """The lines of the epochs, and the last checkpoint's variables by path."""
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, run_dir=folder))
    with mock.patch("jtl.train.setup.sharding_for", return_value=devices):
        run = fit(config, tiny.quiet())
    variables = reading.restore(folder, "latest").variables
    leaves = {"/".join(path): lookup(variables, path) for path in leaf_paths(variables)}
    return tiny.lines_of(run), leaves


def start(devices: DataSharding) -> tuple[TrainState, Any, dict[str, Any]]:
    arm = tiny.parts("full")
    params, stats, frozen = devices.replicate((arm.params, arm.live_stats, arm.frozen))
    state = init_state(params, stats, TX, sharding=devices)
    options = dict(
        model=tiny.MODEL, tx=TX, start=None, train_units=arm.cut.train_units,
        stats_units=arm.cut.stats_units,
        prepare=tiny.PREPARE,
    )  # fmt: skip
    return state, step.Constants(**frozen), options


def stepped(devices: DataSharding) -> tuple[list[float], np.ndarray]:
    """Losses of some steps, and all params after them."""
    split = tiny.array_split(40)
    photos = Images(split, None, hold=True, on_device=devices.count > 1, sharding=devices)
    batches = np.concatenate([shuffled(40, BATCH, 0, epoch) for epoch in (1, 2, 3)])
    state, frozen, options = start(devices)
    losses = []
    for images, rows in zip(prefetch(photos, list(batches), devices), batches, strict=True):
        labels = split.labels[rows]
        state, metrics = step.TrainStep(**options, sharding=devices)(
            state, frozen, step.Batch(images, labels)
        )
        losses.append(metrics.means()["loss"])
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    return losses, flat(state.params)


def stepped_with_batch_norm_per_device(count: int) -> tuple[list[float], np.ndarray]:
    """The same with statistics of each device's part alone, as a mean of the devices' updates.

    The optimizer is linear in the gradients, so that means of updates are updates by means.
    """
    split = tiny.array_split(40)
    batches = np.concatenate([shuffled(40, BATCH, 0, epoch) for epoch in (1, 2, 3)])
    state, frozen, options = start(SINGLE)
    losses = []
    for rows in batches:
        states, sums = [], []
        for part in rows.reshape(count, -1):
            images, labels = split.read(part, None), split.labels[part]
            copy = jax.tree.map(jnp.copy, state)
            after, metrics = step.TrainStep(**options)(copy, frozen, step.Batch(images, labels))
            states.append((after.params, after.batch_stats, after.opt_state))
            sums.append(metrics.means()["loss"])
        params, stats, opt_state = jax.tree.map(lambda *x: sum(x) / count, *states)
        state = dataclasses.replace(after, params=params, batch_stats=stats, opt_state=opt_state)
        losses.append(float(np.mean(sums)))
    return losses, flat(state.params)


def found_batch(data: Path, per_device: int) -> tuple[int, int]:
    """What `--batch-size auto` finds where each device has room for so many images of a step.

    Returns:
        The batch size, and how many devices share it.
    """
    config = tiny.config(data, None, mask="full", batch_size=per_device * max(COUNTS))
    room = memory_estimate.step_bytes(tiny.trainer_of(config), per_device * max(COUNTS))
    auto = dataclasses.replace(config.train, batch_size="auto")
    with (
        mock.patch.object(memory_estimate, "free_for_steps", return_value=room),
        mock.patch.object(batch_size, "BATCHES", 1),
    ):
        setup = batch_size.prepared(checked(dataclasses.replace(config, train=auto)), tiny.quiet())
    return setup.config.train.batch, setup.sharding.count


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def main(folder: Path) -> None:
    assert jax.device_count() == max(COUNTS)
    registry.ENTRIES[tiny.ENTRY.name] = tiny.ENTRY
    patch = pytest.MonkeyPatch()
    quick.spare(patch)
    quick.lower_and_keep(patch)
    data = tiny.write_folder(folder / "data", train=13, val=7)
    tiny.write_weights(folder / "weights")
    told: dict[str, Any] = {"lines": {}, "losses": {}}
    arrays = {}
    for name, config in kinds(data).items():
        for count in counts(name):
            place = f"{name}-{count}"
            lines, leaves = fitted(config, folder / place, sharding(count))
            told["lines"][place] = lines
            arrays |= {f"{place}/{path}": leaf for path, leaf in leaves.items()}
    for count in COUNTS:
        told["losses"][f"steps-{count}"], arrays[f"steps-{count}"] = stepped(sharding(count))
    told["losses"]["apart"], arrays["apart"] = stepped_with_batch_norm_per_device(8)
    told["found"] = [found_batch(data, per_device) for per_device in (2, 4)]
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
