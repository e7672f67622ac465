"""The two containers of `torch.save`: a zip archive (PyTorch 1.6 and later) and, before, a stream.

Both hold one pickle that describes the tensors, and apart from it the raw storages they view.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import IO, Any, NamedTuple, cast

import numpy as np

from jtl.common.errors import UserError
from weights_convert.read.mapped import elements
from weights_convert.read.torch_entries import (
    MAX_WRAPPERS,
    first_names,
    has_tensors,
    kind_of,
    unwrap,
)
from weights_convert.read.torch_pickle import Settings, Storage, Tensor, load_pickle

# Views may repeat elements, so a small file can declare any number of bytes.
_MAX_EXPANSION = 8
_ALWAYS_EXPANDS_TO = 2**23

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001

_AGAIN = "Download the file again"
_BIG_ENDIAN = (
    "it was saved on a big-endian machine; only little-endian files are supported. Load it with "
    "PyTorch and save it again on a usual machine"
)


class Content(NamedTuple):
    """What was taken from a checkpoint, and what was not; see `readers.SourceFile`."""

    tensors: dict[str, np.ndarray]
    wrappers: tuple[str, ...]
    left_out: tuple[str, ...]
    entries: tuple[str, ...]
    settings: dict[str, Any]
    value: object


def read_zip(data: mmap.mmap, entry: str | None = None) -> Content:
    """Reads an archive of <root>/data.pkl, <root>/data/<storage key>, <root>/byteorder and more.

    Args:
        data: The whole file.
        entry: The entry that holds the weights; None for the usual one.

    Returns:
        The tensors of its state dict.

    Raises:
        UserError: The archive is damaged, compressed, TorchScript, or none of `torch.save`'s.
    """
    records = _zip_records(data)
    if any(name.endswith("/archive_format") for name in records):
        raise UserError(
            "it is an archive of torch.export, which holds a program and is not run. Save its "
            "weights alone: torch.save(torch.export.load(FILE).state_dict, 'weights.pth')"
        )
    roots = [name.removesuffix("/data.pkl") for name in records if name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise UserError(
            f"it is a zip archive with {len(roots)} 'data.pkl' entries instead of 1; it holds "
            f"{first_names(records)}. If a checkpoint is inside, unpack the archive first"
        )
    root = roots[0]
    order = records.get(f"{root}/byteorder")
    if order is not None:
        start, stop = _record_range(data, order)
        if data[start:stop] != b"little":
            raise UserError(_BIG_ENDIAN)
    loaded = load_pickle(data, *_record_range(data, records[f"{root}/data.pkl"]))

    def elements_of(storage: Storage) -> np.ndarray:
        nbytes = storage.numel * storage.dtype.itemsize
        record = records.get(f"{root}/data/{storage.key}")
        if record is None or record.file_size != nbytes:
            seen = "missing" if record is None else f"{record.file_size} bytes long"
            raise UserError(
                f"its storage {storage.key[:60]!r} is {seen}; {nbytes} bytes are declared. {_AGAIN}"
            )
        return elements(data, _record_range(data, record)[0], storage.numel, storage.dtype)

    return _content(loaded.value, entry, elements_of, len(data))


def _zip_records(data: mmap.mmap) -> dict[str, zipfile.ZipInfo]:
    """The archive's directory, every entry of it stored as it is."""
    try:
        with zipfile.ZipFile(cast(IO[bytes], data)) as archive:
            records = archive.infolist()
    # What zipfile raises over a damaged directory is not documented, and varies.
    except Exception as error:
        raise UserError(
            f"it is a zip archive that is damaged or cut short ({error!r:.200}). {_AGAIN}"
        ) from error
    # Before anything else: its code is compressed.
    names = [record.filename for record in records]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise UserError(
            "it is a TorchScript archive, which holds a program and is not run. Save its weights "
            "alone, in PyTorch: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
        )
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
            raise UserError(
                f"it is a zip archive whose entry {record.filename[:60]!r} is compressed or "
                "encrypted, which `torch.save` never does. Nothing was unpacked. If a checkpoint "
                "is inside, unpack the archive first"
            )
    by_name = {record.filename: record for record in records}
    if len(by_name) != len(records):
        raise UserError(f"it is a zip archive that holds one name twice. {_AGAIN}")
    return by_name


