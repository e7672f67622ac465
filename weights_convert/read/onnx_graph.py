"""ONNX files: nodes and constant tensors of a graph, without the `onnx` package.

Numbers of fields and types are those of the format's schema, `onnx.proto`.
"""

from __future__ import annotations

import math
import os
import re
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import listed, shown
from weights_convert.read import mapped
from weights_convert.read.protobuf import Message, fields

_TYPES: dict[int, type] = {
    **{1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32},
    **{7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64},
    16: ml_dtypes.bfloat16,
}
"""By the number in the schema."""
_INT32_DATA = {2, 3, 4, 5, 6, 9, 10, 16}
_MOST_TOP_FIELDS, _MAX_DIMENSIONS = 1000, 8
_NAME_SCOPES = "pkg.torch.onnx.name_scopes"
_AGAIN = "Download the file again"


class Node(NamedTuple):
    """An operation.

    Attributes:
        op: Its kind, such as Conv.
        inputs: Names of values; empty for one that is left out.
        outputs: Likewise.
        module: The PyTorch module that the exporter says it was called in, such as
            `layer1.0.conv1`; None if it says nothing. Empty for the network itself.
        attributes: By name.
    """

    op: str
    inputs: list[str]
    outputs: list[str]
    module: str | None
    attributes: dict[str, Message]

    def number(self, name: str, default: int) -> int:
        """An attribute that is an integer."""
        return self.attributes[name].number(3) if name in self.attributes else default

    def numbers(self, name: str) -> list[int]:
        """An attribute that is a list of integers."""
        return self.attributes[name].numbers(8) if name in self.attributes else []


class Graph(NamedTuple):
    """A network.

    Attributes:
        nodes: In order.
        constants: Arrays by the name of their value.
        height: Of its images, of four axes; 0 where it is not fixed.
    """

    nodes: list[Node]
    constants: dict[str, np.ndarray]
    height: int


def is_model(data: memoryview) -> bool:
    """Whether a file is a message with what every ONNX model has: versions and a graph."""
    found: dict[int, bool] = {}
    try:
        for count, (number, value) in enumerate(fields(data)):
            if count > _MOST_TOP_FIELDS:
                return False
            found[number] = isinstance(value, int)
    except ValueError:
        return False
    return found.get(1) is True and found.get(7) is False and found.get(8) is False


def read(data: memoryview, folder: str) -> Graph:
    """Reads a model's graph.

    Args:
        data: The whole file.
        folder: Where it is, for tensors in files beside it.

    Raises:
        ValueError: It is damaged.
        UserError: Tensors are of a kind that is not read, or in files elsewhere.
        OSError: A file beside it cannot be read.
    """
    graph = _graph(data)
    reader = _Tensors(folder)
    constants = {tensor.text(8): reader.array(tensor) for tensor in graph.messages(5)}
    nodes = []
    for message in graph.messages(1):
        node = _node(message)
        if node.op == "Constant" and "value" in node.attributes and node.outputs:
            constants[node.outputs[0]] = reader.array(node.attributes["value"].message(5))
        elif node.op == "Identity" and node.inputs and node.inputs[0] in constants:
            constants[node.outputs[0]] = constants[node.inputs[0]]
        else:
            nodes.append(node)
    inputs = [value for value in graph.messages(11) if value.text(1) not in constants]
    sides = inputs[0].message(2).message(1).message(2).messages(1) if inputs else []
    return Graph(nodes, constants, sides[2].number(1) if len(sides) == 4 else 0)


def files_beside(path: str) -> list[str]:
    """The files with a model's tensors beside it, as absolute paths, in the order of their names.

    Raises:
        UserError: It is damaged, or they are not in its folder.
        OSError: The file cannot be read.
    """
    data = mapped.whole_file(path)
    if not is_model(data):
        return []
    folder = os.path.dirname(os.path.abspath(path))
    try:
        places = [_place(tensor) for tensor in _graph(data).messages(5)]
    except ValueError as error:
        raise damaged(error) from error
    return sorted({_in_folder(folder, place["location"]) for place in places if place})


