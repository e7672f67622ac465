"""Parquet files of encoded images and labels, in the layout of Hugging Face or a plain one."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.sources.encoded import EncodedSplit
from jtl.data.sources.labels import distinct, indexed
from jtl.data.splits import OpenedSource, class_problems, split_of

_IMAGE_COLUMNS = ("image", "img", "picture", "bytes")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
_MEMORY_SHARE = 0.5
"""Of the free memory, for the encoded images."""


class _Columns(NamedTuple):
    """Where images and labels stand.

    `image` is the column's name, `field` its path down to the bytes.
    """

    image: str
    field: str
    label: str
    class_names: list[str] | None


def load_parquet(patterns: str) -> OpenedSource:
    """Open Parquet files; their encoded images are kept in memory, as they are.

    The images are a column of bytes or, as of Hugging Face, a struct with a field `bytes`; the
    labels are a column of integers or strings. Names of classes come from the metadata that
    Hugging Face's `datasets` writes. Files are of the split that their name or their folder's
    names, such as `train-00000-of-00002.parquet` or `train/0000.parquet`; without such names all
    are train.

    Args:
        patterns: Paths, separated by commas: files, folders, or patterns with `*`.

    Raises:
        UserError: If pyarrow is missing, files cannot be read, or they hold no such columns.
    """
    parquet = _library()
    files = _by_split(_files(patterns))
    readers = {}
    for path in (path for paths in files.values() for path in paths):
        try:
            readers[path] = parquet.ParquetFile(path, memory_map=True)
        except (OSError, ValueError) as error:  # Arrow's own errors are of these kinds.
            raise _unreadable(path, error) from error
    columns = _common_columns(readers)
    _check_memory(patterns, readers, columns)
    labels, parts = {}, {}
    for split, paths in files.items():
        loaded = [_read(readers[path], path, columns) for path in paths]
        parts[split] = [images for images, _ in loaded]
        labels[split] = np.concatenate([values for _, values in loaded])
        if not len(labels[split]):
            raise UserError(f"The {split} split of {patterns} has no rows.")
    class_names, labels, notes = indexed(labels, columns.class_names, patterns)
    splits = {
        split: _split(f"{patterns} ({split})", files[split], parts[split], values)
        for split, values in labels.items()
    }
    problems = class_problems(patterns, class_names, splits)
    return OpenedSource(class_names, splits, tuple(notes), tuple(problems), _fingerprint(readers))


def _library() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Parquet files are read with pyarrow, which is not installed. "
            "Install it: pip install 'jtl[parquet]'"
        ) from error
    return pyarrow.parquet


def _files(patterns: str) -> list[Path]:
    found: list[Path] = []
    for pattern in patterns.split(","):
        place = os.path.expanduser(pattern.strip())
        if os.path.isdir(place):
            matches = sorted(map(str, Path(place).rglob("*.parquet")))
        else:
            matches = [place] if os.path.isfile(place) else sorted(glob.glob(place, recursive=True))
        if not matches:
            raise UserError(
                f"There are no Parquet files '{pattern.strip()}'. Give files, folders of .parquet "
                "files or patterns such as 'data/*.parquet', separated by commas."
            )
        found += map(Path, matches)
    return list(dict.fromkeys(found))


def _by_split(files: Sequence[Path]) -> dict[str, list[Path]]:
    """The files of every split, train first."""
    by_split: dict[str | None, list[Path]] = {}
    for path in files:
        words = [split_of(word) for word in re.split(r"[-_.\s]+", path.stem)]
        named = {word for word in words if word} or {split_of(path.parent.name)} - {None}
        if len(named) > 1:
            raise UserError(f"{path} names several splits: rename it to the one that it holds.")
        by_split.setdefault(next(iter(named), None), []).append(path)
    if set(by_split) == {None}:
        return {"train": by_split[None]}
    if None in by_split:
        names = [path.name for path in by_split[None]]
        raise UserError(
            f"Some Parquet files name a split and others do not: {listed(names)}. Name them like "
            "train-00000.parquet, validation-00000.parquet and test-00000.parquet, or leave "
            "them out."
        )
    if "train" not in by_split:
        raise UserError(f"There is no train split among {listed(p.name for p in files)}.")
    return {split: by_split[split] for split in ("train", "val", "test") if split in by_split}


def _common_columns(readers: Mapping[Path, Any]) -> _Columns:
    """The columns of all files.

    Raises:
        UserError: A file has none, or has other ones, or other classes, than the first.
    """
    found = {path: _columns(reader.schema_arrow, path) for path, reader in readers.items()}
    first = next(iter(found))
    for path, columns in found.items():
        if columns != found[first]:
            told = [
                f"{p}: {c.image}, {c.label}, {c.class_names}"
                for p, c in ((first, found[first]), (path, columns))
            ]
            raise UserError(
                "Parquet files differ in their columns or classes:\n  " + "\n  ".join(told)
            )
    return found[first]


def _columns(schema: Any, path: Path) -> _Columns:
    import pyarrow as pa

    features = _features(schema)
    images, labels = {}, []
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            images[field.name] = f"{field.name}.bytes"
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            images[field.name] = field.name
        elif pa.types.is_integer(kind) or _is_text(kind):
            labels.append(field.name)
    classes = [name for name in labels if features.get(name, {}).get("_type") == "ClassLabel"]
    marked = [name for name in images if features.get(name, {}).get("_type") == "Image"]
    image = _choose("images", marked or list(images), _IMAGE_COLUMNS, schema, path)
    label = _choose("labels", classes or labels, _LABEL_COLUMNS, schema, path)
    names = features.get(label, {}).get("names")
    return _Columns(image, images[image], label, names and distinct(names, str(path)))


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` notes of the columns; empty without it."""
    try:
        stored = json.loads((schema.metadata or {})[b"huggingface"])
        features = stored["info"]["features"]
        return {k: v for k, v in features.items() if isinstance(v, dict)}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def _choose(
    what: str, candidates: Sequence[str], usual: Sequence[str], schema: Any, path: Path
) -> str:
    if len(candidates) == 1:
        return candidates[0]
    for name in usual:
        if name in candidates:
            return name
    wanted = {
        "images": "bytes, or a struct with a field 'bytes', best called 'image'",
        "labels": "integers or strings, best called 'label'",
    }[what]
    told = ", ".join(f"{field.name} ({field.type})" for field in schema)
    raise UserError(
        f"{path} has {'no' if not candidates else 'more than one'} column that could hold the "
        f"{what}: {wanted}. Its columns are {told}."
    )


