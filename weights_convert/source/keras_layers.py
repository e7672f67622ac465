"""What a Keras model does to an image by layers of its own, before its first convolution.

`Rescaling` and `Normalization` are part of the model that its author saved, and what follows them
was trained on their output. jtl normalizes by a mean and a standard deviation instead, so their
constants become these. They are in the model's configuration (`.keras`, and `.h5` of a whole
model); a file of weights alone shows at most that such layers were there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.models.entry import IMAGENET_STD
from weights_convert.printable import listed, shown
from weights_convert.source import keras_config
from weights_convert.source.metadata import pixels

# Layers that leave an image as it is, or change it in training alone.
_NEUTRAL = ("InputLayer", "Identity", "RandAugment", "AugMix", "MixUp", "CutMix")
_IN_TRAINING = re.compile(r"Random(?!Crop)\w+|\w*(Noise|Dropout\w*)")
# Layers that choose an image's size or part, as jtl's own preprocessing does.
_FRAMING = ("Resizing", "CenterCrop", "RandomCrop")
# Of ResNet and DenseNet before their 7x7 convolution; of mobile networks, as SAME pads even sides.
_OWN_PADDING = ([[3, 3], [3, 3]], [3, 3], 3, [[0, 1], [0, 1]])
_EPSILON = 1e-7  # Keras's, below which Normalization takes no standard deviation.

_REMEDY = (
    "State what they do with --mean, --std and --bgr of `jtl weights`, for images scaled to [0, 1]"
)


def declared(
    config: Mapping[str, Any] | None,
    layers: tuple[str, ...],
    tensors: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """The fields of `Preprocessing` that a Keras model's own layers decide.

    Args:
        config: The model's configuration; None if the file has none.
        layers: Without a configuration, what the file calls its layers of these kinds.
        tensors: The file's arrays by `layer/variable`.

    Returns:
        mean, std and channel_order; empty if there are no such layers.

    Raises:
        UserError: There are layers whose effect cannot be read.
    """
    if config is None:
        if layers:
            raise UserError(
                f"its model scales images by layers of its own ({listed(layers)}), whose constants "
                "a file of weights alone does not hold. Save the whole model "
                f"(model.save('model.keras')) and convert that. Or: {_REMEDY[0].lower()}"
                f"{_REMEDY[1:]}"
            )
        return {}
    scale, offset = np.ones(3), np.zeros(3)
    found = False
    for layer in _before_convolution(config):
        kind, options = str(layer.get("class_name")), layer.get("config", {})
        if frames_or_trains(kind):
            continue
        if kind == "ZeroPadding2D" and options.get("padding") in _OWN_PADDING:
            continue  # The first convolution's own.
        found = True
        if kind == "Rescaling":
            factor, shift = _triple(options.get("scale")), _triple(options.get("offset"))
        elif kind == "Normalization" and not options.get("invert"):
            factor, shift = _normalization(options, tensors)
        elif (operation := _operation(layer)) is not None:
            factor, shift = operation
        else:
            raise UserError(
                f"before its first convolution its model has a layer {shown(kind, 40)} "
                f"('{shown(options.get('name'), 40)}'), whose effect on an image is not read. "
                f"{_REMEDY}"
            )
        scale, offset = scale * factor, offset * factor + shift
    if not found:
        return {}
    if not np.isfinite([*scale, *offset]).all() or (scale <= 0).any():
        raise UserError(
            f"its model scales images by {scale.tolist()}, which is no scale. {_REMEDY}"
        )
    # On bytes: scale * byte + offset = (byte / 255 - mean) / std.
    return {
        "mean": tuple((0.0 - offset / (255 * scale)).tolist()),  # Never -0.
        "std": tuple((1 / (255 * scale)).tolist()),
        "channel_order": "rgb",
    }


def of_application(tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The mean and standard deviation that a file of weights of EfficientNet holds.

    Its layer Normalization follows a division by 255. The published files' variances are ImageNet's
    standard deviations, for which the published network has a layer more that no file shows.

    Returns:
        Empty for the published ones, and without such a layer.
    """
    found = {}
    for key, array in tensors.items():
        if match := re.fullmatch(r"(?:.*/)?normalization(?:_\d+)?/(mean|variance)", key):
            found[match[1]] = np.asarray(array, np.float64).ravel()
    if found.keys() != {"mean", "variance"} or {x.size for x in found.values()} != {3}:
        return {}
    if np.allclose(found["variance"], IMAGENET_STD, atol=1e-4):
        return {}
    deviation = np.maximum(np.sqrt(found["variance"]), _EPSILON)
    return {"mean": tuple(found["mean"].tolist()), "std": tuple(deviation.tolist())}


