"""How much memory a training step takes, and the largest batch that fits.

XLA tells of a compiled program what it will take (`memory_analysis`), without running it. For a
step that is nearly a straight line in the batch size: what comes between the layers grows with it,
gradients do not. Two small sizes give the line; what it suggests is compiled and looked at itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from jtl.cache.phase_inputs import PhaseInputs
from jtl.common.errors import LESS_MEMORY, out_of_memory
from jtl.common.quantities import format_bytes
from jtl.distributed import processes
from jtl.models.inference import forward
from jtl.train import step
from jtl.train.setup import Setup
from jtl.train.step import Batch
from jtl.train.trainer import Trainer

DEVICE_SHARE, HOST_SHARE = 0.9, 0.5
"""The share of free memory that a step may take: of an accelerator's own, which an allocator
divides up; and of a CPU's, where oneDNN's own, decoded images and other processes need the rest."""
PROBES = (4, 8)
"""The batch sizes, for each device, that give the line."""


class UnknownMemory(RuntimeError):
    """XLA says nothing of a program's memory on this platform."""


def dummy_batch(setup: Setup, inputs: PhaseInputs, count: int) -> Batch:
    """Zeros of the shapes and dtypes that a step's batch of `count` has in training."""
    device = setup.inputs.device
    labels = np.zeros((count, *setup.dataset.train.labels.shape[1:]), np.int32)
    labels = labels.astype(setup.dataset.train.labels.dtype)
    if inputs.start is not None:
        images = jax.ShapeDtypeStruct((count, device.size, device.size, 3), jnp.uint8)
        options: Any = dict(model=setup.model, stop=inputs.start, prepare=device)
        features = jax.eval_shape(
            lambda variables, x: forward(variables, x, **options), setup.variables, images
        )
        return Batch(jnp.zeros(features.shape, features.dtype), labels)
    augmented = setup.inputs.augmentation is not None
    native = setup.dataset.train.native_size()
    host = setup.inputs.host_for(native, training=augmented)
    sides = native if host is None else (host.size, host.size)
    assert sides is not None  # Images of several sizes are resized while decoded.
    x = jnp.zeros((count, *sides, 3), jnp.uint8)
    if not augmented:
        return Batch(x, labels)
    return Batch(x, labels, np.arange(count, dtype=np.int32), np.int32(1))


def step_bytes(trainer: Trainer, count: int) -> int:
    """Bytes that a step of `count` examples takes on each device, beside the state and params.

    Raises:
        UnknownMemory: The platform does not tell.
        RuntimeError: Not even compiling has memory enough.
    """
    # By shapes alone: a step that failed may have taken the state's arrays with it.
    held = jax.tree.map(_outline, (trainer.state, trainer.constants))
    batch = jax.eval_shape(lambda: dummy_batch(trainer.setup, trainer.inputs, count))
    compiled = step.train_step.lower(*held, batch, step=trainer.step).compile()
    analysis: Any = compiled.memory_analysis()
    if analysis is None:
        raise UnknownMemory("the platform does not report how much memory a program will need")
    there = sum(leaf.nbytes for leaf in jax.tree.leaves((trainer.state, trainer.constants)))
    arguments = max(analysis.argument_size_in_bytes - there, 0)
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(analysis.temp_size_in_bytes + arguments + max(results, 0))


def _outline(array: jax.Array | np.generic) -> jax.ShapeDtypeStruct:
    sharding = getattr(array, "sharding", None)  # NumPy's, as rates are, have none.
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def free_for_steps(kept: int = 0) -> int:
    """Bytes on each device that a step may take, of this process's devices that have least.

    Args:
        kept: Of images or features that will come to lie beside it, all devices together.
    """
    devices = jax.local_devices()
    free = [_free(device) for device in devices]
    if None in free:
        # A CPU's devices share its memory, in which HOST_SHARE leaves room for what is kept.
        return int(HOST_SHARE * psutil.virtual_memory().available / len(devices))
    return int(min(DEVICE_SHARE * (each or 0) - kept / len(devices) for each in free))


