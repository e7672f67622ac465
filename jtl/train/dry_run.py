"""What a run would train and what it would cost, told before it starts (`--dry-run`)."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jtl import onednn
from jtl.cache.inputs import PhaseInputs
from jtl.common.progress import Display
from jtl.common.quantities import format_bytes, format_seconds
from jtl.freeze.plan import PhasePlan
from jtl.models.inference import forward
from jtl.runs.messages import counted
from jtl.train import memory
from jtl.train import step as steps
from jtl.train.overview import groups_of
from jtl.train.setup import Setup, feature_cache
from jtl.train.trainer import Trainer


def dry_run(setup: Setup) -> dict[str, Any]:
    """Compiles one step of every phase, times it on dummy images, and trains nothing.

    Returns:
        The first phase's figures at the top (`total_params`, `trainable_params`,
        `frozen_params`, `optimizer_bytes`, `cut`, `groups`, ...) and every phase's under
        `phases`. Params count BatchNorm statistics; FLOPs are of XLA's cost analysis.
    """
    phases = [_phase(setup, plan) for plan in setup.plans]
    return {
        "model": setup.config.model.model,
        "data": setup.dataset.spec,
        "num_train": len(setup.dataset.train),
        "num_val": len(setup.dataset.val),
        "image_size": setup.inputs.device.size,
        "batch_size": setup.config.train.batch,
        **phases[0],
        "phases": phases,
    }


def _phase(setup: Setup, plan: PhasePlan) -> dict[str, Any]:
    cache = feature_cache(setup, Display())
    splits = {"train": setup.dataset.train, "val": setup.dataset.val}
    inputs = cache.plan(plan.cut.features_at, setup.variables, splits)
    estimate = cache.estimate(inputs.start, setup.variables, splits) if inputs.start else None
    trainer = Trainer(setup, plan, inputs, setup.variables)
    total = sum(leaf.size for leaf in jax.tree.leaves(setup.variables))
    trainable = sum(leaf.size for leaf in jax.tree.leaves(trainer.state.params))
    groups = groups_of(setup, plan)
    cost = _cost(setup, inputs, trainer)
    optimizer_bytes = trainer.optimizer_bytes
    if setup.config.train.solver == "lbfgs":
        # No steps, no rates, and nothing is kept of the optimizer.
        optimizer_bytes = 0
        cost |= dict.fromkeys(("step_flops", "step_seconds", "estimated_epoch_seconds"))
        groups = [{**row, "learning_rate": None} for row in groups]
    return {
        "mask": plan.phase.mask,
        "epochs": plan.phase.epochs,
        "total_params": int(total),
        "trainable_params": int(trainable),
        "frozen_params": int(total - trainable),
        "optimizer_bytes": optimizer_bytes,
        "cut": plan.cut.unit,
        "cached_prefix": inputs.cached,
        "cache_bytes": estimate.nbytes if estimate else 0,
        "cache_place": inputs.place,
        "cache_kept": estimate is not None and estimate.kept,
        "cache_folder": str(cache.folder),
        **cost,
        "groups": groups,
    }


def _cost(setup: Setup, inputs: PhaseInputs, trainer: Trainer) -> dict[str, Any]:
    """FLOPs of a forward, a step and the prefix; seconds of the latter two, compiled."""
    batch = min(setup.config.train.batch, len(setup.dataset.train))
    height = setup.inputs.device.size
    images = jnp.zeros((batch, height, height, 3), jnp.uint8)
    variables = jax.device_put(setup.variables)
    prefix_flops, prefix_seconds = 0.0, 0.0
    prepare = setup.inputs.device
    forward_flops = _flops(forward, variables, images, model=setup.model, prepare=prepare)
    if inputs.start is not None:
        options = dict(model=setup.model, stop=inputs.start, prepare=setup.inputs.device)
        prefix = forward.lower(variables, images, **options).compile()
        prefix_flops = _flops(forward, variables, images, **options)
        prefix_seconds = _timed(lambda: prefix(variables, images))
    examples = memory.dummy_batch(setup, inputs, batch)
    x = setup.sharding.shard(setup.sharding.local_batch(examples.x))
    arguments = (trainer.constants, dataclasses.replace(examples, x=x))
    step = steps.train_step.lower(trainer.state, *arguments, step=trainer.step).compile()
    # The step donates its state; each timed call needs one of its own.
    states = [jax.tree.map(jnp.copy, trainer.state) for _ in range(2)]
    step_seconds = _timed(lambda: step(states.pop(), *arguments))
    images_in_all = len(setup.dataset.train) * max(setup.inputs.views, 1) + len(setup.dataset.val)
    return {
        "forward_flops_per_image": forward_flops / batch,
        "prefix_flops_per_image": prefix_flops / batch,
        "step_flops": _flops(steps.train_step, trainer.state, *arguments, step=trainer.step),
        "step_seconds": step_seconds,
        # Each of many processes runs it on its share.
        "estimated_prefix_seconds": prefix_seconds / batch * images_in_all / jax.process_count(),
        "estimated_epoch_seconds": step_seconds * setup.steps_per_epoch,
    }


def _flops(function: Any, *arguments: Any, **options: Any) -> float:
    """XLA's count of a jitted function's operations, traced without foreign calls."""
    with onednn.disabled():
        lowered = jax.jit(functools.partial(inspect.unwrap(function), **options)).lower(*arguments)
    analysis: Any = lowered.cost_analysis() or {}
    return float(analysis.get("flops", float("nan")))


def _timed(call: Any) -> float:
    """Seconds of a second call, the first one being for the caches."""
    jax.block_until_ready(call())
    began = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - began


def print_dry_run(figures: dict[str, Any], console: Console) -> None:
    console.print(
        f"{figures['model']} on {figures['data']}: {figures['num_train']:,} training and "
        f"{figures['num_val']:,} validation images, {figures['image_size']} pixels, batch size "
        f"{figures['batch_size']}",
        markup=False,
        emoji=False,
        soft_wrap=True,
    )
    for phase in figures["phases"]:
        epochs = counted(phase["epochs"], "epoch")
        title = Text(f"mask {phase['mask']}, {epochs}", style="table.title")
        table = Table(title=title, title_justify="left")
        for name in ("group", "arrays", "parameters", "learning rate", "normalizes with"):
            table.add_column(name, justify="left" if name in ("group",) else "right")
        for row in phase["groups"]:
            rate = "-" if not row["learning_rate"] else f"{row['learning_rate']:.3g}"
            label = Text(row["label"])  # Of the user's rules, and no markup.
            table.add_row(label, f"{row['leaves']:,}", f"{row['params']:,}", rate, row["bn"])
        console.print(table)
        for line in _lines(phase):
            console.print(f"  {line}", markup=False, emoji=False, soft_wrap=True)


def _lines(phase: dict[str, Any]) -> list[str]:
    """What a phase would cost, the time first."""
    cached, steps = phase["cached_prefix"], phase["step_flops"] is not None
    lines: list[str] = []
    if steps and not np.isnan(phase["step_flops"]):
        each = phase["estimated_epoch_seconds"]
        whole = each * phase["epochs"]
        if cached and not phase["cache_kept"]:
            whole += phase["estimated_prefix_seconds"]
        told = f"{format_seconds(whole)}, {format_seconds(each)} per epoch"
        lines.append(f"time without compiling: about {told}")
    if cached:
        place = "in memory" if phase["cache_place"] == "memory" else "read from disk"
        when = (
            "already there"
            if phase["cache_kept"]
            else f"computed once in about {format_seconds(phase['estimated_prefix_seconds'])}"
        )
        lines.append(
            f"frozen layers: cached ({format_bytes(phase['cache_bytes'])}, {place}), {when}, in "
            f"'{phase['cache_folder']}'"
        )
    lines += [
        f"trained: {phase['trainable_params']:,} of {phase['total_params']:,} parameters, counting "
        "BatchNorm statistics",
        *([f"optimizer state: {format_bytes(size)}"] if (size := phase["optimizer_bytes"]) else []),
        f"cut: {phase['cut']}" + ("" if cached else " (nothing cached)"),
    ]
    if not np.isnan(phase["forward_flops_per_image"]):
        forward = f"forward pass: {phase['forward_flops_per_image'] / 1e9:,.3f} GFLOP per image"
        if cached:
            forward += f", {phase['prefix_flops_per_image'] / 1e9:,.3f} of them in frozen layers"
        lines.append(forward)
    if steps and not np.isnan(phase["step_flops"]):
        lines.append(
            f"step: {phase['step_flops'] / 1e9:,.3f} GFLOP, {phase['step_seconds'] * 1e3:,.1f} ms"
        )
    return lines
