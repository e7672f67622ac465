"""The pooled features of some images, by a network that need not be frozen."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np

from jtl.cache.extraction import PREFIX_BATCH, extract
from jtl.cache.placement import place_images
from jtl.common.trees import ParamTree
from jtl.data.input_plan import InputPlan
from jtl.data.loader import Features
from jtl.data.split_rows import SplitRows
from jtl.data.splits import Split
from jtl.models import ImageClassifier
from jtl.models.inference import feature_end, forward, pool_features


def pooled_features(
    split: Split,
    rows: np.ndarray,
    *,
    model: ImageClassifier,
    variables: ParamTree,
    inputs: InputPlan,
) -> np.ndarray:
    """The last feature map of images, averaged over its pixels: float32 [n, C].

    Args:
        split: The images.
        rows: Which, integers [n].
        model: The classifier.
        variables: {"params", "batch_stats"}.
        inputs: How images become its input.
    """
    if not len(rows):
        return np.zeros((0, 0), np.float32)
    images = place_images(SplitRows(split, rows), inputs, once=True)
    found = extract(images, variables, model=model, stop=feature_end(model), prepare=inputs.device)
    return np.concatenate([np.asarray(pool_features(maps)) for maps in found])


def pooled_from(
    examples: Features,
    rows: np.ndarray,
    *,
    model: ImageClassifier,
    variables: ParamTree,
    start: str,
    prepare: Callable[[jax.Array], jax.Array] | None,
) -> np.ndarray:
    """The same, from the features of a frozen prefix: float32 [n, C].

    Args:
        examples: What the prefix gave.
        rows: Which, integers [n].
        model: The classifier.
        variables: {"params", "batch_stats"} of at least the units from `start` on.
        start: Path of the unit after the prefix, before `feature_end`.
        prepare: From batches of features to that unit's input.
    """
    found = []
    for first in range(0, len(rows), PREFIX_BATCH):
        part = rows[first : first + PREFIX_BATCH]
        # The last batch repeats images, so that there is one program.
        batch = jax.device_get(examples.batch(np.resize(part, min(PREFIX_BATCH, len(rows)))))
        maps = forward(
            variables, batch, model=model, start=start, stop=feature_end(model), prepare=prepare
        )
        found.append(np.asarray(pool_features(maps))[: len(part)])
    return np.concatenate(found) if found else np.zeros((0, 0), np.float32)
