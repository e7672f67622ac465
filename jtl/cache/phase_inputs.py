"""The inputs of a phase: a frozen prefix's features, or images; and how they are evaluated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jtl.cache.extraction import evaluate
from jtl.cache.placement import Place
from jtl.common.trees import ParamTree
from jtl.data.input_plan import InputPlan
from jtl.data.loader import Examples
from jtl.distributed.sharding import SINGLE, DataSharding
from jtl.models import ImageClassifier

FEATURE_EVAL_BATCH = 1024
"""Examples per dispatch when only a head is left to run."""
IMAGE_EVAL_BATCH = 32


@dataclasses.dataclass(frozen=True)
class Cast:
    """Brings features back to the dtype of the computation; compared by value."""

    dtype: str

    def __call__(self, x: jax.Array) -> jax.Array:
        """Features of any dtype -> features of `dtype`."""
        return x.astype(self.dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class PhaseInputs:
    """What the steps of a phase take, and where in the network they start.

    Attributes:
        model: The classifier.
        start: Path of the first unit that every step runs; None for the first of all.
        prepare: From batches to the first unit's input; None where they are that.
        eval_batch: Examples per evaluation dispatch and device.
        place: Where features are read from; None without features.
        sharding: The devices that work with them.
        examples: What there is of each split, by `train`, `val` and `test`: features or images.
    """

    model: ImageClassifier
    start: str | None
    prepare: Callable[[jax.Array], jax.Array] | None
    eval_batch: int
    place: Place | None = None
    sharding: DataSharding = SINGLE
    examples: Mapping[str, Examples] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_images(
        cls, model: ImageClassifier, inputs: InputPlan, sharding: DataSharding = SINGLE
    ) -> PhaseInputs:
        """Every step runs the whole network, from images."""
        return cls(model, None, inputs.device, IMAGE_EVAL_BATCH, sharding=sharding)

    @classmethod
    def of_features(
        cls,
        model: ImageClassifier,
        inputs: InputPlan,
        start: str,
        place: Place,
        stored: str | None = None,
        sharding: DataSharding = SINGLE,
    ) -> PhaseInputs:
        """Every step runs the network from the unit `start` on.

        Args:
            model: The classifier.
            inputs: How images became the network's input.
            start: Path of the unit after the frozen prefix.
            place: Where the prefix's outputs are.
            stored: What they are rounded to, if at all.
            sharding: The devices that work with them.
        """
        dtype = inputs.device.dtype
        cast = None if stored in (None, dtype) else Cast(dtype)
        batch = FEATURE_EVAL_BATCH if start == "head" else IMAGE_EVAL_BATCH
        return cls(model, start, cast, batch, place, sharding)

    @property
    def cached(self) -> bool:
        """Whether the frozen prefix runs once per image."""
        return self.start is not None

    def evaluate(self, split: str, variables: ParamTree) -> tuple[dict[str, float], np.ndarray]:
        """Scores the classifier on a split.

        Args:
            split: Which of `examples`.
            variables: {"params", "batch_stats"} of at least the units from `start` on; on all
                devices of `sharding`, or NumPy arrays.

        Returns:
            ({"loss", "accuracy"}, logits float32 [N, num_classes]).
        """
        return evaluate(
            self.examples[split],
            variables,
            model=self.model,
            start=self.start,
            prepare=self.prepare,
            batch_size=self.eval_batch,
            sharding=self.sharding,
        )
