"""Arrays that view a memory-mapped checkpoint file."""

from __future__ import annotations

import mmap
import os

import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import shown


def whole_file(path: str) -> memoryview:
    """A file, mapped read-only; closed when nothing views it any more.

    Raises:
        OSError: It cannot be read.
        UserError: It is empty or no regular file.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no file '{shown(os.path.basename(path), 60)}'. Put it there")
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise UserError(f"'{shown(os.path.basename(path), 60)}' is empty. Download it again")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def elements(data: mmap.mmap | memoryview, start: int, count: int, dtype: np.dtype) -> np.ndarray:
    """The elements at one place of a file.

    Args:
        data: The whole file, mapped read-only or in memory.
        start: Offset of the first element, in bytes.
        count: Number of elements.
        dtype: Their type, in the file's byte order.

    Returns:
        A read-only array of shape (count,), aligned for `dtype`. It views the file unless that
        would leave it unaligned.

    Raises:
        UserError: The file ends before the last element.
    """
    end = start + count * dtype.itemsize
    if end > len(data):
        raise UserError(
            f"it is cut short: {end} bytes are needed, and there are {len(data)}. "
            "Download the file again"
        )
    if count == 0:
        return empty((0,), dtype)
    array = np.frombuffer(data, dtype, count, start)  # pyright: ignore[reportArgumentType]
    if not array.flags.aligned:
        # Compiled code that is handed the array may rely on alignment.
        array = array.copy()
        array.flags.writeable = False
    return array


def empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array without elements, whose other lengths come from a file.

    Raises:
        UserError: A length is larger than numpy permits.
    """
    try:
        return np.empty(shape, dtype)
    except (ValueError, OverflowError):
        raise UserError(
            f"a tensor has the impossible shape {shape}. Download the file again"
        ) from None
