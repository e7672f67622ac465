"""First convolutions for images of one or four channels, made ones for RGB."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jtl.common.trees import lookup
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.rules import Table


def for_colour(
    table: Table, backbone: Any, shapes: Mapping[str, Any], tensors: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The tensors with a first convolution for RGB, and what was done to it."""
    for path, key in table.source_keys(backbone, shapes).items():
        if path[-1] == "kernel" and key in tensors:
            wanted = table.source_shape(path, tuple(lookup(shapes, path).shape))
            if tensors[key].shape != wanted and (
                found := _to_colour(table, key, tensors[key], wanted)
            ):
                return {**tensors, key: found[0]}, (found[1],)
    return tensors, ()


def _to_colour(
    table: Table, key: str, array: np.ndarray, wanted: tuple[int, ...]
) -> tuple[np.ndarray, str] | None:
    """A first convolution for images of one or four channels, made one for RGB.

    The source's channels that an RGB image does not have see the mean of red, green and blue: so
    a kernel of one channel is repeated over the three, and a fourth channel's is added to them, a
    third each.

    Args:
        table: The source's names and layouts.
        key: Of the kernel.
        array: The kernel in the source's layout.
        wanted: The shape that the model has, in that layout.

    Returns:
        The kernel of `wanted`'s shape and a sentence that says what was done; None if the kernel
        is none of these.
    """
    axis = {TORCH.conv_axes: 1, KERAS.conv_axes: 2}.get(table.leaves.conv_axes)
    if axis is None or array.ndim != 4 or len(wanted) != 4 or wanted[axis] != 3:
        return None
    channels = array.shape[axis]
    rest = tuple(n for i, n in enumerate(array.shape) if i != axis)
    if channels not in (1, 4) or rest != tuple(n for i, n in enumerate(wanted) if i != axis):
        return None
    array = array.astype(np.promote_types(array.dtype, np.float32))
    extra = np.take(array, [-1], axis)
    colours = 0 if channels == 1 else np.take(array, [0, 1, 2], axis)
    done = (
        f"'{key}' takes images of one channel: its kernel is repeated over red, green and blue, a "
        "third each, which sees the mean of the three"
        if channels == 1
        else f"'{key}' takes images of four channels: the fourth channel's kernel is summed into "
        "red, green and blue, a third each, as if that channel were their mean"
    )
    return colours + np.repeat(
        extra, 3, axis
    ) / 3, f"{done}; state --mean and --std of its training"