def _check_memory(patterns: str, readers: Mapping[Path, Any], columns: _Columns) -> None:
    needed = 0
    for reader in readers.values():
        for group in range(reader.metadata.num_row_groups):
            row_group = reader.metadata.row_group(group)
            for index in range(row_group.num_columns):
                column = row_group.column(index)
                if column.path_in_schema == columns.field:
                    needed += column.total_uncompressed_size
    free = psutil.virtual_memory().available
    if needed > free * _MEMORY_SHARE:
        raise UserError(
            f"{patterns} holds {needed / 1e9:.1f} GB of images, more than half of the "
            f"{free / 1e9:.1f} GB of memory that are free. Parquet has no fast way to single "
            "images: use fewer files, or write the images to class folders."
        )


def _read(reader: Any, path: Path, columns: _Columns) -> tuple[Any, np.ndarray]:
    """The encoded images (a chunked array of bytes) and the labels of a file."""
    import pyarrow as pa

    try:
        table = reader.read(columns=[columns.field, columns.label])
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    images, labels = table[columns.image], table[columns.label]
    if pa.types.is_struct(images.type):
        images = pa.chunked_array(
            [chunk.field("bytes") for chunk in images.chunks],
            images.type.field("bytes").type,
        )
    if labels.null_count:
        row = next(i for i, value in enumerate(labels) if not value.is_valid)
        raise UserError(
            f"{path} has {labels.null_count} row(s) without a label, for example row {row}. "
            "Remove them."
        )
    values = labels.to_numpy()
    return images, values.astype(object) if _is_text(labels.type) else values


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _split(
    where: str, paths: Sequence[Path], parts: Sequence[Any], labels: np.ndarray
) -> EncodedSplit:
    import pyarrow as pa

    images = pa.chunked_array([chunk for part in parts for chunk in part.chunks])

    def fetch(row: int, limit: int) -> bytes:
        value = images[row].as_py()
        if value is None:
            raise ValueError("the row holds no image's bytes, only its path or nothing")
        return value if limit < 0 else value[:limit]

    top = os.path.commonpath([path.parent for path in paths])
    names = [
        f"{path.relative_to(top)}[{row}]"
        for path, part in zip(paths, parts, strict=True)
        for row in range(len(part))
    ]
    return EncodedSplit(where, names, labels, fetch, stored_bytes=max(images.nbytes, 1))


def _fingerprint(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is not a readable Parquet file ({error}). It may be damaged or incomplete: copy "
        "or download it again."
    )
