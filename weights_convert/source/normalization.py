"""Mean and standard deviation that a PyTorch network keeps beside its layers, as buffers.

A module that normalizes images, such as mmpretrain's `data_preprocessor`, saves its constants with
the weights. They say what the network expects of an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import listed, shown
from weights_convert.source import metadata

# The last name of a mean; the deviation has `std` in its place.
MEAN = re.compile(r"(?i)(.*\.)?_?((pixel|image|img|input|rgb|norm|new|imagenet|channel)_)?mean")
# Modules that prepare images; others may have the mean of something else, such as of targets.
_MODULE = re.compile(
    r"(?i)(\w*(img|image|input|data|pixel|pre)_?)?(norm\w*|(trans|pre_?proc)\w*|\d+)"
)
_WRAPPERS = {"module", "model", "net", "network", "attacker", "backbone", "_orig_mod"}
_SHAPES = {(3,), (3, 1, 1), (1, 3, 1, 1)}
# ImageNet's, with blue first, as Caffe's weights and detectors have them.
_BLUE_FIRST = (0.406, 0.456, 0.485)


def pairs(tensors: Mapping[str, np.ndarray]) -> tuple[tuple[str, str], ...]:
    """The keys of each mean and its standard deviation of red, green and blue."""
    found = []
    for key, mean in tensors.items():
        other = key[:-4] + "std"
        if not MEAN.fullmatch(key) or other not in tensors:
            continue
        modules = [part for part in key.split(".")[:-1] if part not in _WRAPPERS]
        sound = {mean.shape, tensors[other].shape} <= _SHAPES
        if sound and len(modules) <= 1 and all(map(_MODULE.fullmatch, modules)):
            found.append((key, other))
    return tuple(found)


def declared(
    tensors: Mapping[str, np.ndarray], keys: tuple[tuple[str, str], ...], order: str | None
) -> tuple[dict[str, Any], str]:
    """The fields of `Preprocessing` that buffers state, and a note about them.

    Args:
        tensors: All tensors of the source.
        keys: As `pairs` gives them; at least one.
        order: The order of the channels if somebody states it, rgb or bgr.

    Raises:
        UserError: They contradict each other, or cannot be what they are called.
    """
    names = listed([shown(key, 60) for pair in keys for key in pair], 4)
    values = {tuple(_numbers(tensors[key]) for key in pair) for pair in keys}
    try:
        if len(values) > 1:
            raise ValueError("they contradict each other")
        mean, std = next(iter(values))
        return fields_and_note(mean, std, names, order)
    except ValueError as error:
        raise UserError(
            f"{names} look like the network's own normalization of images, but {error}. Give "
            "what it expects with `--mean R,G,B --std R,G,B` of weights_convert."
        ) from None


def is_blue_first(mean: tuple[float, ...]) -> bool:
    """Whether a mean of values up to 1, or up to 255, is ImageNet's with blue first."""
    scale = 255 if max(mean) > 1 else 1
    return max(abs(a / scale - b) for a, b in zip(mean, _BLUE_FIRST, strict=True)) < 0.005


def fields_and_note(
    mean: tuple[float, ...], std: tuple[float, ...], names: str, order: str | None
) -> tuple[dict[str, Any], str]:
    """The fields of `Preprocessing` that constants state, and a note about them.

    Args:
        mean: Of three channels, for values up to 1 or up to 255.
        std: Likewise.
        names: What they are called.
        order: The order of the channels if somebody states it, rgb or bgr.

    Raises:
        ValueError: They cannot be what they are called; it says why.
    """
    scale = 255 if max(*mean, *std) > 1 else 1
    if (set(mean), set(std)) == ({0.0}, {1.0}):
        raise ValueError("they change nothing, so images may be normalized elsewhere")
    if min(mean) < 0:
        raise ValueError("a mean is negative")
    if scale > 1 and any(mean) and min(mean) <= 1:
        raise ValueError("it is not clear whether they are for values up to 1 or up to 255")
    order = order or ("bgr" if is_blue_first(mean) else None)
    mean, std = (tuple(round(x / scale, 7) for x in part) for part in (mean, std))
    metadata.means(mean)
    metadata.deviations(std)
    fields: dict[str, Any] = {"mean": mean, "std": std}
    if order == "bgr":
        fields = {"mean": mean[::-1], "std": std[::-1], "channel_order": "bgr"}
    first = "blue, green, red" if order == "bgr" else "red, green, blue (--bgr if not)"
    note = f"mean and std come from {names}, read in the order {first}"
    return fields, note + (", and divided by 255" if scale > 1 else "")


def _numbers(array: np.ndarray) -> tuple[float, ...]:
    """The numbers as written: 0.485, where float32 has 0.48500001."""
    return tuple(float(str(x)) for x in np.asarray(array, np.float32).ravel())
