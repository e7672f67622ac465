"""Backbones and heads in Flax Linen."""

from jtl.models.chain import ImageClassifier, Unit, locate
from jtl.models.heads import HeadSpec
from jtl.models.layers import NormSpec
from jtl.models.registry import ModelEntry, Preprocessing, create, get, names, variable_shapes

__all__ = [
    "HeadSpec",
    "ImageClassifier",
    "ModelEntry",
    "NormSpec",
    "Preprocessing",
    "Unit",
    "create",
    "get",
    "locate",
    "names",
    "variable_shapes",
]
