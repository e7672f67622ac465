"""`--batch-size auto`: the largest batch that fits, found before training."""

from __future__ import annotations

import contextlib
import dataclasses

import jax

from jtl.cache import placement
from jtl.common.errors import LESS_MEMORY, UserError
from jtl.common.progress import Display
from jtl.common.quantities import format_bytes
from jtl.config import walk
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.distributed.sharding import sharding_for
from jtl.freeze.phase_plan import PhasePlan
from jtl.train import memory_estimate
from jtl.train.setup import Setup, feature_cache, prepare_setup
from jtl.train.trainer import Trainer

AT_MOST = 512
"""Images, however much memory there is. Batches are mostly of 32 to 512, and larger ones were
found to generalize worse (Keskar et al., arXiv 1609.04836)."""
BATCHES = 10
"""That an epoch has at the least, so that few images still make several updates."""


def prepared(config: Config, display: Display) -> Setup:
    """What `prepare_setup` gives, with a number for `--batch-size auto`.

    Raises:
        UserError: As `prepare_setup`; or not even one image fits.
    """
    auto = config.train.batch_size == "auto"
    first = walk.replace(config, {"batch_size": jax.device_count()}) if auto else config
    setup = processes.run_together(lambda: prepare_setup(first, display))
    if not auto:
        return setup
    at_most = largest_sensible(len(setup.dataset.train), config.steps.accumulate)
    if processes.is_distributed():
        # All devices take part; a batch with an image for each may be more than is sensible.
        at_most = max(at_most, jax.device_count())
    # Where the images are so few that not every device has one, as many devices as have.
    setup = dataclasses.replace(setup, sharding=sharding_for(min(jax.device_count(), at_most)))
    size = at_most
    for plan in setup.plans:
        size = _of_phase(setup, plan, size)
    display.message(
        f"--batch-size auto: {size} images per step (at most {at_most} of "
        f"{len(setup.dataset.train):,}); learning rates stay as they are"
    )
    config = walk.replace(setup.config, {"batch_size": size})
    return dataclasses.replace(setup, config=config, sharding=sharding_for(size))


def largest_sensible(images: int, accumulate: int) -> int:
    """What `--batch-size auto` takes at the most.

    Args:
        images: To train on.
        accumulate: Batches in an update.
    """
    return max(min(images // (BATCHES * accumulate), AT_MOST), 1)


def _of_phase(setup: Setup, plan: PhasePlan, at_most: int) -> int:
    """The largest size up to `at_most` whose steps fit in a phase, tried by one step."""
    cache = feature_cache(setup, Display())
    splits = {"train": setup.dataset.train, "val": setup.dataset.val}
    inputs = cache.plan(plan.cut.features_at, setup.variables, splits)
    if inputs.start is None:
        kept = sum(
            placement.device_bytes(split, setup.inputs, training=name == "train")
            for name, split in splits.items()
        )
    else:
        estimate = cache.estimate(inputs.start, setup.variables, splits)
        kept = estimate.nbytes if inputs.place == "memory" else 0
    trainer = Trainer(setup, plan, inputs, setup.start)
    # What each of many processes compiles must not depend on its own memory: on some platforms
    # they compile together.
    room = int(processes.all_gather([memory_estimate.free_for_steps(kept)]).min())
    size = memory_estimate.rounded(at_most, setup.sharding.count)
    with contextlib.suppress(memory_estimate.UnknownMemory):  # The trial below decides then.
        size = memory_estimate.largest_batch(trainer, room, at_most)
    said = f"a step has {format_bytes(max(room, 0))} of memory"
    while True:
        # Many processes go on with what fits in all of them.
        size = int(processes.all_gather([size]).min())
        if not size:
            raise UserError(
                "--batch-size auto: not even one image per device fits with mask "
                f"{plan.phase.mask} ({said}). To use less memory, try {LESS_MEMORY}."
            )
        rejected = memory_estimate.rejected(trainer, size)
        if processes.all_agree(rejected is None):
            return size
        said = rejected or said
        size = memory_estimate.rounded(size - 1, setup.sharding.count)
