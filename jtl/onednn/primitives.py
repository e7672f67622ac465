"""Convolutions as oneDNN primitives, built once for a geometry and run on raw pointers.

Images are NHWC and kernels HWIO, as everywhere in jtl. oneDNN works on NHWC images as they
are; kernels it takes in a blocked layout of its own, so each call reorders the kernel (or its
gradient), which is small beside the images.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import threading
from collections.abc import Sequence
from ctypes import c_int, c_void_p
from typing import Literal, cast

from jtl.onednn import library
from jtl.onednn.library import Dims, Library

Kind = Literal["forward", "input_gradient", "kernel_gradient"]
_ALIGNMENT = 64  # Bytes of a cache line, and of the widest vector.


@dataclasses.dataclass(frozen=True)
class Geometry:
    """One convolution.

    Attributes:
        kind: What is computed: y of (x, kernel), dx of (dy, kernel), or dkernel of (x, dy).
        images: x's (N, H, W, C).
        kernel: (height, width, C / groups, K).
        outputs: y's (N, H, W, K).
        strides: (vertical, horizontal).
        pads: (top, bottom, left, right).
        groups: Number of channel groups.
    """

    kind: Kind
    images: tuple[int, ...]
    kernel: tuple[int, ...]
    outputs: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    groups: int

    def encode(self) -> str:
        """As the attribute of a custom call, which goes into compiled programs."""
        lists = (self.images, self.kernel, self.outputs, self.strides, self.pads, (self.groups,))
        return "|".join([self.kind, *(",".join(map(str, numbers)) for numbers in lists)])

    @classmethod
    def decode(cls, text: str) -> Geometry:
        """The inverse of `encode`."""
        kind, *lists = text.split("|")
        images, kernel, outputs, strides, pads, (groups,) = (
            tuple(map(int, numbers.split(","))) for numbers in lists
        )
        return cls(cast(Kind, kind), images, kernel, outputs, strides, pads, groups)


class _Argument(ctypes.Structure):
    _fields_ = (("role", c_int), ("memory", c_void_p))


class _Primitive:
    """A oneDNN primitive with the memories it works on."""

    def __init__(self, dnnl: Library, description: c_void_p, memories: dict[int, c_void_p]):
        self._dnnl = dnnl
        self._primitive = dnnl.new("dnnl_primitive_create", description)
        self._count = len(memories)
        self._arguments = (_Argument * self._count)(*(_Argument(*m) for m in memories.items()))

    def execute(self) -> None:
        status = self._dnnl.execute(
            self._primitive, self._dnnl.stream, self._count, self._arguments
        )
        if status != library.SUCCESS:
            raise library.OneDnnError("dnnl_primitive_execute", status)


class _Scratch:
    """Memory for a blocked kernel, shared by all convolutions: one runs at a time."""

    def __init__(self) -> None:
        self._size, self._raw, self.address = -1, None, 0

    def fit(self, size: int) -> int:
        if size > self._size:
            self._raw = ctypes.create_string_buffer(size + _ALIGNMENT)
            start = ctypes.addressof(self._raw)
            self.address = (start + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
            self._size = size
        return self.address


# oneDNN uses all cores for one convolution, so a second one beside it would gain nothing.
_LOCK = threading.Lock()
_SCRATCH = _Scratch()


class Convolution:
    """A geometry's convolution, ready to run.

    Raises:
        OneDnnError: oneDNN has no implementation for the geometry.
    """

    def __init__(self, dnnl: Library, geometry: Geometry):
        """Builds and compiles the primitives, in about a millisecond."""
        self._dnnl = dnnl
        self._kind = geometry.kind
        x = _images(dnnl, geometry.images)
        y = _images(dnnl, geometry.outputs)
        shape, strides = _kernel_layout(geometry.kernel, geometry.groups)
        plain = dnnl.new(
            *("dnnl_memory_desc_create_with_strides", len(shape), _dims(shape)),
            *(library.FLOAT32, _dims(strides)),
        )
        blocked = dnnl.new(
            *("dnnl_memory_desc_create_with_tag", len(shape), _dims(shape)),
            *(library.FLOAT32, library.ANY_LAYOUT),
        )
        top, bottom, left, right = geometry.pads
        window = (
            *(_dims(geometry.strides), _dims((0, 0))),  # A dilation of 0 is none.
            *(_dims((top, left)), _dims((bottom, right))),
        )
        forward = dnnl.new(
            "dnnl_convolution_forward_primitive_desc_create",
            *(dnnl.engine, library.FORWARD_TRAINING, library.DIRECT),
            *(x, blocked, None, y, *window, None),
        )
        if geometry.kind == "forward":
            main, query = forward, library.QUERY_WEIGHTS
            roles = (library.ARG_SOURCE, library.ARG_WEIGHTS, library.ARG_DESTINATION)
            layouts = (x, plain, y)
        elif geometry.kind == "input_gradient":
            main = dnnl.new(
                "dnnl_convolution_backward_data_primitive_desc_create",
                *(dnnl.engine, library.DIRECT, x, blocked, y, *window, forward, None),
            )
            query = library.QUERY_WEIGHTS
            roles = (library.ARG_DIFF_DESTINATION, library.ARG_WEIGHTS, library.ARG_DIFF_SOURCE)
            layouts = (y, plain, x)
        else:
            main = dnnl.new(
                "dnnl_convolution_backward_weights_primitive_desc_create",
                *(dnnl.engine, library.DIRECT, x, blocked, None, y, *window, forward, None),
            )
            query = library.QUERY_DIFF_WEIGHTS
            roles = (library.ARG_SOURCE, library.ARG_DIFF_DESTINATION, library.ARG_DIFF_WEIGHTS)
            layouts = (x, y, plain)
        chosen = c_void_p(dnnl.query(main, query, 0))
        self._scratch_size = dnnl.size(chosen)
        self._memories = [self._memory(layout) for layout in layouts]
        self._blocked = self._memory(chosen)
        outside = 2 if geometry.kind == "kernel_gradient" else 1
        plain_memory = self._memories[outside]
        self._main = _Primitive(
            dnnl,
            main,
            {r: self._blocked if i == outside else self._memories[i] for i, r in enumerate(roles)},
        )
        source, target = (plain, chosen) if outside == 1 else (chosen, plain)
        ends = (plain_memory, self._blocked) if outside == 1 else (self._blocked, plain_memory)
        self._reorder = _Primitive(
            dnnl,
            dnnl.new(
                "dnnl_reorder_primitive_desc_create",
                *(source, dnnl.engine, target, dnnl.engine, None),
            ),
            dict(zip((library.ARG_FROM, library.ARG_TO), ends, strict=True)),
        )

    def run(self, first: int, second: int, result: int) -> None:
        """Reads two arrays and writes the third, all given by their addresses."""
        handle = self._dnnl.set_handle
        with _LOCK:
            for memory, address in zip(self._memories, (first, second, result), strict=True):
                handle(memory, address)
            handle(self._blocked, _SCRATCH.fit(self._scratch_size))
            last = self._kind == "kernel_gradient"
            for primitive in (self._main, self._reorder) if last else (self._reorder, self._main):
                primitive.execute()
            self._dnnl.wait(self._dnnl.stream)

    def _memory(self, layout: c_void_p) -> c_void_p:
        return self._dnnl.new("dnnl_memory_create", layout, self._dnnl.engine, None)


@functools.lru_cache(maxsize=4096)
def convolution(geometry: Geometry) -> Convolution | None:
    """The convolution for a geometry, or None where oneDNN has none."""
    dnnl = library.load()
    if dnnl is None:
        return None
    try:
        return Convolution(dnnl, geometry)
    except library.OneDnnError as error:
        if error.status in (library.INVALID_ARGUMENTS, library.UNIMPLEMENTED):
            return None  # An empty image, say: XLA will know what to do.
        raise


def _images(dnnl: Library, shape: Sequence[int]) -> c_void_p:
    """NHWC in memory; oneDNN names dimensions in the order N, C, H, W."""
    n, h, w, c = shape
    return dnnl.new(
        *("dnnl_memory_desc_create_with_strides", 4, _dims((n, c, h, w))),
        *(library.FLOAT32, _dims((h * w * c, 1, w * c, c))),
    )


def _kernel_layout(kernel: Sequence[int], groups: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """HWIO in memory, as oneDNN's (groups,) O, I, H, W with strides."""
    height, width, inputs, outputs = kernel
    strides = (1, outputs, width * inputs * outputs, inputs * outputs)
    if groups == 1:
        return (outputs, inputs, height, width), strides
    per_group = outputs // groups
    return (groups, per_group, inputs, height, width), (per_group, *strides)


def _dims(numbers: Sequence[int]) -> ctypes.Array:
    return Dims(*numbers)
