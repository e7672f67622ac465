"""ONNX models as PyTorch's exporters write them: a state dict, without ONNX's packages.

`torch.onnx.export` keeps the names of most parameters. What it computes ahead has a name without
meaning (`onnx::Conv_193`, `val_12`): convolutions with their normalization folded in, transposed
kernels of dense layers. Its node says in which module it was called, so that
`/layer1/layer1.0/conv1/Conv` has `layer1.0.conv1.weight`.
"""

from __future__ import annotations

import os
import re
import struct
from typing import NamedTuple

import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import listed, shown
from weights_convert.read.onnx_graph import Graph, Node, damaged, files_beside, is_model
from weights_convert.read.onnx_graph import read as read_graph

# Leaves of a layer, by its inputs from the second on.
_LEAVES = {
    "Conv": ("weight", "bias"),
    "Gemm": ("weight", "bias"),
    "MatMul": ("weight",),
    "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    "LayerNormalization": ("weight", "bias"),
    "InstanceNormalization": ("weight", "bias"),
    "GroupNormalization": ("weight", "bias"),
}
# What the networks of jtl are made of besides.
_PLAIN = re.compile(
    r"Add|And|AveragePool|Cast|CastLike|Ceil|Clip|Concat|Constant|ConstantOfShape|Div|Dropout|"
    r"Equal|Erf|Expand|Flatten|Floor|Gather|Gelu|GlobalAveragePool|HardSigmoid|HardSwish|"
    r"Identity|LogSoftmax|Max|MaxPool|Min|Mod|Mul|Not|Pad|Pow|Range|ReduceMean|Relu|Reshape|"
    r"Shape|Sigmoid|Slice|Softmax|Split|Sqrt|Squeeze|Sub|Swish|Tanh|Transpose|Unsqueeze|Where"
)
_QUANTIZED = re.compile(
    r"Q?(Quantize|Dequantize|DynamicQuantize|QLinear|ConvInteger|MatMulInteger)\w*"
)
ACTIVATIONS = {
    **{"Relu": {"relu"}, "HardSwish": {"hard_swish"}, "HardSigmoid": {"hard_sigmoid"}},
    "Clip": {"relu6", "hard_swish", "hard_sigmoid"},
    **{"Sigmoid": {"sigmoid", "silu", "quick_gelu"}, "Swish": {"silu", "quick_gelu"}},
    **{"Gelu": {"gelu"}, "Erf": {"gelu"}, "Tanh": {"gelu"}},
}
"""Operators, and the activations of which they are a part."""
# What is done to an image before the first layer that changes no value.
_MOVING = ("Pad", "Cast", "Identity", "Transpose", "Reshape")
_SCALING = ("Sub", "Add", "Mul", "Div")
_MOST_BEFORE = 16
# A parameter's own name; others are of values.
_NAMED = re.compile(r"[A-Za-z_]\w*(\.\w+)+|(cls|class|reg|register|dist)_tokens?|pos_embed(ding)?")
_INSTEAD = "save the network's state dict instead: torch.save(model.state_dict(), 'weights.pth')"
_STATE_DICT = f"S{_INSTEAD[1:]}"


class Content(NamedTuple):
    """Arrays by PyTorch's names, and how convolutions pad.

    Attributes:
        tensors: By name.
        strides: Of each convolution, by the name of its kernel.
        activations: The operators that are activations.
        padding: "SAME" if strided convolutions pad more behind than before, as TensorFlow's do;
            "symmetric" if they do not; None where a size of images has the same of both.
    """

    tensors: dict[str, np.ndarray]
    strides: dict[str, int]
    activations: frozenset[str]
    padding: str | None


