"""How the epochs of a phase run: from pictures, or from the frozen prefix's features."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import psutil

from jtl.data.pipeline import Examples, InputPlan, Pictures
from jtl.data.preprocess import Prepare
from jtl.data.sources import Split as DataSplit
from jtl.features import extract
from jtl.freeze import Split
from jtl.freeze.split import Tree
from jtl.models import ImageClassifier
from jtl.progress import Display

MEMORY_SHARE = 0.4
"""Of the free memory: what decoded pictures or cached features may take."""
FEATURE_EVAL_BATCH = 1024
"""Examples per dispatch when only a head is left to run."""
PICTURE_EVAL_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Arm:
    """How epochs run.

    Attributes:
        start: Path of the first unit that every step runs; None for the first of all.
        prepare: From uint8 batches to the network's input; None for features.
        eval_batch: Examples per evaluation dispatch.
    """

    start: str | None
    prepare: Prepare | None
    eval_batch: int

    @property
    def cached(self) -> bool:
        """Whether the frozen prefix runs once per picture."""
        return self.start is not None


def arm_of(start: str | None, inputs: InputPlan) -> Arm:
    """The arm that starts from features at the unit `start`, or from pictures if None."""
    if start is None:
        return Arm(None, inputs.device, PICTURE_EVAL_BATCH)
    return Arm(start, None, FEATURE_EVAL_BATCH if start == "head" else PICTURE_EVAL_BATCH)


def choose_arm(
    split: Split, model: ImageClassifier, variables: Tree, inputs: InputPlan, count: int
) -> Arm:
    """Features at the cut if there is a frozen prefix whose outputs fit in memory.

    Args:
        split: The cut.
        model: The classifier.
        variables: Its variables or their shapes.
        inputs: How pictures become its input.
        count: Of the pictures whose features are kept.
    """
    if not split.prefix:
        return arm_of(None, inputs)
    needed = count * feature_bytes(split.cut, model, variables, inputs)
    fits = needed < MEMORY_SHARE * psutil.virtual_memory().available
    return arm_of(split.cut if fits else None, inputs)


def feature_bytes(cut: str, model: ImageClassifier, variables: Tree, inputs: InputPlan) -> int:
    """Memory of one picture's output before the unit `cut`."""
    size = inputs.device.size
    features = jax.eval_shape(
        lambda v, x: model.apply(v, x, stop=cut),
        variables,
        jax.ShapeDtypeStruct((1, size, size, 3), inputs.device.dtype),
    )
    return int(np.prod(features.shape)) * features.dtype.itemsize


def examples_of(
    split: DataSplit,
    arm: Arm,
    model: ImageClassifier,
    inputs: InputPlan,
    variables: Tree,
    display: Display,
    name: str,
) -> Examples:
    """A split as an arm works on it: features, computed now, or pictures.

    Args:
        split: The pictures.
        arm: How epochs run.
        model: The classifier.
        inputs: How pictures become its input.
        variables: Its {"params", "batch_stats"}, on the device.
        display: Where progress goes.
        name: Of the split, for the display.
    """
    native = split.native_size()
    needed = len(split) * inputs.bytes_per_picture(native)
    fits = needed < MEMORY_SHARE * psutil.virtual_memory().available
    # What is looked at once only is better decoded beside the computation.
    pictures = Pictures(split, inputs.host_for(native), hold=fits and not arm.cached)
    if arm.start is None:
        return pictures
    with display.track(f"features of {name}", len(split), "images") as advance:
        return extract(
            pictures,
            variables,
            model=model,
            stop=arm.start,
            prepare=inputs.device,
            progress=advance,
        )
