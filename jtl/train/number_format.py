"""The number format of the computation: what `--dtype auto` comes to, and where it changes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import jax
import numpy as np

from jtl import onednn
from jtl.cache.extraction import PREFIX_BATCH
from jtl.common import measurements
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.trees import ParamTree
from jtl.config import walk
from jtl.config.model import PREFIX
from jtl.config.options import Config
from jtl.data.input_plan import InputPlan
from jtl.distributed import processes
from jtl.freeze.phase_plan import PhasePlan
from jtl.models import ImageClassifier
from jtl.models.inference import forward

FASTER = 1.1
"""How many times as fast bfloat16 must be to be taken: less is within what timings differ by."""
FEWEST = 1000
"""Images below which measuring, which compiles the prefix once more, takes longer than it saves."""
_TIMES = 3


def prefix_end(plans: Iterable[PhasePlan]) -> str | None:
    """Path of the first unit that trains in any phase; None where that is the very first unit."""
    cuts = [plan.cut for plan in plans]
    return min(cuts, key=lambda cut: len(cut.prefix)).features_at


def applied(
    model: ImageClassifier, inputs: InputPlan, dtype: str, end: str | None
) -> tuple[ImageClassifier, InputPlan]:
    """A classifier and its input, computing in a number format.

    Args:
        model: Computing in one format throughout.
        inputs: How images become its input.
        dtype: `float32`, `bfloat16`, or `bfloat16_prefix`: the frozen prefix in bfloat16, the
            rest in float32.
        end: Where the frozen prefix ends; see `prefix_end`.

    Raises:
        UserError: There is no frozen prefix to compute in bfloat16.
    """
    if dtype == PREFIX:
        if end is None:
            raise UserError(
                f"--dtype {PREFIX} has no effect: the mask trains the first layers, so that "
                "nothing comes before what trains. Use --dtype bfloat16, or a mask that freezes "
                "the first stages, such as last_stage."
            )
        model, dtype = model.clone(float32_from=end), "bfloat16"
    device = dataclasses.replace(inputs.device, dtype=dtype)
    return model, dataclasses.replace(inputs, device=device)


def settled(
    config: Config,
    model: ImageClassifier,
    variables: ParamTree,
    inputs: InputPlan,
    plans: Iterable[PhasePlan],
    *,
    images: int,
    display: Display,
) -> tuple[Config, ImageClassifier, InputPlan]:
    """The options with `dtype` as it will be; classifier and input in that format.

    Args:
        config: As it was given.
        model: The classifier, computing in one format throughout.
        variables: Its own.
        inputs: How images become its input.
        plans: The phases.
        images: How many there are for training and validation.
        display: Told what `auto` came to, and why.

    Raises:
        UserError: As `applied`.
    """
    end, dtype = prefix_end(plans), config.model.dtype
    if dtype == "auto":
        dtype = chosen(
            model, variables, inputs, end, name=config.model.model, images=images, display=display
        )
        config = walk.replace(config, {"dtype": dtype})
    return config, *applied(model, inputs, dtype, end)


def chosen(
    model: ImageClassifier,
    variables: ParamTree,
    inputs: InputPlan,
    end: str | None,
    *,
    name: str,
    images: int,
    display: Display,
) -> str:
    """What `--dtype auto` means: `bfloat16_prefix` where this machine is faster so.

    Both are timed once on a batch of random images, and what was found is kept in the cache folder
    for this machine, network, input size and end of the prefix.

    Args:
        model: The classifier.
        variables: Its own.
        inputs: How images become its input.
        end: Where the frozen prefix ends; see `prefix_end`.
        name: Of the backbone, for messages.
        images: How many the prefix is computed for.
        display: Told what was chosen, and why.
    """
    if end is None:
        reason = "the first layers train, and what trains is computed in float32"
    elif processes.is_distributed():
        reason = "several processes train, and each would measure for itself"
    elif jax.default_backend() == "cpu" and not onednn.computes("bfloat16"):
        reason = "this processor has no instructions for bfloat16"
    else:
        what = ["prefix", repr(model.backbone), end, inputs.device.size, onednn.installed()]
        kept = measurements.place_of(what)
        found = measurements.read(kept, ("float32", "bfloat16"))
        if found is None and images < FEWEST:
            reason = f"{images:,} images are too few for measuring to pay"
        else:
            now = found is None
            if found is None:
                display.message(f"--dtype auto: measuring the frozen layers of {name} once")
                found = measured(model, variables, inputs, end)
                measurements.keep(kept, found)
            ratio = found["float32"] / found["bfloat16"]
            when = "measured now" if now else "measured before"
            if ratio >= FASTER:
                display.message(
                    f"--dtype auto: frozen layers compute in bfloat16, which is {ratio:.1f} times "
                    f"as fast as float32 on this machine ({when}); what trains stays in float32"
                )
                return PREFIX
            reason = (
                f"bfloat16 is {ratio:.2f} times as fast in the frozen layers on this machine "
                f"({when})"
            )
    display.message(f"--dtype auto: float32, because {reason}")
    return "float32"


def measured(
    model: ImageClassifier, variables: ParamTree, inputs: InputPlan, end: str
) -> dict[str, float]:
    """Seconds of a batch up to `end`, in both formats: the shortest of `_TIMES` after a first."""
    size = inputs.device.size
    # As features are computed, so that the programs are found again.
    shape = (PREFIX_BATCH, size, size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    on_device = jax.device_put(variables)
    seconds: dict[str, float] = {}
    for dtype, by in (("float32", "float32"), ("bfloat16", PREFIX)):
        network, plan = applied(model, inputs, by, end)
        call = functools.partial(
            forward, on_device, batch, model=network, stop=end, prepare=plan.device
        )
        seconds[dtype] = measurements.shortest(call, least=_TIMES)
    return seconds
