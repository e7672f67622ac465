"""Max pooling, and averages of neighbourhoods, by oneDNN."""

from __future__ import annotations

import dataclasses
from ctypes import c_void_p
from typing import Literal

from jtl.onednn import interface
from jtl.onednn.library import Library
from jtl.onednn.primitives import (
    FLOAT32,
    UINT8,
    Array,
    Dtype,
    PrimitiveSequence,
    dims,
    image_layout,
    workspace_bytes,
)


@dataclasses.dataclass(frozen=True)
class MaxPooling:
    """One max pooling.

    Attributes:
        kind: (y, workspace) of x, or dx of (dy, workspace).
        images: x's (N, H, W, C).
        outputs: y's (N, H, W, C).
        window: (height, width).
        strides: (vertical, horizontal).
        pads: (top, bottom, left, right).
        workspace: Size in bytes of what remembers where each maximum was.
        dtype: Of x, y and their gradients.
    """

    kind: Literal["pooling", "pooling_gradient"]
    images: tuple[int, ...]
    outputs: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    workspace: int = 0
    dtype: Dtype = FLOAT32

    def results(self) -> tuple[Array, ...]:
        """Shape and dtype of what is computed."""
        if self.kind == "pooling_gradient":
            return ((self.images, self.dtype),)
        return (self.outputs, self.dtype), ((self.workspace,), UINT8)

    def build(self, dnnl: Library) -> PrimitiveSequence:
        """Compiles it.

        Raises:
            OneDnnError: oneDNN has no implementation.
        """
        x, y = self._images(dnnl)
        forward = self._forward(dnnl)
        sequence = PrimitiveSequence(dnnl)
        if self.kind == "pooling_gradient":
            arguments = {interface.ARG_DIFF_DESTINATION: sequence.array(y)}
            main = dnnl.new(
                "dnnl_pooling_backward_primitive_desc_create",
                *(dnnl.engine, interface.MAXIMUM, x, y, *self._window(), forward, None),
            )
        else:
            arguments = {interface.ARG_SOURCE: sequence.array(x)}
            arguments[interface.ARG_DESTINATION] = sequence.array(y)
            main = forward
        arguments[interface.ARG_WORKSPACE] = sequence.workspace(forward, self.workspace)
        if self.kind == "pooling_gradient":
            arguments[interface.ARG_DIFF_SOURCE] = sequence.array(x)
        sequence.add(main, arguments)
        return sequence

    def workspace_bytes(self, dnnl: Library) -> int:
        """What the workspace needs on this processor; OneDnnError if nothing implements it."""
        return workspace_bytes(dnnl, self._forward(dnnl))

    def _forward(self, dnnl: Library) -> c_void_p:
        x, y = self._images(dnnl)
        return dnnl.new(
            "dnnl_pooling_forward_primitive_desc_create",
            *(dnnl.engine, interface.FORWARD_TRAINING, interface.MAXIMUM, x, y),
            *(*self._window(), None),
        )

    def _images(self, dnnl: Library) -> tuple[c_void_p, c_void_p]:
        """The layouts of x and y."""
        x, y = (image_layout(dnnl, shape, self.dtype) for shape in (self.images, self.outputs))
        return x, y

    def _window(self) -> tuple:
        top, bottom, left, right = self.pads
        return (
            *(dims(self.strides), dims(self.window), dims((0, 0))),
            *(dims((top, left)), dims((bottom, right))),
        )


@dataclasses.dataclass(frozen=True)
class NeighbourhoodAverage:
    """The mean of each pixel's neighbourhood, with the zeros around the image.

    Its gradient is the same operation on the gradient.

    Attributes:
        images: x's and y's (N, H, W, C).
        window: Height and width of the neighbourhood, odd.
        dtype: float32, in which its callers add.
    """

    images: tuple[int, ...]
    window: int
    dtype: Literal["float32"] = "float32"

    def results(self) -> tuple[Array, ...]:
        """Shape and dtype of what is computed."""
        return ((self.images, FLOAT32),)

    def build(self, dnnl: Library) -> PrimitiveSequence:
        """Compiles it.

        Raises:
            OneDnnError: oneDNN has no implementation.
        """
        layout, reach = image_layout(dnnl, self.images), self.window // 2
        window = (dims((1, 1)), dims((self.window, self.window)), dims((0, 0)))
        main = dnnl.new(
            "dnnl_pooling_forward_primitive_desc_create",
            *(dnnl.engine, interface.FORWARD_INFERENCE, interface.AVERAGE, layout, layout),
            *(*window, dims((reach, reach)), dims((reach, reach)), None),
        )
        sequence = PrimitiveSequence(dnnl)
        x, y = sequence.array(layout), sequence.array(layout)
        sequence.add(main, {interface.ARG_SOURCE: x, interface.ARG_DESTINATION: y})
        return sequence
