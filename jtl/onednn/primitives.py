"""Short sequences of oneDNN primitives, built once and run on the addresses of arrays.

Images are NHWC and kernels HWIO, as everywhere in jtl. oneDNN names dimensions in another order
but works on memory as it lies.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from ctypes import c_int, c_void_p
from typing import Literal

from jtl.onednn import interface, library
from jtl.onednn.interface import Dims
from jtl.onednn.library import Library

Dtype = Literal["float32", "bfloat16"]
"""Of images and kernels. What is kept per channel is always float32, and so are all sums."""
FLOAT32: Dtype = "float32"
UINT8 = "uint8"
Array = tuple[tuple[int, ...], str]
"""Shape and dtype."""
_NUMBERS: dict[Dtype, int] = {"float32": interface.FLOAT32, "bfloat16": interface.BFLOAT16}
_ALIGNMENT = 64  # Bytes of a cache line, and of the widest vector.


class _Argument(ctypes.Structure):
    _fields_ = (("role", c_int), ("memory", c_void_p))


class _Scratch:
    """Memory for blocked kernels, shared by all programs: one runs at a time."""

    def __init__(self) -> None:
        self._size, self._raw, self.address = -1, None, 0

    def fit(self, size: int) -> int:
        if size > self._size:
            self._raw = ctypes.create_string_buffer(size + _ALIGNMENT)
            start = ctypes.addressof(self._raw)
            self.address = (start + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT
            self._size = size
        return self.address


# oneDNN uses all cores for one primitive, so a second one beside it would gain nothing.
_LOCK = threading.Lock()
_SCRATCH = _Scratch()


class PrimitiveSequence:
    """Primitives that run one after the other, and the memories they share.

    Attributes:
        dnnl: The library.
    """

    def __init__(self, dnnl: Library):
        self.dnnl = dnnl
        self._arrays: list[c_void_p] = []
        self._scratch: c_void_p | None = None
        self._scratch_size = 0
        self._steps: list[tuple[c_void_p, int, ctypes.Array]] = []

    def array(self, description: c_void_p) -> c_void_p:
        """The memory of the next array that `run` is given."""
        self._arrays.append(
            self.dnnl.new("dnnl_memory_create", description, self.dnnl.engine, None)
        )
        return self._arrays[-1]

    def scratch(self, description: c_void_p) -> c_void_p:
        """The memory for what lives only while the program runs; at most one."""
        assert self._scratch is None
        self._scratch = self.dnnl.new("dnnl_memory_create", description, self.dnnl.engine, None)
        self._scratch_size = self.dnnl.size(description)
        return self._scratch

    def workspace(self, forward: c_void_p, reserved: int) -> c_void_p:
        """The memory of the next array, what a forward primitive leaves for its gradient.

        Raises:
            OneDnnError: It needs more than the `reserved` bytes, as a program may that was
                compiled on another kind of processor.
        """
        if workspace_bytes(self.dnnl, forward) > reserved:
            raise library.OneDnnError("the workspace", interface.UNIMPLEMENTED)
        return self.array(_workspace(self.dnnl, forward))

    def add(self, description: c_void_p, arguments: Mapping[int, c_void_p]) -> None:
        """Adds a primitive with the memory of each of its arguments; compiles it."""
        primitive = self.dnnl.new("dnnl_primitive_create", description)
        listed = (_Argument * len(arguments))(*(_Argument(*one) for one in arguments.items()))
        self._steps.append((primitive, len(listed), listed))

    def run(self, *addresses: int) -> None:
        """Reads and writes arrays, given by their addresses in the order of `array`.

        Raises:
            OneDnnError: A primitive failed.
        """
        dnnl = self.dnnl
        with _LOCK:
            for memory, address in zip(self._arrays, addresses, strict=True):
                dnnl.set_handle(memory, address)
            if self._scratch is not None:
                dnnl.set_handle(self._scratch, _SCRATCH.fit(self._scratch_size))
            for primitive, count, arguments in self._steps:
                status = dnnl.execute(primitive, dnnl.stream, count, arguments)
                if status != interface.SUCCESS:
                    raise library.OneDnnError("dnnl_primitive_execute", status)
            dnnl.wait(dnnl.stream)


def strided_layout(
    dnnl: Library, shape: Sequence[int], strides: Sequence[int], dtype: Dtype = FLOAT32
) -> c_void_p:
    """The description of an array in memory."""
    return dnnl.new(
        *("dnnl_memory_desc_create_with_strides", len(shape), dims(shape)),
        *(_NUMBERS[dtype], dims(strides)),
    )


def any_layout(dnnl: Library, shape: Sequence[int], dtype: Dtype) -> c_void_p:
    """The description of an array that a primitive may lay out as it likes."""
    return dnnl.new(
        *("dnnl_memory_desc_create_with_tag", len(shape), dims(shape)),
        *(_NUMBERS[dtype], interface.ANY_LAYOUT),
    )


def image_layout(dnnl: Library, shape: Sequence[int], dtype: Dtype = FLOAT32) -> c_void_p:
    """The description of NHWC images; oneDNN's order is N, C, H, W."""
    n, h, w, c = shape
    return strided_layout(dnnl, (n, c, h, w), (h * w * c, 1, w * c, c), dtype)


def channel_layout(dnnl: Library, length: int) -> c_void_p:
    """The description of a value per channel."""
    return strided_layout(dnnl, (length,), (1,))


def workspace_bytes(dnnl: Library, forward: c_void_p) -> int:
    """What `PrimitiveSequence.workspace` of a forward primitive needs on this processor."""
    return dnnl.size(_workspace(dnnl, forward))


def _workspace(dnnl: Library, forward: c_void_p) -> c_void_p:
    return c_void_p(dnnl.query(forward, interface.QUERY_WORKSPACE, 0))


def dims(numbers: Sequence[int]) -> ctypes.Array:
    """Numbers as oneDNN takes them."""
    return Dims(*numbers)
