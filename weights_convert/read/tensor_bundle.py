"""TensorFlow's tensor bundles: `NAME.index` and `NAME.data-00000-of-00001`, without TensorFlow.

The index is a table of LevelDB (its doc/table_format.md): sorted keys, each without the beginning
that it shares with the one before it. A value is a `BundleEntryProto` (TensorFlow's
tensor_bundle.proto): type, shape, place and checksum of a tensor.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import ml_dtypes
import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import shown
from weights_convert.read import mapped
from weights_convert.read.crc32c import masked
from weights_convert.read.protobuf import Message, varint

SUFFIX = ".index"
_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER = 48
_TRAILER = 5
_TYPES: dict[int, type] = {
    **{1: np.float32, 2: np.float64, 3: np.int32, 4: np.uint8, 5: np.int16, 6: np.int8},
    **{9: np.int64, 10: np.bool_, 14: ml_dtypes.bfloat16, 17: np.uint16, 19: np.float16},
    **{22: np.uint32, 23: np.uint64},
}
"""By the number in TensorFlow's types.proto."""
_STRING = 7
_MAX_ENTRIES, _MAX_DIMENSIONS, _MAX_SHARDS = 1_000_000, 8, 10_000
_AGAIN = "Download the folder again"


class Entry(NamedTuple):
    """Where a tensor is."""

    kind: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


class Bundle:
    """A bundle's index, and its files.

    Args:
        path: The index.

    Raises:
        UserError: It is damaged, or a file that it names is missing.
        OSError: It cannot be read.
    """

    def __init__(self, path: str) -> None:
        if not path.endswith(SUFFIX):
            raise UserError(
                "it is a table of a TensorFlow checkpoint, but its name does not end in .index: "
                "perhaps one of TensorFlow before 1.0. Name the .index file, or load it there and "
                "save it again with tf.compat.v1.train.Saver"
            )
        try:
            found = dict(_table(mapped.whole_file(path)))
            header = Message(found.pop(b""))
            if header.number(2):
                raise ValueError("its numbers are big-endian")
            shards = header.number(1)
            if not 0 < shards <= _MAX_SHARDS:
                raise ValueError(f"it has {shards} files")
            self.entries = {key.decode(): _entry(value) for key, value in found.items()}
        except UserError:
            raise
        except (ValueError, KeyError, IndexError, struct.error) as error:
            raise damaged(error) from error
        start = path.removesuffix(SUFFIX)
        self.files = [f"{start}.data-{n:05d}-of-{shards:05d}" for n in range(shards)]
        self._views: dict[int, memoryview] = {}

    def array(self, key: str) -> np.ndarray | None:
        """A tensor of numbers, as a read-only view of its file; None of any other type.

        Raises:
            UserError: It is damaged: its checksum is another, or its file ends before it.
        """
        entry = self.entries[key]
        if entry.kind not in _TYPES:
            return None
        dtype = np.dtype(_TYPES[entry.kind]).newbyteorder("<")
        count = math.prod(entry.shape)
        if count * dtype.itemsize != entry.size:
            raise damaged(
                ValueError(f"'{shown(key, 60)}' of shape {entry.shape} has {entry.size} bytes")
            )
        if not count:
            return mapped.empty(entry.shape, dtype)
        data = self._bytes(key, entry)
        return mapped.elements(data, 0, count, dtype).reshape(entry.shape)

    def string(self, key: str) -> bytes:
        """A tensor of one text: its length, the checksum of that, and its bytes."""
        entry = self.entries[key]
        if entry.kind != _STRING or entry.shape:
            raise damaged(ValueError(f"'{shown(key, 60)}' is no text"))
        # The checksum of texts counts the length in another form, which whoever parses it does not
        # need: a text that is cut short is no message.
        data = self._place(entry)
        try:
            length, place = varint(data, 0)
        except ValueError as error:
            raise damaged(error) from error
        if place + 4 + length != len(data):
            raise damaged(ValueError(f"'{shown(key, 60)}' has {len(data)} bytes"))
        return bytes(data[place + 4 :])

    def _bytes(self, key: str, entry: Entry) -> memoryview:
        data = self._place(entry)
        if masked(data) != entry.checksum:
            raise damaged(ValueError(f"the checksum of '{shown(key, 60)}' is another"))
        return data

    def _place(self, entry: Entry) -> memoryview:
        if not 0 <= entry.shard < len(self.files) or entry.offset < 0 or entry.size < 0:
            raise damaged(ValueError(f"a tensor is in its file {entry.shard}"))
        if entry.shard not in self._views:
            self._views[entry.shard] = mapped.whole_file(self.files[entry.shard])
        view = self._views[entry.shard]
        if entry.offset + entry.size > len(view):
            raise damaged(ValueError("a tensor ends after its file"))
        return view[entry.offset : entry.offset + entry.size]