def read(path: str, data: memoryview) -> Content:
    """Reads the weights of a model.

    Args:
        path: The file.
        data: All of it.

    Returns:
        Arrays in PyTorch's layouts by the names of a state dict, in the graph's order. Of a
        normalization that was folded into its convolution nothing is left but the convolution's
        bias. Where the graph scales images before its first layer, `normalize.mean` and
        `normalize.std` say so.

    Raises:
        UserError: The file is damaged, computes what no network of jtl does, or does not say which
            layers its weights are of.
    """
    try:
        graph = read_graph(data, os.path.dirname(os.path.abspath(path)))
        tensors = _parameters(graph)
    except UserError:
        raise
    except (ValueError, IndexError, OverflowError, MemoryError, struct.error) as error:
        raise damaged(error) from error
    if not tensors:
        raise UserError(f"it is an ONNX model without weights. {_STATE_DICT}")
    strides = {
        name: max(node.numbers("strides"), default=1)
        for node in graph.nodes
        for name, _, array in (_of_layer(graph, node) if node.op == "Conv" else ())
        if name and array.ndim == 4
    }
    activations = frozenset(node.op for node in graph.nodes) & ACTIVATIONS.keys()
    return Content(tensors, strides, activations, _padding(graph))


def _parameters(graph: Graph) -> dict[str, np.ndarray]:
    for node in graph.nodes:
        _check(node)
    found: dict[str, np.ndarray] = dict(_normalization(graph))
    used: set[str] = set()
    nameless: list[str] = []
    for node in graph.nodes:
        for name, value, array in _of_layer(graph, node):
            used.add(value)
            if name is None:
                nameless.append(value)
            elif name not in found:
                found[name] = array
            elif not np.array_equal(found[name], array):
                raise UserError(
                    f"it is an ONNX model with two tensors for '{shown(name, 60)}'. {_STATE_DICT}"
                )
    if nameless:
        raise UserError(
            f"it is an ONNX model that does not say which layers its weights are of "
            f"({len(nameless)} tensors such as {listed(nameless, 2)}). Export it with PyTorch 1.13 "
            f"or newer, whose nodes have their modules' names, or better: {_INSTEAD}"
        )
    for name, array in graph.constants.items():
        if name not in used and _NAMED.fullmatch(name) and array.ndim and array.dtype.kind in "fV":
            found.setdefault(name, array)
    return found


def _check(node: Node) -> None:
    if _QUANTIZED.fullmatch(node.op):
        raise UserError(
            f"it is a quantized ONNX model (it has {shown(node.op, 40)}). Take the one from before "
            "quantization"
        )
    if node.op not in _LEAVES and not _PLAIN.fullmatch(node.op):
        raise UserError(
            f"it is an ONNX model with an operator that no network of jtl has: "
            f"{shown(node.op, 40)}. If the weights are of a network that jtl has, {_INSTEAD}"
        )
    if node.op == "Conv" and set(node.numbers("dilations")) - {1}:
        raise UserError(
            "it is an ONNX model with dilated convolutions, which no network of jtl has. Export "
            "the network with its usual output stride of 32"
        )


def _of_layer(graph: Graph, node: Node) -> list[tuple[str | None, str, np.ndarray]]:
    """Parameters of a node: (name, value's name, array); no name where nothing says it."""
    if node.op == "Mul":
        return _factor(graph, node)
    if node.op == "Concat":
        return _token(graph, node)
    leaves = _LEAVES.get(node.op, ())
    values = node.inputs[1 : 1 + len(leaves)]
    if node.op == "MatMul" and values and values[0] not in graph.constants:
        return []  # Of attention: both sides are computed.
    found = []
    module = next(
        (m for v, leaf in zip(values, leaves, strict=False) if (m := _owner(v, leaf))), ""
    )
    module = module or node.module
    for value, leaf in zip(values, leaves, strict=False):
        if not value:
            continue
        array = graph.constants.get(value)
        if array is None:
            raise UserError(
                f"it is an ONNX model that computes the {leaf} of a layer (value "
                f"'{shown(value, 60)}'). Export it with optimize=True or do_constant_folding=True"
            )
        if node.op == "MatMul" or (node.op == "Gemm" and leaf == "weight"):
            if array.ndim != 2:
                return []
            # As (in, out), whatever it is called.
            transposed = node.op == "Gemm" and node.number("transB", 0)
            array = array if transposed else array.T
        own = value if _owner(value, leaf) else None
        name = own or (f"{module}.{leaf}" if module else None)
        found.append((name, value, array))
    return found