def _record_range(data: mmap.mmap, record: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a stored entry's bytes start and stop, after comparing them with their checksum."""
    header = record.header_offset
    local = data[max(header, 0) : max(header, 0) + 30]
    if header < 0 or len(local) < 30 or not local.startswith(b"PK\x03\x04"):
        raise UserError(
            f"its zip entry {record.filename[:60]!r} is not where it should be. {_AGAIN}"
        )
    name_length, extra_length = struct.unpack("<HH", local[26:])
    start = header + 30 + name_length + extra_length
    stop = start + record.file_size
    if record.file_size != record.compress_size or stop > len(data):
        raise UserError(f"its zip entry {record.filename[:60]!r} is cut short. {_AGAIN}")
    # PyTorch writes 0 where it was told not to spend time on checksums.
    if record.CRC and zlib.crc32(memoryview(data)[start:stop]) != record.CRC:
        raise UserError(
            f"its zip entry {record.filename[:60]!r} does not match its checksum: the file is "
            f"damaged. {_AGAIN}"
        )
    return start, stop


def read_legacy(data: mmap.mmap, entry: str | None = None) -> Content:
    """Reads a stream of pickles (magic, version, machine, object, storage keys) and storages.

    Args:
        data: The whole file.
        entry: The entry that holds the weights; None for the usual one.

    Returns:
        The tensors of its state dict.

    Raises:
        UserError: The stream is damaged, big-endian, or none of `torch.save`'s.
    """
    values: list[Any] = []
    end = 0
    for _ in range(2):
        value, _, end = load_pickle(data, end, len(data))
        values.append(value)
        if values[0] != _LEGACY_MAGIC:
            raise UserError(
                f"it is a pickle of {kind_of(value)} that `torch.save` did not write. "
                "Save a dictionary of tensors as .safetensors, or with `torch.save`"
            )
    if values[1] != _LEGACY_VERSION:
        raise UserError(f"its stream is not of version {_LEGACY_VERSION}. {_AGAIN}")
    machine, _, end = load_pickle(data, end, len(data))
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UserError(_BIG_ENDIAN)
    value, storages, end = load_pickle(data, end, len(data))
    keys, _, end = load_pickle(data, end, len(data))
    starts = _legacy_storages(data, end, keys, storages)

    def elements_of(storage: Storage) -> np.ndarray:
        if storage.key not in starts:
            raise UserError(f"its storage {storage.key[:60]!r} is missing. {_AGAIN}")
        return elements(data, starts[storage.key], storage.numel, storage.dtype)

    return _content(value, entry, elements_of, len(data))


def _legacy_storages(
    data: mmap.mmap, end: int, keys: object, storages: dict[str, Storage]
) -> dict[str, int]:
    """The byte offset of every storage; each is its element count (int64), then its elements."""
    if not isinstance(keys, list) or not all(type(key) is str for key in keys):
        raise UserError(f"its list of storages is damaged. {_AGAIN}")
    starts: dict[str, int] = {}
    for key in keys:
        declared = storages.get(key)
        numel = int.from_bytes(data[end : end + 8], "little")
        if declared is None or end + 8 > len(data) or numel != declared.numel:
            raise UserError(f"its storage {key[:60]!r} is damaged or cut short. {_AGAIN}")
        starts[key] = end + 8
        end += 8 + numel * declared.dtype.itemsize
    if end > len(data):
        raise UserError(
            f"it is cut short: {end} bytes are needed, and there are {len(data)}. {_AGAIN}"
        )
    return starts


def _content(
    value: object, entry: str | None, elements_of: Callable[[Storage], np.ndarray], size: int
) -> Content:
    """Takes the wrappers off and views every storage once."""
    storages: dict[str, np.ndarray] = {}

    def viewed(tensor: Tensor) -> np.ndarray:
        key = tensor.storage.key
        if key not in storages:
            storages[key] = elements_of(tensor.storage)
        return tensor.view(storages[key])

    def fit(tensors: dict[str, Tensor]) -> bool:
        declared = sum(tensor.nbytes for tensor in tensors.values())
        return declared <= max(_MAX_EXPANSION * size, _ALWAYS_EXPANDS_TO)

    def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
        if not one or one.keys() != other.keys() or not fit(one) or not fit(other):
            return False
        return all(
            tensor.storage.dtype == other[key].storage.dtype
            and tensor.shape == other[key].shape
            and np.array_equal(viewed(tensor), viewed(other[key]))
            for key, tensor in one.items()
        )

    tensors, wrappers, left_out, entries = unwrap(value, entry, same)
    if not fit(tensors):
        declared = sum(tensor.nbytes for tensor in tensors.values())
        raise UserError(
            f"its tensors add up to {declared} bytes, but the file has only {size}. {_AGAIN}"
        )
    arrays = {name: viewed(tensor) for name, tensor in tensors.items()}
    return Content(arrays, wrappers, left_out, entries, _settings(value), value)


def _settings(value: object) -> dict[str, Any]:
    """The plain options that a training script kept beside the weights, by name."""
    if not isinstance(value, dict) or has_tensors(value):
        return {}
    options = value.get("args")
    found = getattr(options, "values", None) if isinstance(options, Settings) else options
    arch = {"arch": value["arch"]} if "arch" in value else {}
    return {
        name: option
        for name, option in {**arch, **(found if isinstance(found, dict) else {})}.items()
        if isinstance(name, str) and _is_plain(option)
    }


def _is_plain(option: object, depth: int = MAX_WRAPPERS) -> bool:
    """Whether it is a number, a text, or a dictionary of such; it may also contain itself."""
    if isinstance(option, dict) and depth:
        return all(type(k) is str and _is_plain(part, depth - 1) for k, part in option.items())
    return option is None or type(option) in (str, int, float, bool)
