"""safetensors files as arrays that view the memory-mapped file."""

from __future__ import annotations

import math
import mmap

import ml_dtypes
import numpy as np
import safetensors

from jtl.common.errors import UserError
from weights_convert.read.mapped import elements, empty

_DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
_MAX_DIMENSIONS = 32

_AGAIN = "Download the file again"


def read(path: str, data: mmap.mmap) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Lets the package check the header, then views the tensors in place.

    The package's own numpy reader copies every tensor, and knows bfloat16 only if something else
    happens to have registered it with numpy.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise UserError(
            f"it is a safetensors file cut short: its header needs {start} bytes, and there are "
            f"{len(data)}. {_AGAIN}"
        )
    tensors: dict[str, np.ndarray] = {}
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            # The format allows no holes, and the package checks that, so lengths give offsets.
            for name in file.offset_keys():
                piece = file.get_slice(name)
                shape = tuple(piece.get_shape())
                array = _array(data, start, name, piece.get_dtype(), shape)
                start += array.nbytes
                tensors[name] = array
    except safetensors.SafetensorError as error:
        raise UserError(f"its safetensors header is damaged ({error!s:.200}). {_AGAIN}") from error
    if start != len(data):
        raise UserError(f"its safetensors header describes {start} of {len(data)} bytes. {_AGAIN}")
    if not tensors:
        raise UserError("it is a safetensors file without tensors. Choose one that holds weights")
    return tensors, metadata


def _array(
    data: mmap.mmap, start: int, name: str, dtype_name: str, shape: tuple[int, ...]
) -> np.ndarray:
    dtype = _DTYPES.get(dtype_name)
    if dtype is None:
        raise UserError(
            f"its tensor {name[:60]!r} is of type {dtype_name}. Allowed are "
            f"{', '.join(_DTYPES)}. Convert it to one of them first"
        )
    if len(shape) > _MAX_DIMENSIONS:
        raise UserError(
            f"its tensor {name[:60]!r} has {len(shape)} dimensions. Allowed are {_MAX_DIMENSIONS}. "
            f"{_AGAIN}"
        )
    if 0 in shape:
        return empty(shape, dtype)
    return elements(data, start, math.prod(shape), dtype).reshape(shape)
