"""Backbones and heads in Flax Linen."""

from jtl.models.chain import ImageClassifier, Unit, locate
from jtl.models.heads import HeadSpec
from jtl.models.layers.blocks import NormSpec
from jtl.models.registry import (
    ModelEntry,
    Preprocessing,
    create,
    feature_shape,
    get,
    names,
    output_shape,
    variable_shapes,
)

__all__ = [
    "HeadSpec",
    "ImageClassifier",
    "ModelEntry",
    "NormSpec",
    "Preprocessing",
    "Unit",
    "create",
    "feature_shape",
    "get",
    "locate",
    "names",
    "output_shape",
    "variable_shapes",
]
