"""Convolutions by oneDNN, with what may follow them: bias, a second array, an activation.

oneDNN takes kernels in a blocked layout of its own, so each call reorders the kernel (or its
gradient), which is small beside the images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from ctypes import c_void_p
from typing import Literal

from jtl.onednn import interface
from jtl.onednn.library import Library, OneDnnError
from jtl.onednn.primitives import (
    FLOAT32,
    Array,
    Dtype,
    PrimitiveSequence,
    any_layout,
    channel_layout,
    dims,
    image_layout,
    strided_layout,
)

Kind = Literal["forward", "input_gradient", "kernel_gradient"]
Activation = Literal["relu", "relu6", "silu", "hard_swish", "gelu"]

# oneDNN's number of each, and the two parameters that it takes.
_ELEMENTWISE: dict[Activation, tuple[int, float, float]] = {
    "relu": (interface.RELU, 0.0, 0.0),
    "relu6": (interface.CLIP, 0.0, 6.0),
    "silu": (interface.SWISH, 1.0, 0.0),
    "hard_swish": (interface.HARD_SWISH, 1 / 6, 0.5),
    "gelu": (interface.GELU, 0.0, 0.0),
}


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One convolution: what is computed, of which shapes.

    Attributes:
        kind: y of (x, kernel), dx of (dy, kernel), or dkernel of (x, dy).
        images: x's (N, H, W, C).
        kernel: (height, width, C / groups, K).
        outputs: y's (N, H, W, K).
        strides: (vertical, horizontal).
        pads: (top, bottom, left, right).
        groups: Number of channel groups.
        bias: Forward only: whether a value per channel, the next argument, is added.
        residual: Forward only: whether an array of y's shape, the last argument, is added.
        activation: Forward only: what is applied at the end.
        dtype: Of all arrays but the bias, which is float32.
    """

    kind: Kind
    images: tuple[int, ...]
    kernel: tuple[int, ...]
    outputs: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int
    bias: bool = False
    residual: bool = False
    activation: Activation | None = None
    dtype: Dtype = FLOAT32

    def results(self) -> tuple[Array, ...]:
        """Shape and dtype of what is computed."""
        by_kind = {
            "forward": self.outputs,
            "input_gradient": self.images,
            "kernel_gradient": self.kernel,
        }
        return ((by_kind[self.kind], self.dtype),)

    def build(self, dnnl: Library) -> PrimitiveSequence:
        """Compiles it, in about a millisecond.

        Raises:
            OneDnnError: oneDNN has no implementation, or one that cannot be used.
        """
        if self.groups > 1 and self.dtype == "bfloat16":
            # oneDNN 3.2's (brdgmm_dw) crashes on some addresses: 7x7 over images of 2x2 pixels.
            raise OneDnnError("depthwise convolution", interface.UNIMPLEMENTED)
        return getattr(_Builder(dnnl, self), self.kind)()


