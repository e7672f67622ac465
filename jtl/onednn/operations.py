"""Every operation that jtl asks of oneDNN: as text in compiled programs, and compiled."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, TypeVar, get_args

from jtl.onednn import interface, library
from jtl.onednn.convolution import Convolution
from jtl.onednn.library import Library, OneDnnError
from jtl.onednn.normalization import Normalization
from jtl.onednn.pooling import MaxPooling, NeighbourhoodAverage
from jtl.onednn.primitives import PrimitiveSequence

Operation = Convolution | Normalization | MaxPooling | NeighbourhoodAverage
_CLASSES = {cls.__name__: cls for cls in get_args(Operation)}


def encode(operation: Operation) -> str:
    """As the attribute of a custom call, which goes into compiled programs."""
    return json.dumps([type(operation).__name__, dataclasses.asdict(operation)])


def decode(text: str) -> Operation:
    """The inverse of `encode`."""
    name, stored = json.loads(text)
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()
    }
    return _CLASSES[name](**fields)


_Result = TypeVar("_Result")
_MISSING = (interface.INVALID_ARGUMENTS, interface.UNIMPLEMENTED, interface.NO_OTHER)


def _where_implemented(ask: Callable[[Library], _Result]) -> _Result | None:
    """What oneDNN answers, or None where it is not there or implements no such thing."""
    dnnl = library.load()
    if dnnl is None:
        return None
    try:
        return ask(dnnl)
    except OneDnnError as error:
        if error.status in _MISSING:
            return None  # An empty image, say: XLA will know what to do.
        raise


@functools.lru_cache(maxsize=4096)
def program(operation: Operation) -> PrimitiveSequence | None:
    """The compiled operation, or None where oneDNN has none."""
    return _where_implemented(operation.build)


@functools.lru_cache(maxsize=4096)
def workspace_bytes(operation: Normalization | MaxPooling) -> int | None:
    """What the workspace of an operation needs, or None where oneDNN has no such operation."""
    return _where_implemented(operation.workspace_bytes)
