"""The pooled features of some images, by a network that need not be frozen."""

from __future__ import annotations

import numpy as np

from jtl.cache.extraction import extract
from jtl.cache.placement import place_images
from jtl.common.trees import ParamTree
from jtl.data.input_plan import InputPlan
from jtl.data.split_rows import SplitRows
from jtl.data.splits import Split
from jtl.models import ImageClassifier
from jtl.models.inference import feature_end, pool_features


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
