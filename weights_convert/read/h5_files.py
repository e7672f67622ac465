"""Keras's HDF5 files as arrays that view the memory-mapped file.

Where the arrays lie is found out by `h5_index` in a process of its own: the HDF5 library trusts
what it reads, and a damaged or ill-meant file makes it crash or never return. Here nothing but
offsets, types and shapes arrives, and each is checked against the file.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import subprocess
import sys
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jtl.common.errors import UserError
from weights_convert.read.mapped import elements, empty

# Indexing a thousand layers takes a second.
_PATIENCE_SECONDS = 30

# Arrays may share bytes, so a small file can declare any number of them.
_MAX_EXPANSION = 8
_ALWAYS_EXPANDS_TO = 2**23

_AGAIN = "Download the file again"


class Content(NamedTuple):
    """Arrays by `layer/variable`, which of Keras's layouts, and what an export says."""

    tensors: dict[str, np.ndarray]
    format: str
    metadata: dict[str, str]


def read(path: str, data: mmap.mmap) -> Content:
    """Reads a file that Keras wrote.

    Args:
        path: The file.
        data: The whole of it.

    Returns:
        The tensors under keys such as `conv1_conv/kernel` and `conv1_bn/moving_mean`, layouts as in
        Keras (HWIO, and (in, out) of dense layers), and the format: `keras-weights-h5` or
        `keras-h5`.

    Raises:
        UserError: The file is damaged, holds what Keras does not write, or no weights.
    """
    index = _index(path)
    if "error" in index:
        raise UserError(index["error"])
    arrays = {
        key: (offset, np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name), tuple(shape))
        for key, (offset, name, shape) in index["arrays"].items()
    }
    declared = sum(math.prod(shape) * dtype.itemsize for _, dtype, shape in arrays.values())
    if declared > max(_MAX_EXPANSION * len(data), _ALWAYS_EXPANDS_TO):
        raise UserError(
            f"its arrays add up to {declared} bytes, but the file has only {len(data)}. {_AGAIN}"
        )
    tensors = {key: _array(data, *place) for key, place in arrays.items()}
    return Content(tensors, index["format"], index["metadata"])


def _array(
    data: mmap.mmap, offset: int | None, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    if offset is None or 0 in shape:
        return empty(shape, dtype)
    return elements(data, offset, math.prod(shape), dtype).reshape(shape)


def _index(path: str) -> dict[str, Any]:
    """What `h5_index` says of the file."""
    # The other process must find the same packages; a filter must not load a plugin there.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "HDF5_PLUGIN_PRELOAD": "::",
    }
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "weights_convert.read.h5_index", os.path.abspath(path)],
            capture_output=True,
            env=environment,
            stdin=subprocess.DEVNULL,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"it is an HDF5 file that is damaged: after {_PATIENCE_SECONDS} seconds the HDF5 "
            f"library had not found its way through it. {_AGAIN}"
        ) from None
    if done.returncode < 0:
        raise UserError(
            f"it is an HDF5 file that is damaged: the HDF5 library crashed on it, in a process of "
            f"its own (signal {-done.returncode}). {_AGAIN}"
        )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise UserError(
            f"it is an HDF5 file, and reading its index failed ({lines[-1]:.200}). {_AGAIN}, or "
            "reinstall h5py if other files fail as well"
        )
    return json.loads(done.stdout)
