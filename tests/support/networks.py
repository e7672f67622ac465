"""Networks that between them hold every layer, with weights that make each of them matter."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from jtl import models
from jtl.common.trees import leaf_paths, lookup
from jtl.models.chain import ImageClassifier
from jtl.models.families.densenet import DenseNet
from jtl.models.families.efficientnet import EfficientNetLite
from jtl.models.families.mobilenet_v3 import MobileNetV3
from weights_convert.convert.rules import unflatten

MODELS = {
    "resnet18": models.create("resnet18", num_classes=5),
    "densenet": ImageClassifier(DenseNet((2, 2), growth=8), num_classes=5),
    "efficientnet_lite": ImageClassifier(EfficientNetLite(0.5, 0.3), num_classes=5),
    "mobilenet_v3": ImageClassifier(MobileNetV3("small", (1, 0, 1, 0, 0)), num_classes=5),
}


@functools.cache
def random_variables(model: ImageClassifier, size: int = 96, *, gain: float = 1.0) -> Any:
    """Variables that let no unit be mistaken for another; the head's kernel is not zero.

    Where a network is so deep that images would end alike, a gain of the kernels keeps them apart.

    Drawn by NumPy: to compile a network's own initialization takes ten times as long.
    """
    rng = np.random.default_rng(0)
    shapes = models.variable_shapes(model, size)
    leaves = {}
    for path in leaf_paths(shapes):
        shape = lookup(shapes, path).shape
        if path[-1] == "kernel":
            fan_in = np.prod(shape[:-1])
            leaves[path] = (gain * rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)
        elif path[-1] in ("scale", "var", "gamma"):
            leaves[path] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            leaves[path] = rng.normal(0, 0.1, shape).astype(np.float32)
    return {"batch_stats": {}, **unflatten(leaves)}