def frames_or_trains(kind: str) -> bool:
    """Whether layers of a kind leave pixels as they are when a network predicts."""
    return kind in _NEUTRAL or kind in _FRAMING or _IN_TRAINING.fullmatch(kind) is not None


def framing(config: Mapping[str, Any] | None) -> tuple[int | None, tuple[str, ...]]:
    """What a model's own layers do to the size of an image.

    jtl has no such layers: its preprocessing resizes and crops.

    Returns:
        The side of the square images that the network sees; None where no layer decides it. And
        sentences for the user.
    """
    size, notes = None, []
    for layer in _before_convolution(config or {}):
        kind, options = str(layer.get("class_name")), layer.get("config", {})
        shape = options.get("batch_shape") or options.get("batch_input_shape")
        if size is None and isinstance(shape, (list, tuple)) and len(shape) == 4:
            size = _side(shape[1], shape[2])
        if kind not in _FRAMING:
            continue
        height, width = options.get("height"), options.get("width")
        size = _side(height, width)
        notes.append(
            f"its layer {kind} ('{shown(options.get('name'), 40)}') makes images of "
            f"{shown(height, 10)} x {shown(width, 10)} pixels; jtl has no such layer, and resizes "
            f"and crops {f'to {size} pixels ' if size else ''}before the network"
        )
    return size, tuple(notes)


def _side(height: Any, width: Any) -> int | None:
    """The side of square images that a network takes; None where it is none of jtl's."""
    try:
        return pixels(height) if height == width else None
    except ValueError:
        return None


def _before_convolution(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The layers in order, of nested models too, up to the first convolution."""
    for layer in keras_config.layers_of(config):
        if layer.get("class_name") in keras_config.CONVOLUTIONS:
            return
        yield layer


_OPERATIONS: dict[str, Callable[[float], tuple[float, float]]] = {
    "truedivide": lambda number: (1 / number, 0.0),
    "divide": lambda number: (1 / number, 0.0),
    "multiply": lambda number: (number, 0.0),
    "subtract": lambda number: (1.0, -number),
    "add": lambda number: (1.0, number),
}
"""A factor and a shift, by Keras's operation."""


def _operation(layer: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and shift of an operation with one number, as `preprocess_input` makes them.

    Keras 3 keeps the number in `args` behind the image, Keras 2 (`math.truediv`) as `y`.
    """
    nodes, options = layer.get("inbound_nodes"), layer.get("config", {})
    name = str(layer.get("class_name"))
    if name in ("TFOpLambda", "TensorFlowOpLayer"):
        name = str(options.get("function")).rpartition(".")[2].replace("truediv", "truedivide")
    act = _OPERATIONS.get(name.lower())
    try:
        [node] = nodes  # pyright: ignore[reportGeneralTypeIssues]
        if isinstance(node, Mapping):
            image, number = node["args"]
        else:
            [(image, *_, others)] = node if isinstance(node[0], list) else [node]
            number = others["y"]
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    of_image = isinstance(image, (str, Mapping))
    if act is None or not of_image or type(number) not in (int, float) or not number:
        return None
    factor, shift = act(number)
    return np.full(3, factor), np.full(3, shift)


def _normalization(
    options: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and shift; its constants are in the configuration or, if it was adapted, variables."""
    name = str(options.get("name"))
    axis = options.get("axis", -1)
    mean, variance = (
        options[key] if options.get(key) is not None else tensors.get(f"{name}/{key}")
        for key in ("mean", "variance")
    )
    if axis not in (-1, [-1], 3, [3], [], None) or mean is None or variance is None:
        raise UserError(
            f"its layer '{shown(name, 40)}' normalizes along axis {axis} without numbers that can "
            f"be read. {_REMEDY}"
        )
    deviation = np.maximum(np.sqrt(_triple(variance)), _EPSILON)
    return 1 / deviation, -_triple(mean) / deviation


def _triple(values: Any) -> np.ndarray:
    """One number or three, for red, green and blue."""
    try:
        numbers = np.asarray(values, np.float64).ravel()
        return np.broadcast_to(numbers, 3) if numbers.size in (1, 3) else np.full(3, math.nan)
    except (TypeError, ValueError):
        return np.full(3, math.nan)
