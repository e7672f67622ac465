"""Reads a pickle of plain data and of NumPy arrays of bytes, without running anything in it.

A pickle is a program: it may import what it likes and call it. Here nothing is imported. The names
that NumPy writes lead to stand-ins, which only note what they are given; every other is refused.
"""

from __future__ import annotations

import io
import math
import pickle
from typing import Any

import numpy as np

_MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric",
            "numpy._core.numeric")  # fmt: skip


class NotPlain(ValueError):
    """A pickle that holds something else than plain data; the message says what."""


class _Noted:
    """Stands for an object: what it was made of, and the state that was given to it."""

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _DType(_Noted):
    pass


class _NDArray(_Noted):
    pass


class _Reconstructed(_Noted):
    pass


class _FromBuffer(_Noted):
    pass


def _encode(text: Any, encoding: Any) -> bytes:
    """Bytes as Python 3 writes them in the pickles of Python 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8"):
        raise NotPlain("it calls _codecs.encode with something else than text")
    return text.encode(encoding)


_STAND_INS = {
    "dtype": _DType, "ndarray": _NDArray, "_reconstruct": _Reconstructed,
    "_frombuffer": _FromBuffer,
}  # fmt: skip


# The one in Python, as the one in C can be made to ask for any amount of memory.
class _Unpickler(pickle._Unpickler):  # pyright: ignore[reportAttributeAccessIssue]
    def find_class(self, module: str, name: str) -> Any:
        if module in _MODULES and name in _STAND_INS:
            return _STAND_INS[name]
        if (module, name) == ("_codecs", "encode"):
            return _encode
        raise NotPlain(f"it would import {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise NotPlain("it refers to objects elsewhere")

    def get_extension(self, code: int) -> Any:
        raise NotPlain("it refers to objects by number")


def load(data: bytes) -> Any:
    """What a pickle holds, if it is plain: numbers, text, bytes, lists, dicts, and uint8 arrays.

    Args:
        data: The pickle, of Python 2 or 3.

    Returns:
        The data; text of Python 2 is bytes.

    Raises:
        NotPlain: It holds something else, or is damaged.
    """
    try:
        held = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except NotPlain:
        raise
    except Exception as error:  # Damage provokes many kinds.
        raise NotPlain(f"it is damaged or no pickle: {error or type(error).__name__}") from error
    return _with_arrays(held)


def _with_arrays(held: Any) -> Any:
    """The same with the arrays in it, which are looked for in dicts."""
    if isinstance(held, dict):
        return {key: _array(v) if isinstance(v, _Noted) else v for key, v in held.items()}
    return _array(held) if isinstance(held, _Noted) else held


def _array(noted: _Noted) -> np.ndarray:
    """An array of what NumPy noted of it, uint8."""
    shape = kind = raw = None
    fortran = False
    if isinstance(noted, _Reconstructed) and _is_tuple(noted.state, 5):
        _, shape, kind, fortran, raw = noted.state
    elif isinstance(noted, _FromBuffer) and len(noted.given) == 4:
        raw, kind, shape, order = noted.given
        fortran = order == "F"
    if not isinstance(kind, _DType) or not kind.given or kind.given[0] not in ("u1", b"u1"):
        raise NotPlain("it holds objects other than arrays of uint8")
    if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise NotPlain("it holds an array of no shape")
    if not isinstance(raw, (bytes, bytearray)) or math.prod(shape) != len(raw):
        raise NotPlain(f"it holds an array of the shape {list(shape)} with other bytes than that")
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _is_tuple(state: Any, length: int) -> bool:
    return isinstance(state, tuple) and len(state) == length
