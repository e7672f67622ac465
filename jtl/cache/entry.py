"""An array on disk, row by row, with a checksum for every few rows.

    ENTRY/
      values.npy   the array [N, ...]: NumPy's format; bfloat16 as uint16, which NumPy lacks
      entry.json   shape, dtype, the key's facts, checksums
    ENTRY.partial/
      values.npy   the rows so far
      checksums    of every finished chunk of them, 4 bytes each

A writer appends to the partial folder, and renames it when it is whole. What a killed process
leaves is gone on with: whole chunks whose checksums hold are kept. Nothing is forced to the
disk, as a checksum tells what a power failure has swallowed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import struct
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

VALUES, DESCRIPTION, CHECKSUMS = "values.npy", "entry.json", "checksums"
FORMAT_VERSION = 1
CHUNK_ROWS = 32
"""Rows for each checksum; what a kill costs at the most."""
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_READ_BYTES = 2**24
ALIGNMENT = 64
"""Bytes; what XLA asks of memory that is not its own."""


class DamagedEntry(Exception):
    """An entry is not as it was written; the message says what is wrong."""


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """The array of an entry.

    Attributes:
        shape: [N, ...].
        dtype: `float32` or `bfloat16`.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def numpy(self) -> np.dtype[Any]:
        """The dtype in memory."""
        return _DTYPES[self.dtype]

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.numpy.itemsize

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.row_bytes

    def empty(self) -> np.ndarray:
        """An array that is to be filled, in memory that XLA's CPU client takes without a copy."""
        raw = np.empty(self.nbytes + ALIGNMENT, np.uint8)
        first = -raw.ctypes.data % ALIGNMENT
        return raw[first : first + self.nbytes].view(self.numpy).reshape(self.shape)

    def chunks(self) -> int:
        """How many checksums there are."""
        return -(-self.shape[0] // CHUNK_ROWS)

    def header(self) -> bytes:
        """The first bytes of `values.npy`; it depends on nothing else."""
        stored = "<u2" if self.dtype == "bfloat16" else "<f4"
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": stored, "fortran_order": False, "shape": self.shape}
        )
        return header.getvalue()


