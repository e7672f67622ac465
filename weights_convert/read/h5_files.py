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
import tempfile
import zipfile
from typing import IO, Any, NamedTuple, cast

import ml_dtypes
import numpy as np

from jtl.common.errors import UserError
from weights_convert.read.mapped import elements, empty

# Indexing a thousand layers takes a second.
_PATIENCE_SECONDS = 30

# Arrays may share bytes, so a small file can declare any number of them.
_MAX_EXPANSION = 8
_ALWAYS_EXPANDS_TO = 2**23

WEIGHTS = "model.weights.h5"
"""The weights inside a `.keras` archive."""

_AGAIN = "Download the file again"


class Content(NamedTuple):
    """Arrays by `layer/variable`, which of Keras's layouts, and what an export says.

    Attributes:
        tensors: The arrays.
        format: `keras-weights-h5`, `keras-h5` or `keras-archive`.
        metadata: Attributes of an export.
        config: The model's configuration; None if the file has none.
        scaling: What the file calls layers that scale an image.
    """

    tensors: dict[str, np.ndarray]
    format: str
    metadata: dict[str, str]
    config: dict[str, Any] | None = None
    scaling: tuple[str, ...] = ()


def is_archive(data: mmap.mmap) -> bool:
    """Whether a zip archive is one that Keras saves models in."""
    try:
        with zipfile.ZipFile(cast(IO[bytes], data)) as archive:
            return {WEIGHTS, "config.json"} <= set(archive.namelist())
    # As in `read_archive`; whoever reads it next says what is wrong.
    except Exception:
        return False


def read_archive(path: str) -> Content:
    """Reads a `.keras` archive: a zip of `config.json` and `model.weights.h5`.

    Args:
        path: The file.

    Raises:
        UserError: The archive is damaged, or its weights are not what Keras writes.
    """
    with zipfile.ZipFile(path) as archive:
        try:
            config = _parsed(_member(archive, "config.json"))
            weights = _member(archive, WEIGHTS)
        # What zipfile raises over a damaged archive is not documented, and varies.
        except Exception as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"it is a damaged .keras archive ({error!r:.200}). {_AGAIN}") from error
    if config is None:
        raise UserError(f"it is a .keras archive whose config.json is no JSON. {_AGAIN}")
    # The library that finds out where arrays lie takes files alone.
    with tempfile.TemporaryDirectory(prefix="jtl-") as folder:
        place = os.path.join(folder, WEIGHTS)
        with open(place, "wb") as file:
            file.write(weights)
        content = read(place, memoryview(weights))
    return content._replace(format="keras-archive", config=config)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes; zipfile compares them with their checksum."""
    size = archive.getinfo(name).file_size
    packed = archive.getinfo(name).compress_size
    if size > max(_MAX_EXPANSION * packed, _ALWAYS_EXPANDS_TO):
        raise UserError(
            f"its entry '{name}' unpacks to {size} bytes from {packed}, which weights never do. "
            f"{_AGAIN}"
        )
    return archive.read(name)


def _parsed(text: str | bytes | None) -> dict[str, Any] | None:
    try:
        config = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    return config if isinstance(config, dict) else None


def read(path: str, data: mmap.mmap | memoryview) -> Content:
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
    return Content(
        tensors,
        index["format"],
        index["metadata"],
        _parsed(index["config"]),
        tuple(index["scaling"]),
    )


def _array(
    data: mmap.mmap | memoryview, offset: int | None, dtype: np.dtype, shape: tuple[int, ...]
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
