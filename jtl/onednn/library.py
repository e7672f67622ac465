"""The oneDNN shared library: found, loaded, and called."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import os
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_void_p
from typing import Any

from jtl.onednn import interface
from jtl.onednn.interface import CPU, IN_ORDER, SIGNATURES, SUCCESS

PACKAGES = ("onednn-cpu-gomp", "onednn-cpu-iomp", "onednn-cpu-tbb", "onednn")
"""PyPI's packages of the library, by the size of what they bring along."""
FILE_NAME = "libdnnl.so.3"
SWITCH = "JTL_ONEDNN"
"""Environment variable: 0 leaves oneDNN out."""


class OneDnnError(RuntimeError):
    """A call into oneDNN failed; `status` is its `dnnl_status_t`."""

    def __init__(self, function: str, status: int):
        super().__init__(f"{function} of oneDNN failed with status {status}")
        self.status = status


class Library:
    """The loaded library, an engine for the CPU and a stream on it.

    Attributes:
        dtypes: Names of those that this processor computes with.
    """

    def __init__(self, path: str):
        """Loads the library at `path`; OSError if that cannot be."""
        # OpenMP's threads would else spin after every call, on the cores that XLA goes on to
        # use. Read when the OpenMP library is loaded, and not changed if somebody has set it.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        self._library = ctypes.CDLL(path)
        for name, argtypes in SIGNATURES.items():
            getattr(self._library, name).argtypes = argtypes
        query = self._library.dnnl_primitive_desc_query_md
        query.argtypes, query.restype = (c_void_p, c_int, c_int), c_void_p
        size = self._library.dnnl_memory_desc_get_size
        size.argtypes, size.restype = (c_void_p,), c_size_t
        self.query, self.size = query, size
        self.engine = self.new("dnnl_engine_create", CPU, 0)
        self.stream = self.new("dnnl_stream_create", self.engine, IN_ORDER)
        isa = self._library.dnnl_get_effective_cpu_isa()
        self.dtypes = {"float32"}
        # On others it would be emulated, which is slower than float32.
        if isa & interface.AVX512_BF16 == interface.AVX512_BF16:
            self.dtypes.add("bfloat16")
        # Called with every convolution: without a look-up by name.
        self.execute = self._library.dnnl_primitive_execute
        self.set_handle = self._library.dnnl_memory_set_data_handle
        self.wait = self._library.dnnl_stream_wait

    def new(self, function: str, *args: Any) -> c_void_p:
        """Calls a function that creates an object, and gives the object.

        Raises:
            OneDnnError: It was not created.
        """
        created = c_void_p()
        status = getattr(self._library, function)(ctypes.byref(created), *args)
        if status != SUCCESS:
            raise OneDnnError(function, status)
        return created

    def do(self, function: str, *args: Any) -> None:
        """Calls a function that changes an object.

        Raises:
            OneDnnError: It failed.
        """
        status = getattr(self._library, function)(*args)
        if status != SUCCESS:
            raise OneDnnError(function, status)

    def implementation(self, description: c_void_p) -> str:
        """The name of what would run a primitive."""
        name = c_char_p()
        query = interface.QUERY_IMPLEMENTATION
        self.do("dnnl_primitive_desc_query", description, query, 0, ctypes.byref(name))
        return (name.value or b"").decode()


@functools.cache
def load() -> Library | None:
    """The library, or None where none is installed, can be loaded or is wanted."""
    if os.environ.get(SWITCH) == "0":
        return None
    for path in _candidates():
        try:
            return Library(path)
        # A damaged file, a missing runtime beside it, an interface of another version.
        except (OSError, AttributeError, OneDnnError):
            continue
    return None


def _candidates() -> Iterator[str]:
    for package in PACKAGES:
        try:
            files = importlib.metadata.files(package) or ()
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (str(file.locate()) for file in files if file.name == FILE_NAME)