class _Builder:
    """The descriptions that the three kinds share."""

    def __init__(self, dnnl: Library, of: Convolution):
        self._dnnl, self._of = dnnl, of
        self._x, self._y = (
            image_layout(dnnl, shape, of.dtype) for shape in (of.images, of.outputs)
        )
        shape, strides = _kernel_layout(of.kernel, of.groups)
        self._plain = strided_layout(dnnl, shape, strides, of.dtype)
        self._any = any_layout(dnnl, shape, of.dtype)
        top, bottom, left, right = of.pads
        self._window = (
            *(dims(of.strides), dims((0, 0))),  # A dilation of 0 is none.
            *(dims((top, left)), dims((bottom, right))),
        )

    def forward(self) -> PrimitiveSequence:
        sequence = PrimitiveSequence(self._dnnl)
        main = self._forward(interface.FORWARD_INFERENCE, followed=True)
        x, plain = sequence.array(self._x), sequence.array(self._plain)
        arguments = {interface.ARG_SOURCE: x}
        if self._of.bias:
            arguments[interface.ARG_BIAS] = sequence.array(
                channel_layout(self._dnnl, self._of.outputs[3])
            )
        if self._of.residual:
            second = interface.ARG_POST_OP | interface.ARG_SECOND
            arguments[second] = sequence.array(self._y)
        arguments[interface.ARG_DESTINATION] = sequence.array(self._y)
        arguments[interface.ARG_WEIGHTS] = self._blocked(sequence, main, plain)
        sequence.add(main, arguments)
        return sequence

    def input_gradient(self) -> PrimitiveSequence:
        sequence = PrimitiveSequence(self._dnnl)
        main = self._dnnl.new(
            "dnnl_convolution_backward_data_primitive_desc_create",
            *(self._dnnl.engine, interface.DIRECT, self._x, self._any, self._y, *self._window),
            *(self._forward(interface.FORWARD_TRAINING), None),
        )
        dy, plain, dx = map(sequence.array, (self._y, self._plain, self._x))
        arguments = {
            interface.ARG_DIFF_DESTINATION: dy,
            interface.ARG_WEIGHTS: self._blocked(sequence, main, plain),
            interface.ARG_DIFF_SOURCE: dx,
        }
        sequence.add(main, arguments)
        return sequence

    def kernel_gradient(self) -> PrimitiveSequence:
        sequence = PrimitiveSequence(self._dnnl)
        main = self._dnnl.new(
            "dnnl_convolution_backward_weights_primitive_desc_create",
            *(self._dnnl.engine, interface.DIRECT, self._x, self._any, None, self._y),
            *(*self._window, self._forward(interface.FORWARD_TRAINING), None),
        )
        x, dy, plain = map(sequence.array, (self._x, self._y, self._plain))
        blocked = c_void_p(self._dnnl.query(main, interface.QUERY_DIFF_WEIGHTS, 0))
        dkernel = sequence.scratch(blocked)
        arguments = {
            interface.ARG_SOURCE: x,
            interface.ARG_DIFF_DESTINATION: dy,
            interface.ARG_DIFF_WEIGHTS: dkernel,
        }
        sequence.add(main, arguments)
        self._reorder(sequence, blocked, dkernel, self._plain, plain)
        return sequence

    def _forward(self, purpose: int, *, followed: bool = False) -> c_void_p:
        bias = (
            channel_layout(self._dnnl, self._of.outputs[3]) if followed and self._of.bias else None
        )
        return self._dnnl.new(
            "dnnl_convolution_forward_primitive_desc_create",
            *(self._dnnl.engine, purpose, interface.DIRECT),
            *(self._x, self._any, bias, self._y, *self._window),
            self._following() if followed else None,
        )

    def _following(self) -> c_void_p | None:
        """Attributes that make oneDNN add the second array and apply the activation."""
        of, dnnl = self._of, self._dnnl
        if not of.residual and of.activation is None:
            return None
        operations = dnnl.new("dnnl_post_ops_create")
        if of.residual:
            dnnl.do("dnnl_post_ops_append_binary", operations, interface.ADD, self._y)
        if of.activation is not None:
            elementwise = _ELEMENTWISE[of.activation]
            dnnl.do("dnnl_post_ops_append_eltwise", operations, *elementwise)
        attributes = dnnl.new("dnnl_primitive_attr_create")
        dnnl.do("dnnl_primitive_attr_set_post_ops", attributes, operations)
        return attributes

    def _blocked(self, sequence: PrimitiveSequence, main: c_void_p, plain: c_void_p) -> c_void_p:
        """The kernel in the layout that a primitive takes, reordered from `plain` before it."""
        layout = c_void_p(self._dnnl.query(main, interface.QUERY_WEIGHTS, 0))
        kernel = sequence.scratch(layout)
        self._reorder(sequence, self._plain, plain, layout, kernel)
        return kernel

    def _reorder(
        self,
        sequence: PrimitiveSequence,
        source: c_void_p,
        first: c_void_p,
        target: c_void_p,
        second: c_void_p,
    ) -> None:
        engine = self._dnnl.engine
        reorder = self._dnnl.new(
            "dnnl_reorder_primitive_desc_create", source, engine, target, engine, None
        )
        sequence.add(reorder, {interface.ARG_FROM: first, interface.ARG_TO: second})


def _kernel_layout(kernel: Sequence[int], groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """HWIO in memory, as oneDNN's (groups,) O, I, H, W with strides."""
    height, width, inputs, outputs = kernel
    strides = (1, outputs, width * inputs * outputs, inputs * outputs)
    if groups == 1:
        return (outputs, inputs, height, width), strides
    per_group = outputs // groups
    return (groups, per_group, inputs, height, width), (per_group, *strides)
