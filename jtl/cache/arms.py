"""How the epochs of a phase run: from images, or from the frozen prefix's features."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax

from jtl.cache.sizes import MEMORY_SHARE, free_memory
from jtl.data.loader import Images, InputPlan
from jtl.data.sources.registry import Split as DataSplit
from jtl.distributed import processes
from jtl.distributed.layout import SINGLE, Layout
from jtl.freeze import Split

FEATURE_EVAL_BATCH = 1024
"""Examples per dispatch when only a head is left to run."""
IMAGE_EVAL_BATCH = 32
DEVICE_SHARE = 0.25
"""Of an accelerator's free memory that images may take; steps need the rest."""

Place = Literal["memory", "disk"]


@dataclasses.dataclass(frozen=True)
class Cast:
    """Brings features back to the dtype of the computation; compared by value."""

    dtype: str

    def __call__(self, x: jax.Array) -> jax.Array:
        """Features of any dtype -> features of `dtype`."""
        return x.astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class Arm:
    """How epochs run.

    Attributes:
        start: Path of the first unit that every step runs; None for the first of all.
        prepare: From batches to the first unit's input; None where they are that.
        eval_batch: Examples per evaluation dispatch.
        place: Where features are read from; None without features.
    """

    start: str | None
    prepare: Callable[[jax.Array], jax.Array] | None
    eval_batch: int
    place: Place | None = None

    @property
    def cached(self) -> bool:
        """Whether the frozen prefix runs once per image."""
        return self.start is not None


def cut_of(split: Split) -> str | None:
    """Where a phase's features are taken; None without a frozen prefix."""
    return split.cut if split.prefix else None


def arm_of(
    start: str | None, inputs: InputPlan, stored: str | None = None, place: Place = "memory"
) -> Arm:
    """The arm that starts from features at the unit `start`, or from images if None.

    Args:
        start: As in `Arm`.
        inputs: How images become the network's input.
        stored: What features are rounded to, if at all.
        place: Where features are.
    """
    if start is None:
        return Arm(None, inputs.device, IMAGE_EVAL_BATCH)
    dtype = inputs.device.dtype
    cast = None if stored in (None, dtype) else Cast(dtype)
    return Arm(start, cast, FEATURE_EVAL_BATCH if start == "head" else IMAGE_EVAL_BATCH, place)


def images_of(
    split: DataSplit,
    inputs: InputPlan,
    *,
    once: bool,
    training: bool = False,
    layout: Layout = SINGLE,
) -> Images:
    """The images of a split, decoded now if they fit in memory, else batch by batch.

    Args:
        split: The split.
        inputs: How images become the network's input.
        once: What is looked at once only is better decoded beside the computation.
        training: Whether the images are augmented.
        layout: The devices that share them. Processes hold them on the devices or not at all:
            each decodes its share once, and whose images a batch needs is no matter then.
    """
    native = split.native_size()
    needed = len(split) * inputs.bytes_per_image(native, training=training)
    host = inputs.host_for(native, training=training)
    if layout.spans_processes:
        each = needed * len(layout.local().devices or (0,)) / layout.count
        fits = each < MEMORY_SHARE * free_memory() and has_room(each, on_cpu=True)
        hold = on_device = processes.all_say(fits) and not once
    else:
        hold = needed < MEMORY_SHARE * free_memory() and not once
        on_device = hold and has_room(needed)
    return Images(split, host, hold=hold, on_device=on_device, layout=layout)


def has_room(nbytes: float, *, on_cpu: bool = False) -> bool:
    """Whether the devices have room for so much beside the training itself.

    On a CPU device and host share their memory, and there NumPy gathers faster than XLA: a
    single process keeps its images off the device.
    """
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        return on_cpu
    memory = device.memory_stats() or {}
    free = memory.get("bytes_limit", 0) - memory.get("bytes_in_use", 0)
    return nbytes < DEVICE_SHARE * free * jax.local_device_count()
