"""What each library calls the arrays of a layer, and how it lays them out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class LeafRules:
    """How a library names and lays out the leaves of a module.

    Attributes:
        names: (target collection, target leaf name) -> source leaf name; those missing here have
            the target's name.
        norm_names: The same for the leaves of normalizations, where they have names of their
            own; those missing here are in `names`.
        separator: Between a module's name and a leaf's.
        conv_axes: Axes of a source convolution kernel in the order that gives HWIO.
        dense_axes: Axes of a source dense kernel in the order that gives (in, out).
    """

    names: Mapping[tuple[str, str], str]
    separator: str
    conv_axes: tuple[int, int, int, int]
    dense_axes: tuple[int, int]
    norm_names: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    def leaf_name(self, collection: str, leaf: str, *, norm: bool) -> str:
        """The source's name of a leaf; `norm` if it belongs to a normalization."""
        if norm and (collection, leaf) in self.norm_names:
            return self.norm_names[collection, leaf]
        return self.names.get((collection, leaf), leaf)

    def to_target(self, array: np.ndarray) -> np.ndarray:
        """The source array in the target's layout; a view."""
        axes = {4: self.conv_axes, 2: self.dense_axes}.get(array.ndim)
        return array if axes is None else array.transpose(axes)

    def to_source(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `to_target`; a view."""
        axes = {4: self.conv_axes, 2: self.dense_axes}.get(array.ndim)
        return array if axes is None else array.transpose(np.argsort(axes))

    def source_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The source's shape of a leaf that has `shape` in the target."""
        return self.to_source(np.broadcast_to(np.float32(0), shape)).shape


TORCH = LeafRules(
    names={
        ("params", "kernel"): "weight",
        ("params", "bias"): "bias",
        ("params", "scale"): "weight",
        ("params", "factor"): "scale",
        ("batch_stats", "mean"): "running_mean",
        ("batch_stats", "var"): "running_var",
    },
    separator=".",
    conv_axes=(2, 3, 1, 0),
    dense_axes=(1, 0),
)

# Keras lays kernels out as Flax does.
KERAS = LeafRules(
    names={
        ("params", "kernel"): "kernel",
        ("params", "bias"): "bias",
        ("params", "scale"): "gamma",
        ("batch_stats", "mean"): "moving_mean",
        ("batch_stats", "var"): "moving_variance",
    },
    separator="/",
    conv_axes=(0, 1, 2, 3),
    dense_axes=(0, 1),
    norm_names={("params", "bias"): "beta"},
)
