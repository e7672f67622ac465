"""Writes checkpoints as TensorFlow does: an index, which is a table of LevelDB, and the bytes."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.read.crc32c import masked

_KINDS = {"float32": 1, "float64": 2, "int64": 9, "float16": 19}
_MAGIC = bytes.fromhex("57fb808b247547db")
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
PROGRAM, METADATA = "saved_model.pb", "keras_metadata.pb"


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def field(number: int, value: int | bytes | str) -> bytes:
    """A field of a message: an integer, or bytes of a length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def write_bundle(
    folder: Path,
    arrays: Mapping[str, np.ndarray],
    names: Mapping[str, str] | None = None,
    stem: str = "variables",
) -> Path:
    """A bundle of arrays by key, with a graph of objects that has `names` of keys; its index."""
    folder.mkdir(parents=True, exist_ok=True)
    content, entries = b"", {"": field(1, 1) + field(3, field(1, 1))}
    for key, array in sorted(arrays.items()):
        data = np.asarray(array, order="C").tobytes()
        shape = b"".join(field(2, field(1, side)) for side in array.shape)
        entries[key] = _entry(
            _KINDS[array.dtype.name], shape, len(content), len(data), masked(data)
        )
        content += data
    if names is not None:
        attributes = [
            field(1, "VARIABLE_VALUE") + field(2, name) + field(3, key)
            for key, name in names.items()
        ]
        graph = b"".join(field(1, field(2, attribute)) for attribute in attributes)
        data = varint(len(graph)) + b"sums" + graph
        entries[GRAPH] = _entry(7, b"", len(content), len(data), 0)
        content += data
    (folder / f"{stem}.data-00000-of-00001").write_bytes(content)
    path = folder / f"{stem}.index"
    path.write_bytes(_table(dict(sorted(entries.items()))))
    return path


def write_saved_model(
    folder: Path, arrays: Mapping[str, np.ndarray], config: Any = None, program: bytes = b""
) -> Path:
    """A SavedModel of Keras, whose variables are called as the keys of `arrays`."""
    places = {f"variables/{n}/.ATTRIBUTES/VARIABLE_VALUE": name for n, name in enumerate(arrays)}
    by_place = {place: arrays[name] for place, name in places.items()}
    write_bundle(folder / "variables", by_place, places)
    (folder / PROGRAM).write_bytes(field(1, 1) + field(2, program))
    if config is not None:
        node = field(3, "root") + field(4, "_tf_keras_network") + field(5, json.dumps(config))
        (folder / METADATA).write_bytes(field(1, node))
    return folder


def _entry(kind: int, shape: bytes, offset: int, size: int, checksum: int) -> bytes:
    sums = varint(6 << 3 | 5) + struct.pack("<I", checksum)
    return field(1, kind) + field(2, shape) + field(4, offset) + field(5, size) + sums


def _table(entries: Mapping[str, bytes], per_block: int = 16) -> bytes:
    """A table of blocks, an index of these, and a footer."""
    items = [(key.encode(), value) for key, value in entries.items()]
    out, index = b"", []
    for start in range(0, len(items), per_block):
        block = items[start : start + per_block]
        handle, out = _appended(out, block)
        index.append((block[-1][0], handle))
    metaindex, out = _appended(out, [])
    handle, out = _appended(out, index)
    return out + (metaindex + handle).ljust(40, b"\0") + _MAGIC


def _appended(out: bytes, items: list[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    """(a block's handle, the file with the block)."""
    content, before = b"", b""
    for key, value in items:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value))
        content += key[shared:] + value
        before = key
    content += struct.pack("<II", 0, 1)
    block = content + b"\0"
    handle = varint(len(out)) + varint(len(content))
    return handle, out + block + struct.pack("<I", masked(block))