def is_index(data: memoryview) -> bool:
    """Whether a file ends as a table of LevelDB does."""
    return len(data) >= _FOOTER and data[-8:] == _MAGIC


def indices_in(folder: str) -> list[str]:
    """The indices of bundles in a folder, by their files' names, as paths, sorted."""
    names = sorted(os.listdir(folder))
    shards = {m[1] for name in names if (m := re.fullmatch(r"(.+)\.data-\d{5}-of-\d{5}", name))}
    return [
        os.path.join(folder, name)
        for name in names
        if name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in shards
    ]


def damaged(error: Exception) -> UserError:
    """The refusal of a damaged bundle."""
    return UserError(f"it is a checkpoint of TensorFlow that is damaged ({error!s:.200}). {_AGAIN}")


def _table(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of a table, in order."""
    if not is_index(data):
        raise ValueError("it does not end as a table does")
    footer = data[-_FOOTER:]
    place = 0
    for _ in range(2):  # Of the block of other blocks that there are, which is not needed.
        _, place = varint(footer, place)
    count = 0
    for _, handle in _block(data, footer[place:]):
        for key, value in _block(data, handle):
            count += 1
            if count > _MAX_ENTRIES:
                raise ValueError(f"it has more than {_MAX_ENTRIES} entries")
            yield key, value


def _block(data: memoryview, handle: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of the block at a place: two integers, its offset and its size."""
    offset, place = varint(handle, 0)
    size, _ = varint(handle, place)
    if offset + size + _TRAILER > len(data):
        raise ValueError("a block ends after the file")
    content = data[offset : offset + size]
    kind, checksum = struct.unpack_from("<BI", data, offset + size)
    if kind:
        raise ValueError("it is compressed, which TensorFlow does not do")
    if masked(data[offset : offset + size + 1]) != checksum:
        raise ValueError("the checksum of a block is another")
    restarts = struct.unpack_from("<I", content, size - 4)[0]
    end = size - 4 * (restarts + 1)
    if end < 0:
        raise ValueError("a block has more restarts than bytes")
    place, key = 0, b""
    while place < end:
        shared, place = varint(content, place)
        own, place = varint(content, place)
        length, place = varint(content, place)
        if shared > len(key) or place + own + length > end:
            raise ValueError("an entry ends after its block")
        key = key[:shared] + bytes(content[place : place + own])
        place += own
        yield key, content[place : place + length]
        place += length


def _entry(value: memoryview) -> Entry:
    message = Message(value)
    if message.has(7):
        raise ValueError("a tensor is in slices")
    shape = tuple(side.number(1) for side in message.message(2).messages(2))
    if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError(f"a tensor of shape {shape}")
    kind, shard, offset, size, checksum = (message.number(field) for field in (1, 3, 4, 5, 6))
    return Entry(kind, shape, shard, offset, size, checksum)


def names(bundle: Bundle) -> list[tuple[str, str]]:
    """(name that a variable had in the graph, its key) of each.

    Of a checkpoint of objects (TensorFlow 2) the graph of objects has the names; of one of
    variables (TensorFlow 1) they are the keys.
    """
    graph = "_CHECKPOINTABLE_OBJECT_GRAPH"
    if graph not in bundle.entries:
        return [(key, key) for key in bundle.entries]
    found = {}
    try:
        for node in Message(memoryview(bundle.string(graph))).messages(1):
            for attribute in node.messages(2):
                name, key = attribute.text(2), attribute.text(3)
                if key in bundle.entries:
                    found[key] = name or key
    except UserError:
        raise
    except ValueError as error:
        raise damaged(error) from error
    return [(name, key) for key, name in found.items()]