def _owner(value: str, leaf: str) -> str:
    """The module of a parameter whose name a value has kept; empty for any other value."""
    if not _NAMED.fullmatch(value) or not value.endswith(f".{leaf}"):
        return ""
    return value.removesuffix(f".{leaf}")


def _factor(graph: Graph, node: Node) -> list[tuple[str | None, str, np.ndarray]]:
    """The factors of a block's channels (layer scale), turned ahead to fit an image."""
    for value in node.inputs:
        array = graph.constants.get(value)
        if array is None or _NAMED.fullmatch(value) or node.module is None or array.size < 2:
            continue
        if array.ndim in (3, 4) and array.size == array.shape[-3]:
            return [(f"{node.module}.gamma", value, array.reshape(-1))]
    return []


def _token(graph: Graph, node: Node) -> list[tuple[str | None, str, np.ndarray]]:
    """A class token that was repeated ahead for one image."""
    for value in node.inputs:
        array = graph.constants.get(value)
        known = array is not None and array.ndim == 3 and array.dtype.kind in "fV"
        if array is not None and known and not _NAMED.fullmatch(value) and node.module == "":
            return [("cls_token", value, array[:1])]
    return []


def _padding(graph: Graph) -> str | None:
    """How the first convolution pads, where its stride tells."""
    first = next((node for node in graph.nodes if node.op == "Conv"), None)
    if first is None or 2 not in first.numbers("strides"):
        return None
    pads = first.numbers("pads")
    padded = any(n.op == "Pad" and first.inputs[0] in n.outputs for n in graph.nodes)
    same = "auto_pad" in first.attributes and first.attributes["auto_pad"].text(4) != "NOTSET"
    if padded or same or pads[: len(pads) // 2] != pads[len(pads) // 2 :]:
        return "SAME"
    return None if graph.height % 2 else "symmetric"


def _normalization(graph: Graph) -> dict[str, np.ndarray]:
    """What is done to an image before the first layer, as its mean and standard deviation."""
    producers = {name: node for node in graph.nodes for name in node.outputs}
    first = next((node for node in graph.nodes if node.op == "Conv"), None)
    if first is None:
        return {}
    chain: list[Node] = []
    value = first.inputs[0]
    # A graph has no cycles, unless it is damaged.
    while value in producers and len(chain) < _MOST_BEFORE:
        node = producers.pop(value)
        if node.op in _SCALING:
            chain.append(node)
        elif node.op not in _MOVING:
            raise UserError(
                f"it is an ONNX model that has {node.op} before its first convolution. "
                f"{_STATE_DICT}"
            )
        value = next((name for name in node.inputs if name not in graph.constants), "")
    if not chain:
        return {}
    factor, offset = np.ones(3), np.zeros(3)
    # Whatever is not finite is refused as a mean and a deviation.
    with np.errstate(all="ignore"):
        for node in reversed(chain):
            known = [graph.constants[name] for name in node.inputs if name in graph.constants]
            turned = node.op in ("Sub", "Div") and node.inputs[0] in graph.constants
            if len(known) != 1 or known[0].size not in (1, 3) or turned:
                raise UserError(
                    "it is an ONNX model that changes images before its first convolution, by more "
                    f"than a mean and a standard deviation. {_STATE_DICT}"
                )
            number = np.broadcast_to(known[0].astype(np.float64).ravel(), 3)
            if node.op in ("Sub", "Add"):
                offset = offset + (number if node.op == "Add" else -number)
            else:
                by = number if node.op == "Mul" else 1 / number
                factor, offset = factor * by, offset * by
        mean, deviation = -offset / factor, 1 / factor
    return {
        "normalize.mean": mean.astype(np.float32),
        "normalize.std": deviation.astype(np.float32),
    }


__all__ = ["files_beside", "is_model", "read"]
