"""Caffe's `.caffemodel` files: the blobs of every layer, without Caffe.

A file is a `NetParameter` by Caffe's schema, `caffe.proto`: layers with names, kinds, options and
blobs. Before 2015 they were `V1LayerParameter`s, whose fields have other numbers.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import listed, shown
from weights_convert.read.protobuf import Message, fields

_LAYER, _V1_LAYER = 100, 2
_TOP_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 100))
_KINDS = {
    **{1: "Accuracy", 3: "Concat", 4: "Convolution", 5: "Data", 6: "Dropout", 8: "Flatten"},
    **{12: "ImageData", 14: "InnerProduct", 15: "LRN", 17: "Pooling", 18: "ReLU", 20: "Softmax"},
    **{21: "SoftmaxWithLoss", 22: "Split", 25: "Eltwise", 29: "MemoryData"},
}
"""Of the older layers, by their number."""
_WEIGHTS = ("Convolution", "InnerProduct")
_PLAIN = ("Accuracy", "Concat", "Data", "Dropout", "Flatten", "HDF5Data", "ImageData", "Input")
_PLAIN += ("MemoryData", "Pooling", "ReLU", "Softmax", "SoftmaxWithLoss", "Split")
_MEANS = ((104.0, 117.0, 123.0), (103.939, 116.779, 123.68))
"""Of blue, green and red over ImageNet, as Caffe's networks have them."""
_MAX_DIMENSIONS, _MOST_TOP_FIELDS = 8, 10_000
_AGAIN = "Download the file again"


class Content(NamedTuple):
    """Arrays by `layer.weight` and `layer.bias` in PyTorch's layouts, which are Caffe's.

    Attributes:
        tensors: By name.
        left_out: Layers that jtl's network does not have like this.
        notes: Sentences about them, and about the images.
    """

    tensors: dict[str, np.ndarray]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class _Layer(NamedTuple):
    name: str
    kind: str
    blobs: list[Message]
    convolution: Message
    transform: Message


def is_model(data: memoryview) -> bool:
    """Whether a file is a message with layers, each of which has a name."""
    layers: list[tuple[int, memoryview]] = []
    try:
        for count, (number, value) in enumerate(fields(data)):
            if number not in _TOP_FIELDS or count > _MOST_TOP_FIELDS:
                return False
            if number in (_LAYER, _V1_LAYER) and not isinstance(value, int):
                layers.append((number, value))
        return bool(layers) and all(_layer(n, Message(v)).name for n, v in layers[:1])
    except ValueError:
        return False


def read(data: memoryview) -> Content:
    """Reads the blobs of a network's layers.

    Args:
        data: The whole file.

    Raises:
        UserError: The file is damaged, or has layers that no network of jtl has.
    """
    try:
        net = Message(data)
        layers = [_layer(n, each) for n in (_V1_LAYER, _LAYER) for each in net.messages(n)]
        return _read(layers)
    except UserError:
        raise
    except (ValueError, IndexError, OverflowError, MemoryError) as error:
        raise UserError(
            f"it is a Caffe model that is damaged ({error!s:.200}). {_AGAIN}"
        ) from error


def _layer(number: int, message: Message) -> _Layer:
    if number == _LAYER:
        name, kind, blobs, convolution, transform = 1, message.text(2), 7, 106, 100
    else:
        kind = _KINDS.get(message.number(5), f"number {message.number(5)}")
        name, blobs, convolution, transform = 4, 6, 10, 36
    return _Layer(
        message.text(name),
        kind,
        message.messages(blobs),
        message.message(convolution),
        message.message(transform),
    )


def _read(layers: list[_Layer]) -> Content:
    unknown = dict.fromkeys(layer.kind for layer in layers if layer.kind not in _WEIGHTS + _PLAIN)
    if "LRN" in unknown:
        raise UserError(
            "it is a Caffe model with local response normalization (LRN), as AlexNet, CaffeNet and "
            "GoogLeNet have it, which jtl does not have: its alexnet is torchvision's, with other "
            "widths, no groups and no LRN. Take torchvision:alexnet"
        )
    if unknown:
        raise UserError(
            f"it is a Caffe model with layers that are not read ({listed(unknown, 4)}). Allowed "
            f"are {', '.join(_WEIGHTS + _PLAIN)}, as VGG and SqueezeNet have them"
        )
    tensors: dict[str, np.ndarray] = {}
    left_out, notes = [], []
    for layer in layers:
        if layer.kind not in _WEIGHTS or not layer.blobs:
            continue
        name = shown(layer.name, 60)
        if set(layer.convolution.numbers(18)) - {1}:
            raise UserError(f"it is a Caffe model whose layer '{name}' is dilated; jtl's are not")
        arrays = [_blob(blob) for blob in layer.blobs]
        kernel = arrays[0]
        if layer.kind == "InnerProduct":
            arrays[0] = kernel.reshape(kernel.shape[-2:])
        elif kernel.shape[2:] == (1, 1) and any(map(layer.convolution.number, (3, 9, 10))):
            left_out.append(layer.name)
            notes.append(
                f"'{name}' pads its 1x1 kernel, as in SqueezeNet 1.0, which jtl's does not: it is "
                "left out, and training makes a new head"
            )
            continue
        for leaf, array in zip(("weight", "bias"), arrays, strict=False):
            key = f"{layer.name}.{leaf}"
            if key in tensors:
                raise UserError(f"it is a Caffe model with two layers called '{name}'")
            tensors[key] = array if leaf == "weight" else array.reshape(-1)
    if not tensors:
        raise UserError("it is a Caffe model without weights, perhaps of a solver's state")
    return Content(tensors, tuple(left_out), (*notes, *_transforms(layers)))


def _transforms(layers: list[_Layer]) -> list[str]:
    """What to know of how the data's layers prepare images, unless it is the usual."""
    for layer in layers:
        means = tuple(map(float, layer.transform.array(5, "<f4")))
        scales = tuple(map(float, layer.transform.array(1, "<f4")))
        usual = not means or any(np.allclose(means, known, atol=0.01) for known in _MEANS)
        if usual and scales in ((), (1.0,)):
            continue
        scale = scales[-1] if scales else 1.0
        blue, green, red = means if len(means) == 3 else (means[:1] or (0.0,)) * 3
        mean = ",".join(f"{x / 255:.6g}" for x in (red, green, blue))
        deviation = ",".join([f"{1 / scale / 255:.6g}" if scale else "?"] * 3)
        return [
            f"its layer '{shown(layer.name, 60)}' prepares images in its own way: give --mean "
            f"{mean} --std {deviation}"
        ]
    return []


def _blob(blob: Message) -> np.ndarray:
    """A blob as a read-only array; of older files it has four axes."""
    if blob.has(7):
        shape = tuple(blob.message(7).numbers(1))
    else:
        shape = tuple(blob.number(field) for field in (1, 2, 3, 4))
    values = blob.array(5, "<f4") if blob.has(5) else blob.array(8, "<f8")
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0 or math.prod(shape) != values.size:
        raise ValueError(f"a blob of shape {shape} has {values.size} numbers")
    if not values.flags.aligned:
        values = values.copy()
    values.flags.writeable = False
    return values.reshape(shape)
