"""Where the examples of a phase are: features in memory or on disk, images in memory or not.

The only place that decides it; `PhaseInputs` and `FeatureCache` do as it says.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax

from jtl.cache import sizes
from jtl.cache.store import FeatureStore
from jtl.common.quantities import format_bytes
from jtl.data.input_plan import InputPlan
from jtl.data.loader import Images
from jtl.data.splits import Split
from jtl.distributed import processes
from jtl.distributed.sharding import SINGLE, DataSharding

Place = Literal["memory", "disk"]

DEVICE_SHARE = 0.25
"""The share of an accelerator's free memory that images may take; steps need the rest."""


@dataclasses.dataclass(frozen=True)
class CacheEstimate:
    """What the features of some splits need.

    Attributes:
        nbytes: All of them together.
        place: Where they can lie; None if nowhere.
        kept: Whether all of them are in the cache already.
    """

    nbytes: int
    place: Place | None
    kept: bool


def place_features(
    cut: str, needed: int, kept: bool, budget: str | None, store: FeatureStore | None
) -> tuple[Place | None, str | None]:
    """The place for the features at a cut.

    Args:
        cut: Path of the unit after the frozen prefix.
        needed: Their bytes.
        kept: Whether all of them are on disk already.
        budget: As in `--cache-budget`.
        store: Where features are kept between runs; None for nowhere.

    Returns:
        (`memory`, `disk`, or None where there is no room; why it is not memory, None where
        there is nothing to say).
    """
    memory = sizes.memory_budget(budget)
    if needed <= memory:
        return "memory", None
    if not memory:
        return None, None
    too_large = (
        f"the features before {cut} need {format_bytes(needed)}, more than the "
        f"{format_bytes(memory)} of memory for them"
    )
    if store is None:
        return None, f"{too_large}, so every step runs the whole network"
    too_large, limit = f"{too_large} (--cache-budget)", store.limit()
    if kept or needed <= limit:
        return "disk", f"{too_large}; jtl reads them from disk batch by batch"
    return None, (
        f"{too_large} and the {format_bytes(limit)} on disk ({sizes.LIMIT}), so every step runs "
        "the frozen layers, too. --cache-dtype bfloat16 or a smaller --image-size needs less."
    )


def place_images(
    split: Split,
    inputs: InputPlan,
    *,
    once: bool,
    training: bool = False,
    sharding: DataSharding = SINGLE,
) -> Images:
    """The images of a split, decoded now if they fit in memory, else batch by batch.

    Args:
        split: The split.
        inputs: How images become the network's input.
        once: Whether they are looked at once only, which is better done while they are decoded.
        training: Whether the images are augmented.
        sharding: The devices that share them. Processes hold them on the devices or not at all:
            each decodes its share once, and whose images a batch needs is no matter then.
    """
    needed = _image_bytes(split, inputs, training=training)
    host = inputs.host_for(split.native_size(), training=training)
    if sharding.spans_processes:
        each = needed * len(sharding.local().devices or (0,)) / sharding.count
        fits = each < sizes.MEMORY_SHARE * sizes.free_memory() and _has_room(each, on_cpu=True)
        hold = on_device = processes.all_agree(fits) and not once
    else:
        hold = needed < sizes.MEMORY_SHARE * sizes.free_memory() and not once
        on_device = hold and _has_room(needed)
    return Images(split, host, hold=hold, on_device=on_device, sharding=sharding)


def device_bytes(split: Split, inputs: InputPlan, *, training: bool = False) -> int:
    """What images will take of an accelerator's memory, if they come to be there."""
    needed = _image_bytes(split, inputs, training=training)
    return needed if _has_room(needed) else 0


def _image_bytes(split: Split, inputs: InputPlan, *, training: bool) -> int:
    return len(split) * inputs.bytes_per_image(split.native_size(), training=training)


def _has_room(nbytes: float, *, on_cpu: bool = False) -> bool:
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
