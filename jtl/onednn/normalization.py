"""Batch normalization by oneDNN: statistics of the batch, optionally with a ReLU after it.

oneDNN adds a channel's pixels one by one, in float32: the mean is within some 1e-5 of a standard
deviation, the variance within 2e-5 of itself (16 images of 112 x 112 pixels), where XLA's sums are
a hundred times closer. With XLA's sums, which cannot take a channel while it is in the cache, a
step of DenseNet121 takes 1.14 times as long, and one of EfficientNet-Lite0 1.2 times. Training
does not see the difference; comparisons with other libraries do, and leave this operation out.
"""

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
    channel_layout,
    image_layout,
    workspace_bytes,
)


@dataclasses.dataclass(frozen=True)
class Normalization:
    """One batch normalization with the statistics of its batch.

    Attributes:
        kind: (y, mean, var, workspace) of (x, scale, bias), or (dx, dscale, dbias) of
            (x, dy, mean, var, scale, workspace). Without a ReLU there is no workspace.
        images: x's (N, H, W, C).
        epsilon: Added to the variance.
        relu: Whether y is the ReLU of the normalized images; the workspace then remembers
            where it was positive.
        workspace: Its size in bytes, as `workspace_bytes` gives it; 0 without one.
        dtype: Of x, y and their gradients; everything else is float32.
    """

    kind: Literal["normalization", "normalization_gradient"]
    images: tuple[int, ...]
    epsilon: float
    relu: bool
    workspace: int = 0
    dtype: Dtype = FLOAT32

    def results(self) -> tuple[Array, ...]:
        """Shape and dtype of what is computed."""
        image, channel = (self.images, self.dtype), (self.images[3:], FLOAT32)
        workspace = [((self.workspace,), UINT8)] if self.relu else []
        return image, channel, channel, *(workspace if self.kind == "normalization" else [])

    def build(self, dnnl: Library) -> PrimitiveSequence:
        """Compiles it.

        Raises:
            OneDnnError: oneDNN has no implementation.
        """
        x, channel = self._image(dnnl), channel_layout(dnnl, self.images[3])
        forward = self._forward(dnnl)
        sequence = PrimitiveSequence(dnnl)
        if self.kind == "normalization":
            names = ("SOURCE", "SCALE", "SHIFT", "DESTINATION", "MEAN", "VARIANCE")
            layouts, main = (x, channel, channel, x, channel, channel), forward
        else:
            names = ("SOURCE", "DIFF_DESTINATION", "MEAN", "VARIANCE", "SCALE")
            layouts = (x, x, channel, channel, channel)
            main = dnnl.new(
                "dnnl_batch_normalization_backward_primitive_desc_create",
                *(dnnl.engine, interface.BACKWARD, x, x, x, self.epsilon, self._flags()),
                # A hint of its own: oneDNN goes astray from one that was moved on.
                *(self._first(dnnl), None),
            )
            _wait_free(dnnl, main)
        arguments = {
            getattr(interface, f"ARG_{name}"): sequence.array(layout)
            for name, layout in zip(names, layouts, strict=True)
        }
        if self.relu:
            arguments[interface.ARG_WORKSPACE] = sequence.workspace(forward, self.workspace)
        if self.kind == "normalization_gradient":
            for name, layout in (("SOURCE", x), ("SCALE", channel), ("SHIFT", channel)):
                arguments[getattr(interface, f"ARG_DIFF_{name}")] = sequence.array(layout)
        sequence.add(main, arguments)
        return sequence

    def workspace_bytes(self, dnnl: Library) -> int:
        """What the workspace needs on this processor; OneDnnError if nothing implements it."""
        return workspace_bytes(dnnl, self._forward(dnnl)) if self.relu else 0

    def _image(self, dnnl: Library) -> c_void_p:
        return image_layout(dnnl, self.images, self.dtype)

    def _flags(self) -> int:
        affine = interface.USE_SCALE | interface.USE_SHIFT
        return affine | (interface.FUSE_RELU if self.relu else 0)

    def _forward(self, dnnl: Library) -> c_void_p:
        return _wait_free(dnnl, self._first(dnnl))

    def _first(self, dnnl: Library) -> c_void_p:
        """The implementation that oneDNN prefers."""
        x = self._image(dnnl)
        return dnnl.new(
            "dnnl_batch_normalization_forward_primitive_desc_create",
            *(dnnl.engine, interface.FORWARD_TRAINING, x, x, self.epsilon, self._flags(), None),
        )


def _wait_free(dnnl: Library, description: c_void_p) -> c_void_p:
    """Moves on to an implementation whose threads do not wait for each other by spinning.

    The preferred one does, three times in each call. On a machine with anything else to do, the
    thread that it waits for gets its turn at the scheduler's next tick: 4 ms for what takes a
    fraction of one.

    Raises:
        OneDnnError: There is no other.
    """
    while dnnl.implementation(description).startswith("bnorm_jit:"):
        dnnl.do("dnnl_primitive_desc_next_impl", description)
    return description