@dataclasses.dataclass(frozen=True)
class Entry:
    """A whole entry, whose description is sound; its values are looked at by `load`.

    Attributes:
        folder: Where it lies.
        spec: Of its array.
        facts: What it was computed from.
        seconds: What computing it took, or the last part of it, if it was interrupted.
        checksums: CRC-32 of every chunk.
    """

    folder: Path
    spec: ArraySpec
    facts: Mapping[str, Any]
    seconds: float
    checksums: tuple[int, ...]

    @classmethod
    def read(cls, folder: Path, digest: str | None = None) -> Entry | None:
        """The entry in a folder, or None if there is none.

        Args:
            folder: The entry's.
            digest: Of the key that it must have; None for any.

        Raises:
            DamagedEntry: Its description is not as it was written.
        """
        try:
            text = (folder / DESCRIPTION).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            if folder.is_dir():
                raise DamagedEntry(f"{DESCRIPTION} is missing") from None
            return None
        except OSError as error:
            raise DamagedEntry(f"{DESCRIPTION}: {error.strerror or error}") from error
        try:
            stored = json.loads(text)
            said = stored.pop("sha256")
            if said != _sha256(stored) or digest not in (None, stored["digest"]):
                raise ValueError
            spec = ArraySpec(tuple(stored["shape"]), stored["dtype"])
            checksums = tuple(stored["checksums"])
            if stored["format_version"] != FORMAT_VERSION or len(checksums) != spec.chunks():
                raise ValueError
            return cls(folder, spec, stored["facts"], float(stored["seconds"]), checksums)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedEntry(f"{DESCRIPTION} has changed since it was written") from error

    def load(self, *, mapped: bool) -> np.ndarray:
        """The array, checked.

        Args:
            mapped: Leave it on disk, as a read-only map of the file.

        Raises:
            DamagedEntry: The file is not as it was written.
        """
        header, spec = self.spec.header(), self.spec
        try:
            with open(self.folder / VALUES, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size != len(header) + spec.nbytes or file.read(len(header)) != header:
                    raise DamagedEntry(f"{VALUES} has changed since it was written")
                values = None if mapped else spec.empty()
                rows = bytearray(CHUNK_ROWS * spec.row_bytes) if values is None else None
                flat = None if values is None else _bytes(values)
                for chunk, expected in enumerate(self.checksums):
                    begin = chunk * CHUNK_ROWS * spec.row_bytes
                    end = min(begin + CHUNK_ROWS * spec.row_bytes, spec.nbytes)
                    if flat is not None:
                        part = flat[begin:end]
                    else:
                        assert rows is not None
                        part = memoryview(rows)[: end - begin]
                    if file.readinto(part) != len(part) or zlib.crc32(part) != expected:
                        raise DamagedEntry(f"{VALUES} has changed since it was written")
                if values is not None:
                    return values
                offset = len(header)
                return np.memmap(file, spec.numpy, "r", offset, spec.shape)
        except OSError as error:
            raise DamagedEntry(f"{VALUES}: {error.strerror or error}") from error


class EntryWriter:
    """Appends rows to an entry's partial folder, from where an earlier process left it.

    One process at a time may write an entry; the caller holds a lock.
    """

    def __init__(self, folder: Path, spec: ArraySpec):
        """Makes the partial folder, or takes over what is sound of one.

        Raises:
            OSError: It cannot be written.
        """
        self.folder, self.spec = folder, spec
        self.checksums: list[int] = []
        self._waiting = np.empty((0, *spec.shape[1:]), spec.numpy)
        self._began = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        self._values = open(folder / VALUES, "a+b", buffering=0)  # noqa: SIM115
        try:
            self._notes = open(folder / CHECKSUMS, "a+b", buffering=0)  # noqa: SIM115
            try:
                self._take_over()
            except BaseException:
                self._notes.close()
                raise
        except BaseException:
            self._values.close()
            raise

    @property
    def rows(self) -> int:
        """How many rows are written: whole chunks."""
        return min(len(self.checksums) * CHUNK_ROWS, self.spec.shape[0])

    def append(self, rows: np.ndarray) -> None:
        """Takes the next rows, and writes them as far as they make whole chunks.

        Raises:
            OSError: There is no room, or the disk fails.
        """
        self._waiting = rows if not len(self._waiting) else np.concatenate([self._waiting, rows])
        while len(self._waiting):
            count = min(CHUNK_ROWS, self.spec.shape[0] - self.rows)
            if len(self._waiting) < count:
                return
            self._append(self._waiting[:count])
            self._waiting = self._waiting[count:]

    def _append(self, chunk: np.ndarray) -> None:
        assert (chunk.shape[1:], chunk.dtype) == (self.spec.shape[1:], self.spec.numpy)
        data = _bytes(np.ascontiguousarray(chunk))
        _write(self._values, data)
        checksum = zlib.crc32(data)
        _write(self._notes, memoryview(struct.pack("<I", checksum)))
        self.checksums.append(checksum)

    def written(self) -> np.ndarray:
        """The rows so far."""
        header = self.spec.header()
        values = np.empty((self.rows, *self.spec.shape[1:]), self.spec.numpy)
        self._values.seek(len(header))
        flat = _bytes(values)
        if flat.nbytes and _read(self._values, flat) != flat.nbytes:
            raise OSError(None, "the file has become shorter")
        return values

    def finish(self, target: Path, digest: str, facts: Mapping[str, Any]) -> None:
        """Gives the whole entry its name.

        Raises:
            OSError: That is not possible.
        """
        assert self.rows == self.spec.shape[0]
        self.close()
        seconds = round(time.perf_counter() - self._began, 3)
        stored = {
            "format_version": FORMAT_VERSION,
            "digest": digest,
            "shape": list(self.spec.shape),
            "dtype": self.spec.dtype,
            "facts": dict(facts),
            "seconds": seconds,
            "checksums": self.checksums,
        }
        text = json.dumps({**stored, "sha256": _sha256(stored)})
        (self.folder / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        self.folder.rename(target)
        with contextlib.suppress(OSError):
            (target / CHECKSUMS).unlink()

    def close(self) -> None:
        self._values.close()
        self._notes.close()

    def _take_over(self) -> None:
        header = self.spec.header()
        (self.folder / DESCRIPTION).unlink(missing_ok=True)
        self._values.seek(0)
        if self._values.read(len(header)) != header:
            self._restart(header)
            return
        self._notes.seek(0)
        noted = self._notes.read()
        count = min(len(noted) // 4, self.spec.chunks())
        for expected in struct.unpack(f"<{count}I", noted[: 4 * count]):
            rows = min(CHUNK_ROWS, self.spec.shape[0] - self.rows)
            part = bytearray(rows * self.spec.row_bytes)
            if _read(self._values, memoryview(part)) != len(part) or zlib.crc32(part) != expected:
                break
            self.checksums.append(expected)
        self._values.truncate(len(header) + self.rows * self.spec.row_bytes)
        self._notes.truncate(4 * len(self.checksums))

    def _restart(self, header: bytes) -> None:
        self._values.truncate(0)
        self._notes.truncate(0)
        _write(self._values, memoryview(header))


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _write(file: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _read(file: io.FileIO, into: memoryview) -> int:
    """Fills `into` as far as the file goes; how many bytes that were."""
    done = 0
    while done < len(into) and (count := file.readinto(into[done : done + _READ_BYTES])):
        done += count
    return done


def _sha256(stored: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
