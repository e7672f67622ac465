"""JAX's primitives as nodes of ONNX: those that networks for images use in inference."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jtl.common.errors import UserError

if TYPE_CHECKING:
    from jtl.export.onnx_graph import Graph, Value

Writer = Callable[["Graph", list["Value"], dict[str, Any], Any], "Value"]
"""From a graph, operands, the primitive's params and its output's shape to the output."""

_ELEMENTWISE = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min",
    "logistic": "Sigmoid", "exp": "Exp", "log": "Log", "tanh": "Tanh", "sqrt": "Sqrt",
    "neg": "Neg", "abs": "Abs", "erf": "Erf", "floor": "Floor",
}  # fmt: skip
NHWC_TO_NCHW = (0, 3, 1, 2)
"""The axes of JAX's images in the order of ONNX."""


def write(graph: Graph, name: str, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    """A primitive's output.

    Raises:
        UserError: The primitive is not among those that are known.
    """
    if name in _ELEMENTWISE:
        return graph.elementwise(_ELEMENTWISE[name], values, out)
    if name not in _WRITERS:
        raise UserError(f"the network computes '{name}', which jtl cannot write as ONNX.")
    return _WRITERS[name](graph, values, params, out)


def _rsqrt(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    root = graph.elementwise("Sqrt", values, out)
    return graph.elementwise("Reciprocal", [root], out)


def _convert(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    (value,) = values
    if value.dtype == np.dtype(params["new_dtype"]):
        return value
    return graph.cast(value, np.dtype(params["new_dtype"]))


def _convolution(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    image, kernel = values
    spec = params["dimension_numbers"]
    if (tuple(spec.lhs_spec), tuple(spec.out_spec)) != (NHWC_TO_NCHW, NHWC_TO_NCHW):
        raise UserError("the network has a convolution in another layout than NHWC.")
    weights = np.ascontiguousarray(np.transpose(graph.constant(kernel), spec.rhs_spec))
    node = graph.node(
        "Conv",
        [graph.channels_first(image), graph.initializer(weights, "kernel")],
        strides=list(params["window_strides"]),
        pads=_pads(params["padding"]),
        dilations=list(params["rhs_dilation"]),
        group=params["feature_group_count"],
        kernel_shape=list(weights.shape[2:]),
    )
    return graph.value(node, out, channels_first=True)


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    """ONNX's order: all beginnings, then all ends."""
    return [int(before) for before, _ in padding] + [int(after) for _, after in padding]


def _window(params: dict[str, Any]) -> dict[str, Any]:
    """Of a window over height and width."""
    window, strides = params["window_dimensions"], params["window_strides"]
    plain = {window[0], window[3], strides[0], strides[3]} == {1}
    if not plain or set(params["base_dilation"]) != {1}:
        raise UserError("the network pools in another way than over height and width.")
    return {
        "kernel_shape": list(window[1:3]),
        "strides": list(strides[1:3]),
        "pads": _pads(params["padding"][1:3]),
        "dilations": list(params["window_dilation"][1:3]),
    }


def _max_pool(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    node = graph.node("MaxPool", [graph.channels_first(values[0])], **_window(params))
    return graph.value(node, out, channels_first=True)


def _sum_pool(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    how = _window(params)
    given = [graph.channels_first(values[0])]
    node = graph.node("AveragePool", given, count_include_pad=1, **how)
    mean = graph.value(node, out, channels_first=True)
    count = graph.given(np.float32(math.prod(how["kernel_shape"])))
    return graph.elementwise("Mul", [mean, count], out)


def _reduce(op: str) -> Writer:
    def write_reduction(
        graph: Graph, values: list[Value], params: dict[str, Any], out: Any
    ) -> Value:
        (value,) = values
        axes = list(params["axes"])
        name = graph.plain(value)
        if value.channels_first and (3 in axes or {1, 2} <= set(axes)):
            # What is left has one order, such as [N, C] or [N, H, W].
            name = graph.channels_first(value)
            axes = [NHWC_TO_NCHW.index(axis) for axis in axes]
        given = [name, graph.initializer(np.array(axes, np.int64), "axes")]
        return graph.value(graph.node(op, given, keepdims=0), out)

    return write_reduction


def _product(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    left, right = values
    (contracted, batched) = params["dimension_numbers"]
    rank = len(left.shape)
    plain = (tuple(contracted[0]), tuple(contracted[1])) == ((rank - 1,), (0,))
    if not plain or any(batched) or len(right.shape) != 2:
        equation = _equation(contracted, batched, rank, len(right.shape))
        given = [graph.plain(left), graph.plain(right)]
        return graph.value(graph.node("Einsum", given, equation=equation), out)
    node = graph.node("MatMul", [graph.plain(left), graph.plain(right)])
    return graph.value(node, out)


def _equation(contracted: Any, batched: Any, left: int, right: int) -> str:
    """A product such as of attention, in Einstein's notation; see `jax.lax.dot_general`.

    Args:
        contracted: Axes of both operands that are summed over.
        batched: Axes of both that stay, and come first in the output.
        left: Axes of the first operand.
        right: Of the second.
    """
    first = string.ascii_lowercase[:left]
    second = list(string.ascii_lowercase[left : left + right])
    for axes in (contracted, batched):
        for mine, other in zip(*axes, strict=True):
            second[other] = first[mine]
    kept = [first[axis] for axis in batched[0]]
    gone = {first[axis] for axis in contracted[0]} | set(kept)
    rest = [letter for letter in (*first, *second) if letter not in gone]
    return f"{first},{''.join(second)}->{''.join(kept + rest)}"


def _reshape(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    return graph.reshape(values[0], out.shape, out)


def _broadcast(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    """Ones are put in where operands are broadcast anyway; else values are repeated."""
    (value,) = values
    place = params["broadcast_dimensions"]
    sides = [1] * len(out.shape)
    for axis, side in zip(place, value.shape, strict=True):
        sides[axis] = side
    repeated = any(a != b for a, b in zip(sides, out.shape, strict=True) if isinstance(b, int))
    # What differs for no image has one row, until all are joined.
    fixed = [b if isinstance(b, int) else 1 for b in out.shape]
    if value.array is not None:
        return graph.given(np.broadcast_to(value.array.reshape(sides), fixed))
    if not repeated:
        return graph.reshape(value, sides, out)
    one = graph.reshape(value, sides, jax.ShapeDtypeStruct(tuple(sides), out.dtype))
    shape = graph.initializer(np.array(fixed, np.int64), "shape")
    return graph.value(graph.node("Expand", [graph.plain(one), shape]), out)


def _concatenate(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    axis = params["dimension"]
    if len(out.shape) == 4 and any(value.channels_first for value in values):
        names = [graph.channels_first(value) for value in values]
        node = graph.node("Concat", names, axis=NHWC_TO_NCHW.index(axis))
        return graph.value(node, out, channels_first=True)
    names = [graph.for_every_image(value, out) for value in values]
    return graph.value(graph.node("Concat", names, axis=axis), out)


def _pad(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    image, filling = values
    config = [tuple(map(int, each)) for each in params["padding_config"]]
    if any(within for _, _, within in config):
        raise UserError("the network pads between pixels, which jtl cannot write as ONNX.")
    first, name = image.channels_first, graph.plain(image)
    if first:
        config, name = [config[axis] for axis in NHWC_TO_NCHW], graph.channels_first(image)
    pads = np.array([each[0] for each in config] + [each[1] for each in config], np.int64)
    node = graph.node("Pad", [name, graph.initializer(pads, "pads"), graph.plain(filling)])
    return graph.value(node, out, channels_first=first)


def _slice(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    (value,) = values
    strides = params["strides"] or (1,) * len(out.shape)
    rows = [
        (axis, int(start), int(stop), int(step))
        for axis, (start, stop, step) in enumerate(
            zip(params["start_indices"], params["limit_indices"], strides, strict=True)
        )
        if isinstance(stop, int) and (start, stop, step) != (0, value.shape[axis], 1)
    ]
    if not rows:
        return value
    first, name = value.channels_first, graph.plain(value)
    if first:
        name = graph.channels_first(value)
        rows = [(NHWC_TO_NCHW.index(axis), *rest) for axis, *rest in rows]
    axes, starts, stops, steps = (np.array(column, np.int64) for column in zip(*rows, strict=True))
    arrays = [graph.initializer(array, "slice") for array in (starts, stops, axes, steps)]
    return graph.value(graph.node("Slice", [name, *arrays]), out, channels_first=first)


def _reverse(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    """Such as of blue-green-red images."""
    (value,) = values
    name = graph.plain(value)
    for axis in params["dimensions"]:
        rows = np.arange(int(value.shape[axis]))[::-1].astype(np.int64).copy()
        name = graph.node("Gather", [name, graph.initializer(rows, "order")], axis=int(axis))
    return graph.value(name, out)


def _transpose(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    node = graph.node(
        "Transpose", [graph.plain(values[0])], perm=[int(axis) for axis in params["permutation"]]
    )
    return graph.value(node, out)


def _clamp(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    low, value, high = values
    return graph.elementwise("Min", [graph.elementwise("Max", [value, low], out), high], out)


def _power(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    exponent = graph.given(np.float32(params["y"]))
    return graph.elementwise("Pow", [values[0], exponent], out)


def _square(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    return graph.elementwise("Mul", [values[0], values[0]], out)


def _erfc(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    one = graph.given(np.ones((), values[0].dtype))
    return graph.elementwise("Sub", [one, graph.elementwise("Erf", values, out)], out)


def _gather(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    """One place or a part of an axis, such as the class token."""
    value, rows = values[0], graph.constant(values[1])
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    axes = tuple(numbers.start_index_map)
    whole = all(sizes[i] == side for i, side in enumerate(value.shape) if i not in axes)
    collapsed = tuple(numbers.collapsed_slice_dims)
    if rows.size == 1 and len(axes) == 1 and not collapsed and whole:
        start = int(rows.item())
        sides = [[start], [start + int(sizes[axes[0]])], list(axes)]
        given = [graph.initializer(np.array(side, np.int64), "slice") for side in sides]
        return graph.value(graph.node("Slice", [graph.plain(value), *given]), out)
    if rows.size != 1 or collapsed != axes or not whole:
        raise UserError("the network gathers values in a way that jtl cannot write as ONNX.")
    index = graph.initializer(np.array(int(rows.item()), np.int64), "index")
    node = graph.node("Gather", [graph.plain(value), index], axis=int(axes[0]))
    return graph.value(node, out)


def _same(graph: Graph, values: list[Value], params: dict[str, Any], out: Any) -> Value:
    return values[0]


_WRITERS: dict[str, Writer] = {
    "rsqrt": _rsqrt,
    "convert_element_type": _convert,
    "conv_general_dilated": _convolution,
    "reduce_window_max": _max_pool,
    "reduce_window_sum": _sum_pool,
    "reduce_sum": _reduce("ReduceSum"),
    "reduce_max": _reduce("ReduceMax"),
    "dot_general": _product,
    "reshape": _reshape,
    "squeeze": _reshape,
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "pad": _pad,
    "slice": _slice,
    "erfc": _erfc,
    "gather": _gather,
    "rev": _reverse,
    "transpose": _transpose,
    "clamp": _clamp,
    "integer_pow": _power,
    "square": _square,
    "copy": _same,
    "stop_gradient": _same,
    "optimization_barrier": _same,
}


def folds_by_numpy(name: str) -> bool:
    """Whether known operands give a known output that may be broadcast to all images later."""
    return name in _NUMPY


def folded(name: str, arrays: Sequence[np.ndarray], eqn: Any) -> np.ndarray:
    """The output of a primitive whose operands are all known.

    Args:
        name: Of the primitive.
        arrays: The operands.
        eqn: The equation.
    """
    if name in _NUMPY:  # Of which JAX would compile a program for every shape.
        with np.errstate(all="ignore"):
            found = np.asarray(_NUMPY[name](*arrays))
        return found.astype(eqn.outvars[0].aval.dtype, copy=False)
    if name in ("reshape", "squeeze"):
        return arrays[0].reshape(eqn.outvars[0].aval.shape)
    with jax.default_device(jax.devices("cpu")[0]):
        return np.asarray(eqn.primitive.bind(*map(jax.numpy.asarray, arrays), **eqn.params))


_NUMPY: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "convert_element_type": np.asarray,
}