def _free(device: Any) -> int | None:
    memory = device.memory_stats() or {}
    if "bytes_limit" not in memory:
        return None
    return memory["bytes_limit"] - memory.get("bytes_in_use", 0)


def rounded(count: float, devices: int = 1) -> int:
    """The largest size up to `count` that gives each of the devices 2**k or 3 * 2**k examples.

    0 if there is none. Few sizes stand for many, and batches divide into each other.
    """
    each = int(count // devices)
    if each < 1:
        return 0
    power = 1 << (each.bit_length() - 1)
    return devices * (power + power // 2 if each >= power + power // 2 > power else power)


def largest_batch(trainer: Trainer, room: int, at_most: int) -> int:
    """The largest size, `rounded`, whose step takes no more than `room` bytes on each device.

    Args:
        trainer: Of the phase.
        room: As `free_for_steps` gives it.
        at_most: No larger one is looked for.

    Returns:
        0 if no size fits.
    """
    devices = trainer.setup.sharding.count
    if at_most < devices:
        return 0
    low, high = (rounded(min(size * devices, at_most), devices) for size in PROBES)
    needed = {size: _needed(trainer, size) for size in {low, high}}
    guess = float(at_most)
    if needed[high] == math.inf:
        guess = float(low)
    elif needed[low] < needed[high]:
        each = (needed[high] - needed[low]) / (high - low)
        guess = max(low + (room - needed[low]) / each, devices)
    # One size above what the line suggests is looked at, too, as no line is quite straight.
    size = rounded(min(1.5 * guess, at_most), devices)
    while size and _needed(trainer, size) > room:
        size = rounded(size - 1, devices)
    return size


def _needed(trainer: Trainer, count: int) -> float:
    """As `step_bytes`; infinite where the compiler itself says that it is too much."""
    try:
        return step_bytes(trainer, count)
    except RuntimeError as error:
        if out_of_memory(error) is None:
            raise
        return math.inf


def advice(trainer: Trainer, error: BaseException) -> str:
    """The message for a step that did not fit, with the batch size that would.

    Args:
        trainer: Whose step it was.
        error: What the step raised; what its frames hold is let go.
    """
    train, said = trainer.setup.config.train, out_of_memory(error)
    traceback.clear_frames(error.__traceback__)
    lines = [f"not enough memory for steps of {train.batch} images: {said}"]
    room, fits = free_for_steps(), None
    # One of many processes may not compile what the others do not.
    if not processes.is_distributed():
        with contextlib.suppress(RuntimeError):  # What the platform does not tell is not guessed.
            fits = largest_batch(trainer, room, train.batch - 1)
    if fits is None:
        lines.append("Try --batch-size auto, which finds the largest that fits.")
    elif fits:
        lines.append(
            f"About {fits} fit in the {format_bytes(room)} that a step can use: try --batch-size "
            f"{fits}{_same_updates(trainer, fits)}, or --batch-size auto."
        )
    else:
        lines.append("Not even one per device fits.")
    return "\n".join([*lines, f"To use less memory, try {LESS_MEMORY}."])


def _same_updates(trainer: Trainer, fits: int) -> str:
    """How to have the same updates from smaller batches, where that can be."""
    config = trainer.setup.config
    times, rest = divmod(config.train.batch * config.steps.accumulate, fits)
    return "" if rest else f" (with --accumulate {times} for the same updates)"


def rejected(trainer: Trainer, count: int) -> str | None:
    """Takes one step of `count` dummy examples from a copy of the state.

    Returns:
        None if it fits, else what the error says first.
    """
    try:
        batch = dummy_batch(trainer.setup, trainer.inputs, count)
        sharding = trainer.setup.sharding
        batch = dataclasses.replace(batch, x=sharding.shard(sharding.local_batch(batch.x)))
        state = jax.tree.map(jnp.copy, trainer.state)
        jax.block_until_ready(trainer.step(state, trainer.constants, batch))
    except Exception as error:
        said = out_of_memory(error)
        if said is None:
            raise
        return said
    return None
