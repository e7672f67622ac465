"""Resizing and cropping as nodes of ONNX, before a graph that takes images of its own size.

As `jtl.data.decoding.HostTransform`: Pillow's antialiased kernels, one direction after the other,
rounded to whole values after each. onnxruntime computes their weights in float32 where Pillow has
fixed points, so single values differ by one of 255; and Pillow takes rows before columns where
that saves most, here columns come first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.data.input_plan import InputPlan

_METHODS = {"bicubic": "cubic", "bilinear": "linear"}
_GIVEN, _RESIZED = "images", "resized"


def refuse(inputs: InputPlan) -> None:
    """Raises `UserError` if a run's images are not resized by their own sizes, then cropped."""
    other = "--to stablehlo resizes in any case; or leave it out."
    if inputs.host is None:
        raise UserError(
            "--preprocessing resize: this run enlarges small images, which jtl does not write as "
            f"ONNX. {other}"
        )
    if inputs.fit == "pad":
        raise UserError(f"--preprocessing resize: jtl does not write --fit pad as ONNX. {other}")


class _Nodes:
    """Nodes and constants that are put before a graph."""

    def __init__(self, onnx: Any):
        self._onnx = onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        """A constant's name."""
        name = f"resizing/constant{len(self.constants)}"
        array = np.array(values, dtype)
        self.constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def add(self, kind: str, given: Sequence[str], out: str = "", **attributes: Any) -> str:
        """A node's output."""
        out = out or f"resizing/{kind}{len(self.nodes)}"
        self.nodes.append(self._onnx.helper.make_node(kind, given, [out], **attributes))
        return out

    def whole(self, x: str) -> str:
        """The values as Pillow keeps them, in float32."""
        limits = [self.constant(limit, np.float32) for limit in (0, 255)]
        half = self.constant(0.5, np.float32)
        return self.add("Floor", [self.add("Add", [self.add("Clip", [x, *limits]), half])])


def prepend(onnx: Any, model: Any, inputs: InputPlan) -> None:
    """Has a model take images of any one size, which it resizes and crops itself.

    Args:
        onnx: The package.
        model: Takes `images`, uint8 [N, size, size, 3]; it is changed.
        inputs: How images become the network's input; see `refuse`.
    """
    assert inputs.host is not None
    size, graph = inputs.device.size, model.graph
    to = _Nodes(onnx)
    shape = to.add("Shape", [_GIVEN])
    sides = to.add("Gather", [shape, to.constant([1, 2])])
    if inputs.fit == "crop":
        short = to.constant([math.floor(size / inputs.host.crop_pct)])
        shorter = to.add("ReduceMin", [sides], keepdims=1)
        resized = to.add("Div", [to.add("Mul", [sides, short]), shorter])
    else:  # squash
        resized = to.constant([size, size])
    x = to.add("Transpose", [_GIVEN], perm=[0, 3, 1, 2])
    x = to.add("Cast", [x], to=onnx.TensorProto.FLOAT)
    method: dict[str, Any] = {"mode": _METHODS[inputs.host.interpolation]}
    if method["mode"] == "cubic":
        method["cubic_coeff_a"] = -0.5
    first, last = to.constant([0]), to.constant([1])
    whole = to.add("Concat", [to.add("Gather", [shape, first]), to.constant([3])], axis=0)
    columns = to.add("Gather", [resized, last])
    # Columns, then rows. Without `axes`, which onnxruntime 1.32 loses as it moves transpositions.
    for rows in (to.add("Gather", [sides, first]), to.add("Gather", [resized, first])):
        given = to.add("Concat", [whole, rows, columns], axis=0)
        x = to.add(
            "Resize", [x, "", "", given], antialias=1, exclude_outside=1,
            coordinate_transformation_mode="half_pixel", **method,
        )  # fmt: skip
        x = to.whole(x)
    if inputs.fit == "crop":
        room = to.add("Sub", [resized, to.constant([size, size])])
        half = to.constant(0.5, np.float32)
        halves = to.add("Mul", [to.add("Cast", [room], to=onnx.TensorProto.FLOAT), half])
        # Half to even, as Python rounds.
        start = to.add("Cast", [to.add("Round", [halves])], to=onnx.TensorProto.INT64)
        end = to.add("Add", [start, to.constant([size, size])])
        x = to.add("Slice", [x, start, end, to.constant([2, 3])])
    x = to.add("Transpose", [x], perm=[0, 2, 3, 1])
    to.add("Cast", [x], out=_RESIZED, to=onnx.TensorProto.UINT8)
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name == _GIVEN:
                node.input[place] = _RESIZED
    kept = list(graph.node)
    del graph.node[:]
    graph.node.extend([*to.nodes, *kept])
    graph.initializer.extend(to.constants)
    free = onnx.helper.make_tensor_value_info(
        _GIVEN, onnx.TensorProto.UINT8, ["batch", "height", "width", 3]
    )
    graph.input[0].CopyFrom(free)
    onnx.checker.check_model(model)
