"""What a run would train and what it would cost, told before it starts (`--dry-run`)."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jtl.cache.phase_inputs import PhaseInputs
from jtl.common import measurements
from jtl.common.progress import Display
from jtl.common.quantities import format_bytes, format_seconds
from jtl.common.text import counted
from jtl.freeze import lora
from jtl.freeze.cut import trainable
from jtl.freeze.phase_plan import PhasePlan
from jtl.models.inference import forward
from jtl.train import flops
from jtl.train.overview import groups_of
from jtl.train.phase_optimizer import PhaseOptimizer
from jtl.train.setup import Setup, feature_cache

_ON_CPU = 8
"""Images of a timed forward pass."""
_TIMES, _LONG_ENOUGH = 5, 0.5
"""How often it is timed, or how many seconds long."""


def dry_run(setup: Setup) -> dict[str, Any]:
    """Counts what every phase would train and compute, times the network, and trains nothing.

    Returns:
        The first phase's figures at the top (`total_params`, `trainable_params`,
        `frozen_params`, `optimizer_bytes`, `cut`, `groups`, ...) and every phase's under
        `phases`. Params count BatchNorm statistics; FLOPs are those of `jtl.train.flops`.
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
    total = sum(leaf.size for leaf in jax.tree.leaves(setup.start))
    params = jax.eval_shape(lambda: plan.trainable_params(setup.start))
    trained = sum(leaf.size for leaf in jax.tree.leaves(params))
    groups = groups_of(setup, plan)
    cost = _cost(setup, plan, inputs)
    state = jax.eval_shape(PhaseOptimizer(setup, plan).transform().init, params)
    optimizer_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
    if setup.config.train.solver == "lbfgs":
        # No steps, no rates, and nothing is kept of the optimizer.
        optimizer_bytes = 0
        cost |= dict.fromkeys(("step_flops", "step_seconds", "estimated_epoch_seconds"))
        groups = [{**row, "learning_rate": None} for row in groups]
    return {
        "mask": plan.phase.mask,
        "epochs": plan.phase.epochs,
        "total_params": int(total),
        "trainable_params": int(trained),
        "frozen_params": int(total - trained),
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


def _cost(setup: Setup, plan: PhasePlan, inputs: PhaseInputs) -> dict[str, Any]:
    """Operations of a forward, a step and the prefix, and seconds of the latter two.

    The forward pass is compiled and timed on a few images; what else takes time is taken to do as
    many operations a second. To compile and take a real step would take ten times as long.
    """
    size, batch = setup.inputs.device.size, min(setup.config.train.batch, len(setup.dataset.train))
    trains = lora.changes(plan.labels, trainable(plan.labels))
    counted = flops.count(setup.model, setup.variables, size, trains, inputs.start)
    whole = counted.prefix + counted.forward
    # The part in which most of the work is: the frozen layers, or all of them.
    stop = inputs.start if counted.prefix > whole / 2 else None
    seconds = forward_seconds(setup, batch, stop) / (whole if stop is None else counted.prefix)
    images = len(setup.dataset.train) * max(setup.inputs.views, 1) + len(setup.dataset.val)
    # Devices divide a batch, each of many processes computes its share of the features.
    step_seconds = seconds * counted.step * batch / setup.sharding.count
    return {
        "forward_flops_per_image": whole,
        "prefix_flops_per_image": counted.prefix,
        "step_flops": counted.step * batch,
        "step_seconds": step_seconds,
        "estimated_prefix_seconds": seconds * counted.prefix * images / setup.sharding.count,
        "estimated_epoch_seconds": step_seconds * setup.steps_per_epoch,
    }


def forward_seconds(setup: Setup, batch: int, stop: str | None) -> float:
    """Seconds of inference for one image, compiled, up to unit `stop`."""
    # A CPU is as fast on few images; accelerators are not.
    batch = min(batch, _ON_CPU) if jax.default_backend() == "cpu" else batch
    size, prepare = setup.inputs.device.size, setup.inputs.device
    images = jnp.zeros((batch, size, size, 3), jnp.uint8)
    variables = jax.device_put(setup.variables)
    compiled = forward.lower(
        variables, images, model=setup.model, stop=stop, prepare=prepare
    ).compile()
    call = functools.partial(compiled, variables, images)
    return measurements.shortest(call, least=1, most=_TIMES, seconds=_LONG_ENOUGH) / batch


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


def _time(phase: dict[str, Any]) -> list[str]:
    """How long a phase would take, of what parts that is the sum, and what comes on top."""
    whole, parts = 0.0, []
    if phase["cached_prefix"] and not phase["cache_kept"]:
        whole += phase["estimated_prefix_seconds"]
        parts.append(f"{format_seconds(whole)} for the frozen layers (once)")
    if phase["step_flops"] is not None:
        each = phase["estimated_epoch_seconds"]
        whole += each * phase["epochs"]
        parts.append(f"{counted(phase['epochs'], 'epoch')} of {format_seconds(each)}")
        parts = [f"{format_seconds(whole)}: {' and '.join(parts)}"]
    elif phase["cached_prefix"]:
        parts.append("seconds for the head")
    if not parts:
        return []
    return [
        f"time: {'about ' if whole else ''}{' and '.join(parts)}",
        "not included: reading the images, compiling (up to a minute or two; faster the next "
        "time) and validation",
    ]


def _lines(phase: dict[str, Any]) -> list[str]:
    """What a phase would cost, the time first."""
    cached, steps = phase["cached_prefix"], phase["step_flops"] is not None
    lines = _time(phase)
    if cached:
        in_memory = phase["cache_place"] == "memory"
        place = "kept in memory while training" if in_memory else "read from disk"
        when = "already" if phase["cache_kept"] else "to be"
        lines.append(
            f"output of the frozen layers: {when} cached ({format_bytes(phase['cache_bytes'])}, "
            f"{place}) in '{phase['cache_folder']}'"
        )
    lines += [
        f"trained: {phase['trainable_params']:,} of {phase['total_params']:,} parameters, counting "
        "BatchNorm statistics",
        *([f"optimizer state: {format_bytes(size)}"] if (size := phase["optimizer_bytes"]) else []),
        f"cut: {phase['cut']}" + ("" if cached else " (nothing cached)"),
    ]
    computed = f"forward pass: {phase['forward_flops_per_image'] / 1e9:,.3f} GFLOP per image"
    if cached:
        computed += f", {phase['prefix_flops_per_image'] / 1e9:,.3f} of them in frozen layers"
    lines.append(computed)
    if steps:
        lines.append(
            f"step: {phase['step_flops'] / 1e9:,.3f} GFLOP, {phase['step_seconds'] * 1e3:,.1f} ms"
        )
    return lines
