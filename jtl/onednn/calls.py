"""oneDNN's operations as JAX operations: XLA custom calls that Python serves.

The structures are those of XLA's C interface for foreign functions (xla/ffi/api/c_api.h,
version 0), which jaxlib promises to keep for at least a year after a change.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import Any, TypeVar

import jax
import jax.ffi
import jax.numpy as jnp

from jtl.onednn import library, operations
from jtl.onednn.normalization import Normalization
from jtl.onednn.operations import Operation
from jtl.onednn.pooling import MaxPooling
from jtl.onednn.primitives import PrimitiveSequence

TARGET = "jtl_onednn"
_METADATA = 1
_INTERNAL_ERROR = 13


class _Extension(ctypes.Structure):
    _fields_ = (("struct_size", c_size_t), ("type", c_int), ("next", c_void_p))


class _Version(ctypes.Structure):
    _fields_ = (
        *(("struct_size", c_size_t), ("extension", c_void_p)),
        *(("major", c_int), ("minor", c_int)),
    )


class _Metadata(ctypes.Structure):
    _fields_ = (("struct_size", c_size_t), ("version", _Version), ("traits", c_uint32))


class _MetadataExtension(ctypes.Structure):
    _fields_ = (("base", _Extension), ("metadata", POINTER(_Metadata)))


class _ErrorArguments(ctypes.Structure):
    _fields_ = (
        *(("struct_size", c_size_t), ("extension", c_void_p)),
        *(("message", c_char_p), ("code", c_int)),
    )


class _Api(ctypes.Structure):
    _fields_ = (
        *(("struct_size", c_size_t), ("extension", c_void_p)),
        *(("version", _Version), ("internal", c_void_p)),
        ("error_create", CFUNCTYPE(c_void_p, POINTER(_ErrorArguments))),
    )


class _Buffer(ctypes.Structure):
    _fields_ = (
        *(("struct_size", c_size_t), ("extension", c_void_p)),
        *(("dtype", c_int), ("data", c_void_p), ("rank", c_int64), ("dims", c_void_p)),
    )


class _Buffers(ctypes.Structure):
    _fields_ = (
        *(("struct_size", c_size_t), ("extension", c_void_p)),
        *(("size", c_int64), ("types", c_void_p), ("items", POINTER(POINTER(_Buffer)))),
    )


class _Span(ctypes.Structure):
    _fields_ = (("pointer", c_void_p), ("length", c_size_t))


class _Attributes(ctypes.Structure):
    _fields_ = (
        *(("struct_size", c_size_t), ("extension", c_void_p)),
        *(("size", c_int64), ("types", c_void_p), ("names", c_void_p)),
        ("items", POINTER(POINTER(_Span))),
    )


class _CallFrame(ctypes.Structure):
    _fields_ = (
        *(("struct_size", c_size_t), ("extension", POINTER(_Extension))),
        *(("api", POINTER(_Api)), ("context", c_void_p), ("stage", c_int)),
        *(("arguments", _Buffers), ("results", _Buffers), ("attributes", _Attributes)),
    )


# JAX's own kind of context: what was traced outside is not used again inside.
_left_out = jax.make_user_context(default_value=())
_by_attribute: dict[bytes, PrimitiveSequence] = {}


@CFUNCTYPE(c_void_p, POINTER(_CallFrame))
def _serve(pointer):
    """XLA's call: first to ask for the interface's version, then once per operation."""
    frame = pointer.contents
    if frame.extension and frame.extension.contents.type == _METADATA:
        extension = ctypes.cast(frame.extension, POINTER(_MetadataExtension)).contents
        version = extension.metadata.contents.version
        version.major, version.minor = 0, 1
        return None
    try:
        span = frame.attributes.items[0].contents
        attribute = ctypes.string_at(span.pointer, span.length)
        program = _by_attribute.get(attribute)
        if program is None:
            program = operations.program(operations.decode(attribute.decode()))
            if program is None:
                raise RuntimeError("oneDNN is gone since the program was compiled")
            _by_attribute[attribute] = program
        program.run(*_addresses(frame.arguments), *_addresses(frame.results))
    except BaseException as error:  # Nothing may pass into the C code that calls.
        message = f"{type(error).__name__}: {error}".encode()
        arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, _INTERNAL_ERROR)
        return frame.api.contents.error_create(ctypes.byref(arguments))
    return None


def _addresses(buffers: _Buffers) -> list[int]:
    return [buffers.items[index].contents.data for index in range(buffers.size)]


def disabled(*operations: type[Operation]) -> contextlib.AbstractContextManager[Any]:
    """Traces without oneDNN inside: for programs that go elsewhere, or whose work is counted.

    Args:
        operations: What is not oneDNN's inside; default everything.
    """
    return _left_out(operations or (object,))


@functools.cache
def installed() -> bool:
    """Whether oneDNN can be used in this process."""
    # With an accelerator, nothing that matters runs on the CPU. Over several devices the compiler
    # divides programs, and cannot divide what it does not know: every device would do all.
    if jax.default_backend() != "cpu" or jax.device_count() > 1 or library.load() is None:
        return False
    jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(_serve), platform="cpu")
    return True


def computes(dtype: Any) -> bool:
    """Whether oneDNN can be used, and this processor has instructions for this number format."""
    dnnl = library.load() if installed() else None
    return dnnl is not None and jnp.dtype(dtype).name in dnnl.dtypes


def available(operation: Operation) -> bool:
    """Whether oneDNN is there and has an implementation; makes it ready if so."""
    return _usable(operation) and operations.program(operation) is not None


_WithWorkspace = TypeVar("_WithWorkspace", Normalization, MaxPooling)


def with_workspace(operation: _WithWorkspace) -> _WithWorkspace | None:
    """The operation with the size of its workspace; None where it is not `available`."""
    size = operations.workspace_bytes(operation) if _usable(operation) else None
    if size is None:
        return None
    operation = dataclasses.replace(operation, workspace=size)
    return operation if available(operation) else None


def _usable(operation: Operation) -> bool:
    return not isinstance(operation, _left_out.value) and computes(operation.dtype)


def call(operation: Operation, *arrays: jax.Array) -> list[jax.Array]:
    """What `operation` computes; only where `available`, on a CPU.

    Args:
        operation: What to compute.
        arrays: Its arguments, in the order that its class tells.
    """
    results = [jax.ShapeDtypeStruct(*array) for array in operation.results()]
    encoded = operations.encode(operation)
    return list(jax.ffi.ffi_call(TARGET, results)(*arrays, operation=encoded))
