"""Protocol Buffers by their wire format, without generated code: fields by number.

ONNX, Caffe and TensorFlow keep weights in such messages. A message is a list of fields, each a
number, a type and a value; nothing in it can be run. Numbers of fields are those of each format's
published schema. See protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_FIELDS = 5_000_000


class Message:
    """A message, of which a field may be absent, or be there several times.

    Args:
        data: The bytes of the message; what it gives are views of them.

    Raises:
        ValueError: They are not those of a message.
    """

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[int | memoryview]] = {}
        for count, (number, value) in enumerate(fields(data)):
            if count == _MAX_FIELDS:
                raise ValueError(f"a message has more than {_MAX_FIELDS} fields")
            self._fields.setdefault(number, []).append(value)

    def has(self, field: int) -> bool:
        """Whether a field is there."""
        return field in self._fields

    def number(self, field: int, default: int = 0) -> int:
        """An integer; of several the last, as the format has it."""
        found = self.numbers(field)
        return found[-1] if found else default

    def numbers(self, field: int) -> list[int]:
        """A list of integers, one by one or packed."""
        found: list[int] = []
        for value in self._fields.get(field, ()):
            if isinstance(value, int):
                found.append(value)
            else:
                place = 0
                while place < len(value):
                    number, place = varint(value, place)
                    found.append(number)
        return [number - 2**64 if number >= 2**63 else number for number in found]

    def bytes(self, field: int) -> memoryview | None:
        """A field of bytes; None if it is absent."""
        found = self._fields.get(field)
        return None if found is None else _view(found[-1])

    def text(self, field: int) -> str:
        """A field of text."""
        found = self.bytes(field)
        return "" if found is None else str(found, "utf-8", "replace")

    def texts(self, field: int) -> list[str]:
        """A list of texts."""
        return [str(_view(value), "utf-8", "replace") for value in self._fields.get(field, ())]

    def message(self, field: int) -> Message:
        """A field that is a message; an empty one if it is absent."""
        return Message(self.bytes(field) or memoryview(b""))

    def messages(self, field: int) -> list[Message]:
        """A list of messages."""
        return [Message(_view(value)) for value in self._fields.get(field, ())]

    def array(self, field: int, dtype: str) -> np.ndarray:
        """A list of numbers of fixed width, one by one or packed, as a read-only array."""
        kind = np.dtype(dtype)
        parts = []
        for value in self._fields.get(field, ()):
            data = struct.pack("<Q", value)[: kind.itemsize] if isinstance(value, int) else value
            parts.append(np.frombuffer(data, kind))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.zeros(0, kind)


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(number, value) of each field in order: an integer, or a view of the bytes.

    Raises:
        ValueError: A field ends after the message, or has no type of the format.
    """
    place = 0
    while place < len(data):
        tag, place = varint(data, place)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == _VARINT:
            value, place = varint(data, place)
            yield number, value
            continue
        if kind not in (_FIXED64, _BYTES, _FIXED32):
            raise ValueError(f"a field has the type {kind}")
        length = {_FIXED64: 8, _FIXED32: 4}.get(kind, 0)
        if kind == _BYTES:
            length, place = varint(data, place)
        end = place + length
        if end > len(data):
            raise ValueError("a field ends after its message")
        found = data[place:end]
        yield number, found if kind == _BYTES else int.from_bytes(found, "little")
        place = end


def varint(data: memoryview, place: int) -> tuple[int, int]:
    """An integer of seven bits a byte, and where it ends.

    Raises:
        ValueError: It ends after the bytes, or has more than ten.
    """
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a number ends after its message")
        byte = data[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & (2**64 - 1), place
    raise ValueError("a number has more than ten bytes")


def _view(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a field is a number where the schema has none")
    return value
