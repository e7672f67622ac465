"""A function of JAX as a graph of ONNX, from its jaxpr: without PyTorch.

What accelerators compute is written: of `jax.lax.platform_dependent` the default branch. What
depends on parameters alone is computed here, such as the factors of batch normalization. Images
are [N, H, W, C] in JAX and [N, C, H, W] in ONNX: convolutions give the latter, which stays as it
is until something needs the former. Images of one pixel or of one channel have their numbers in the
same order either way, so that nothing is turned for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jtl.common.errors import UserError
from jtl.export import onnx_primitives
from jtl.export.onnx_primitives import NHWC_TO_NCHW

OPSET = 20
IR_VERSION = 10
"""What runtimes of 2024 read."""


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """What a variable of the jaxpr is in the graph.

    Attributes:
        name: Of the tensor; empty of constants that are not in the graph yet.
        shape: As in JAX: sides that are not fixed are no integers.
        dtype: Its elements.
        channels_first: Whether the tensor is [N, C, H, W] where JAX has [N, H, W, C].
        array: What it is, if that is known.
        rectified: The value of which it is the positive part, if it is one.
    """

    name: str
    shape: tuple[Any, ...]
    dtype: np.dtype
    channels_first: bool = False
    array: np.ndarray | None = None
    rectified: Value | None = None

    def is_scalar(self, number: float) -> bool:
        """Whether it is this number."""
        return self.array is not None and self.array.size == 1 and self.array.item() == number


class Graph:
    """Nodes and initializers of a graph that is being written."""

    def __init__(self, onnx: Any):
        """Takes the module `onnx`."""
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self._turned_before: dict[tuple[str, bool], str] = {}
        self._reshaped_before: dict[tuple[str, tuple[int, ...]], str] = {}
        self._source: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._count = 0

    def node(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Adds a node; gives the name of its output."""
        name = self._named(op)
        self.nodes.append(self._onnx.helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def _named(self, what: str) -> str:
        self._count += 1
        return f"{what}_{self._count}"

    def value(self, name: str, out: Any, *, channels_first: bool = False) -> Value:
        """The output of a node; `out` has its shape and dtype in JAX."""
        return Value(name, tuple(out.shape), np.dtype(out.dtype), channels_first)

    def given(self, array: Any) -> Value:
        """A constant."""
        array = np.asarray(array)
        return Value("", array.shape, array.dtype, array=array)

    def constant(self, value: Value) -> np.ndarray:
        """What a value is.

        Raises:
            UserError: It depends on the images.
        """
        if value.array is None:
            raise UserError("the network computes weights from images, which ONNX has no word for.")
        return value.array

    def initializer(self, array: np.ndarray, what: str) -> str:
        """A constant in the graph; equal small ones are there once."""
        array = np.ascontiguousarray(array) if array.ndim else array
        key = (array.dtype.str, array.shape, array.tobytes()) if array.size <= 64 else None
        if key in self._known:
            return self._known[key]
        name = self._named(what)
        self.initializers.append(self._onnx.numpy_helper.from_array(array, name))
        if key is not None:
            self._known[key] = name
        return name

    def plain(self, value: Value) -> str:
        """The tensor with its axes in JAX's order."""
        if value.array is not None:
            return self.initializer(value.array, "constant")
        return self._turned(value) if value.channels_first else value.name

    def for_every_image(self, value: Value, out: Any) -> str:
        """The tensor, repeated where it is the same for all images, such as a class token."""
        name = self.plain(value)
        if not isinstance(value.shape[0], int) or isinstance(out.shape[0], int):
            return name
        sides = self.node("Shape", ["images"], start=0, end=1)
        ones = self.initializer(np.ones(len(value.shape) - 1, np.int64), "shape")
        return self.node("Expand", [name, self.node("Concat", [sides, ones], axis=0)])

    def channels_first(self, value: Value) -> str:
        """The tensor [N, C, H, W] of a value [N, H, W, C]."""
        if value.array is not None:
            array = value.array
            if array.ndim == 4:
                array = array.transpose(0, 3, 1, 2)
            return self.initializer(array, "constant")
        return value.name if value.channels_first else self._turned(value)

    def _turned(self, value: Value) -> str:
        """The tensor in the order which it has not."""
        if _has_one_order(value.shape):
            order = range(4) if value.channels_first else NHWC_TO_NCHW
            return self._reshaped(value, [value.shape[axis] for axis in order])
        key = value.name, value.channels_first
        if key not in self._turned_before:
            order = (0, 2, 3, 1) if value.channels_first else NHWC_TO_NCHW
            turned = self.node("Transpose", [value.name], perm=list(order))
            self._turned_before[key] = turned
        return self._turned_before[key]

    def reshape(self, value: Value, sides: Sequence[Any], out: Any) -> Value:
        """What has these sides and the same elements in JAX's order.

        An image of one pixel is [N, C, 1, 1]: what comes of it meets convolutions or larger images.

        Args:
            value: Of as many elements.
            sides: Those of `out`, or 1 where it is broadcast to all images later.
            out: Has the shape and dtype in JAX.
        """
        first = len(sides) == 4 and sides[1] == sides[2] == 1
        order = NHWC_TO_NCHW if first else range(len(sides))
        name = self._reshaped(value, [sides[axis] for axis in order])
        return self.value(name, out, channels_first=first)

    def _reshaped(self, value: Value, sides: Sequence[Any]) -> str:
        """The tensor with these sides; of several such steps the last one is enough."""
        shape = value.shape
        if value.channels_first and _has_one_order(shape):
            name, shape = value.name, [shape[axis] for axis in NHWC_TO_NCHW]
        else:
            name = self.plain(value)
        name, shape = self._source.get(name, (name, _inferred(shape)))
        wanted = _inferred(sides)
        if wanted == shape:
            return name
        key = name, wanted
        if key not in self._reshaped_before:
            given = [name, self.initializer(np.array(wanted, np.int64), "shape")]
            self._reshaped_before[key] = self.node("Reshape", given)
            self._source[self._reshaped_before[key]] = name, shape
        return self._reshaped_before[key]

    def cast(self, value: Value, dtype: np.dtype) -> Value:
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(dtype)
        name = self.node("Cast", [value.name or self.plain(value)], to=kind)
        return Value(name, value.shape, dtype, value.channels_first)

    def elementwise(self, op: str, values: list[Value], out: Any) -> Value:
        """A node that takes each element by itself, operands broadcast as by NumPy."""
        if op == "Max" and values[1].is_scalar(0):
            node = self.node("Relu", [values[0].name])
            found = self.value(node, out, channels_first=values[0].channels_first)
            return dataclasses.replace(found, rectified=values[0])
        if op == "Min" and values[0].rectified is not None and _is_single(values[1]):
            return self._clipped(values[0].rectified, values[1], out)
        first = any(value.channels_first for value in values)
        first &= all(len(v.shape) in (0, 4) for v in values)
        how: Callable[[Value], str] = self.channels_first if first else self.plain
        return self.value(self.node(op, [how(v) for v in values]), out, channels_first=first)

    def _clipped(self, value: Value, high: Value, out: Any) -> Value:
        """One node, by which quantizers know such activations; the `Relu` is for nothing then."""
        low = self.initializer(np.zeros((), value.dtype), "constant")
        node = self.node("Clip", [value.name, low, self.plain(high)])
        return self.value(node, out, channels_first=value.channels_first)

    def used(self, output: str) -> list[Any]:
        """The nodes on which an output depends, in order."""
        wanted, found = {output}, []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                found.append(node)
        return found[::-1]


def convert(
    onnx: Any, function: Callable[[jax.Array], jax.Array], image: jax.ShapeDtypeStruct, name: str
) -> Any:
    """A function of images as an ONNX model with the input `images` and the output `logits`.

    Args:
        onnx: The module.
        function: From images to logits.
        image: Shape and dtype of the images; the first side may be symbolic.
        name: Of the graph.

    Raises:
        UserError: The function computes something for which there is no node here.
    """
    closed = jax.make_jaxpr(function)(image)
    graph, helper = Graph(onnx), onnx.helper
    start = Value("images", tuple(image.shape), np.dtype(image.dtype))
    (logits,) = _evaluated(graph, closed.jaxpr, [graph.given(c) for c in closed.consts], [start])
    graph.nodes.append(helper.make_node("Identity", [graph.plain(logits)], ["logits"]))
    kinds = helper.np_dtype_to_tensor_dtype
    given = helper.make_tensor_value_info("images", kinds(start.dtype), _sides(start.shape))
    gives = helper.make_tensor_value_info("logits", kinds(logits.dtype), _sides(logits.shape))
    nodes = graph.used("logits")
    needed = {each for node in nodes for each in node.input}
    arrays = [array for array in graph.initializers if array.name in needed]
    body = helper.make_graph(nodes, name, [given], [gives], arrays)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(body, opset_imports=opsets, producer_name="jtl")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _is_single(value: Value) -> bool:
    return value.array is not None and value.array.size == 1


def _has_one_order(shape: Sequence[Any]) -> bool:
    """Whether the numbers of [N, H, W, C] and [N, C, H, W] come in the same order."""
    return len(shape) == 4 and (shape[3] == 1 or shape[1] == shape[2] == 1)


def _inferred(shape: Sequence[Any]) -> tuple[int, ...]:
    """As `Reshape` takes it: what is not fixed follows from the rest."""
    return tuple(side if isinstance(side, int) else -1 for side in shape)


def _sides(shape: Sequence[Any]) -> list[int | str]:
    return [side if isinstance(side, int) else str(side) for side in shape]


_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call", "remat", "checkpoint")


def _evaluated(
    graph: Graph, jaxpr: Any, consts: Sequence[Value], args: Sequence[Value]
) -> list[Value]:
    """The outputs of a jaxpr; see `jax.core`."""
    known: dict[Any, Value] = {}
    known.update(zip(jaxpr.constvars, consts, strict=True))
    known.update(zip(jaxpr.invars, args, strict=True))
    branches: dict[Any, int] = {}

    def read(variable: Any) -> Value:
        return graph.given(variable.val) if hasattr(variable, "val") else known[variable]

    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "platform_index":
            branches[eqn.outvars[0]] = eqn.params["platforms"].index(None)
            continue
        if name == "cond" and eqn.invars[0] in branches:
            inner = eqn.params["branches"][branches[eqn.invars[0]]]
            given = [read(variable) for variable in eqn.invars[1:]]
            found = _called(graph, inner, given)
        elif name in _CALLS:
            inner = next(v for v in eqn.params.values() if _is_jaxpr(v))
            found = _called(graph, inner, [read(variable) for variable in eqn.invars])
        else:
            values = [read(variable) for variable in eqn.invars]
            arrays = [value.array for value in values]
            (out,) = eqn.outvars
            foldable = _is_fixed(out.aval.shape) or onnx_primitives.folds_by_numpy(name)
            if foldable and all(array is not None for array in arrays):
                known_arrays = [array for array in arrays if array is not None]
                found = [graph.given(onnx_primitives.folded(name, known_arrays, eqn))]
            else:
                found = [onnx_primitives.write(graph, name, values, eqn.params, out.aval)]
        known.update(zip(eqn.outvars, found, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _is_fixed(shape: Sequence[Any]) -> bool:
    return all(isinstance(side, int) for side in shape)


def _called(graph: Graph, inner: Any, given: Sequence[Value]) -> list[Value]:
    if hasattr(inner, "jaxpr"):
        return _evaluated(graph, inner.jaxpr, [graph.given(c) for c in inner.consts], given)
    return _evaluated(graph, inner, [], given)