def damaged(error: Exception) -> UserError:
    """The refusal of a damaged file."""
    return UserError(f"it is an ONNX model that is damaged ({error!s:.200}). {_AGAIN}")


def _graph(data: memoryview) -> Message:
    return Message(data).message(7)


def _node(message: Message) -> Node:
    attributes = {each.text(1): each for each in message.messages(5)}
    properties = {each.text(1): each.text(2) for each in message.messages(9)}
    name = message.text(3)
    module = None
    if scopes := re.findall(r"'([^']*)'", properties.get(_NAME_SCOPES, "")):
        # The last is the operation's own name.
        module = scopes[-2] if len(scopes) > 1 else ""
    elif name.startswith("/"):
        module = _joined(name.split("/")[1:-1])
    return Node(message.text(4), message.texts(1), message.texts(2), module, attributes)


def _joined(parts: list[str]) -> str:
    """A module's path of its scopes, as `torch.jit.trace` names them.

    A child of a `Sequential` has its parent's name in its own: `features/features.0`.
    """
    path, last = "", ""
    for part in parts:
        if last and part.startswith(f"{last}."):
            path = path[: len(path) - len(last)] + part
        else:
            path = f"{path}.{part}" if path else part
        last = part
    return path


def _place(tensor: Message) -> dict[str, str]:
    """Where a tensor's bytes are in another file; empty for those in this one."""
    if tensor.number(14) != 1:
        return {}
    found = {each.text(1): each.text(2) for each in tensor.messages(13)}
    return {"location": "", **found}


def _in_folder(folder: str, name: str) -> str:
    if not name or os.path.basename(name) != name or name in (".", ".."):
        raise UserError(
            f"its tensors are in a file outside of its folder ({listed([name])}). Nothing was "
            "opened. Put that file next to it, and save the model again with onnx.save"
        )
    return os.path.join(folder, name)


class _Tensors:
    """Reads tensors of a file, and of files beside it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._files: dict[str, memoryview] = {}

    def array(self, tensor: Message) -> np.ndarray:
        """A tensor as a read-only array; it views the file where it can."""
        name, kind, shape = tensor.text(8), tensor.number(2), tuple(tensor.numbers(1))
        if kind not in _TYPES:
            raise UserError(
                f"it is an ONNX model whose tensor '{shown(name, 60)}' has numbers of type {kind} "
                "of its schema, as of quantized models. Take the model from before quantization"
            )
        dtype = np.dtype(_TYPES[kind]).newbyteorder("<")
        count = math.prod(shape)
        if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0:
            raise ValueError(f"a tensor of shape {shape}")
        if not count:
            return mapped.empty(shape, dtype)
        if place := _place(tensor):
            values = self._outside(place, count, dtype)
        elif (raw := tensor.bytes(9)) is not None:
            values = mapped.elements(raw, 0, count, dtype)
        else:
            values = _listed(tensor, kind, dtype)
        values = values[:count].reshape(shape)
        values.flags.writeable = False
        return values

    def _outside(self, place: dict[str, str], count: int, dtype: np.dtype) -> np.ndarray:
        path = _in_folder(self._folder, place["location"])
        if path not in self._files:
            self._files[path] = mapped.whole_file(path)
        return mapped.elements(self._files[path], int(place.get("offset", 0)), count, dtype)


def _listed(tensor: Message, kind: int, dtype: np.dtype) -> np.ndarray:
    """A tensor's numbers where the message lists them."""
    if kind in _INT32_DATA:
        numbers = np.array(tensor.numbers(5), np.int64)
        if dtype.itemsize == 2:
            return numbers.astype("<u2").view(dtype)
        return numbers.astype(dtype)
    if kind in (1, 11):
        return tensor.array(4 if kind == 1 else 10, dtype.str).copy()
    return np.array(tensor.numbers(7 if kind == 7 else 11), np.int64).astype(dtype)
