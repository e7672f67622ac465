"""Parquet files of encoded images and labels, in the layout of Hugging Face or a plain one."""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from jtl.common.errors import UserError
from jtl.common.optional import require
from jtl.common.text import listed
from jtl.config.data import Task
from jtl.data.kinds import HEAD_BYTES, LFS_POINTER, is_lfs_pointer
from jtl.data.sources.encoded import EncodedSplit
from jtl.data.sources.label_sets import (
    indexed_sets,
    listed_sets,
    may_divide,
    sets_of,
    single_problems,
)
from jtl.data.sources.labels import indexed, plain_labels
from jtl.data.sources.names import splits_in
from jtl.data.sources.parquet_columns import Columns, common_columns
from jtl.data.splits import LeftOut, OpenedSource, class_problems

_MEMORY_SHARE = 0.5
"""The share of free memory that the encoded images may take."""


_LIKE_IDS = (20, 0.5)
"""From so many rows on, more different labels than this share of them look like identifiers."""


def load_parquet(
    patterns: str,
    image_column: str | None = None,
    label_column: str | None = None,
    task: Task = "auto",
    label_delimiter: str | None = None,
) -> OpenedSource:
    """Open Parquet files; their encoded images are kept in memory, as they are.

    The images are a column of bytes or, as of Hugging Face, a struct with a field `bytes`; the
    labels are a column of integers or strings called like labels, or the only other one. Names of
    classes come from the metadata that Hugging Face's `datasets` writes. Files are of the split
    that their name or their folder's names, such as `train-00000-of-00002.parquet` or
    `partial-train/0000.parquet`; without such names all are train.

    Args:
        patterns: Paths, separated by commas: files, folders, or patterns with `*`.
        image_column: The column of the images.
        label_column: The column of the labels.
        task: Whether images may have several labels: a list for each, or text that is divided.
        label_delimiter: What divides it; None for what is found there.

    Raises:
        UserError: If pyarrow is missing, files cannot be read, or they hold no such columns.
    """
    parquet = parquet_library()
    files, left_out = _by_split(_files(patterns))
    readers = {}
    for path in (path for paths in files.values() for path in paths):
        try:
            readers[path] = parquet.ParquetFile(path, memory_map=True)
        except (OSError, ValueError) as error:  # Arrow's own errors are of these kinds.
            raise _unreadable(path, error) from error
    several = task == "multilabel"
    columns = common_columns(readers, image_column, label_column, several=several)
    _check_memory(patterns, readers, columns)
    labels, parts = {}, {}
    for split, paths in files.items():
        loaded = [_read(readers[path], path, columns, several) for path in paths]
        parts[split] = [images for images, _ in loaded]
        labels[split] = np.concatenate([values for _, values in loaded])
        if not len(labels[split]):
            raise UserError(f"The {split} split of {patterns} has no rows.")
    problems: list[str] = []
    if several:
        how = columns, patterns, label_delimiter
        class_names, labels, notes, problems = _several(labels, *how)
    else:
        if label_column is None and columns.class_names is None:
            _refuse_identifiers(labels["train"], columns.label, patterns)
        class_names, labels, notes = indexed(labels, columns.class_names, patterns)
    splits = {
        split: _split(f"{patterns} ({split})", files[split], parts[split], values)
        for split, values in labels.items()
    }
    problems += class_problems(patterns, class_names, splits)
    return OpenedSource(
        class_names,
        splits,
        tuple(notes),
        tuple(problems),
        _fingerprint(readers),
        f"the column '{columns.label}'",
        left_out,
    )


def parquet_library() -> Any:
    """The module pyarrow.parquet; raises `UserError` where it is not installed."""
    return require("pyarrow.parquet", "reading Parquet files", "jtl[parquet]")


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


def _by_split(files: Sequence[Path]) -> tuple[dict[str, list[Path]], tuple[LeftOut, ...]]:
    """The files of every split, train first, and those of unlabelled images."""
    by_split: dict[str | None, list[Path]] = {}
    top = os.path.commonpath([path.parent for path in files])
    for path in files:
        # The file's own name counts before its folder's, and that before the one around it.
        above = reversed(path.parent.relative_to(top).parts)
        named = (splits_in(name) for name in (path.stem, *above))
        found = next(filter(None, named), set())
        if len(found) > 1:
            raise UserError(f"{path} names several splits: rename it to the one that it holds.")
        by_split.setdefault(next(iter(found), None), []).append(path)
    unlabelled = tuple(map(str, by_split.pop("unlabelled", ())))
    left_out = (LeftOut("files of unlabelled images", unlabelled),) if unlabelled else ()
    if set(by_split) == {None}:
        return {"train": by_split[None]}, left_out
    if None in by_split:
        names = [path.name for path in by_split[None]]
        raise UserError(
            f"Some Parquet files name a split and others do not: {listed(names)}. Name them like "
            "train-00000.parquet, validation-00000.parquet and test-00000.parquet, or leave "
            "them out."
        )
    for split, paths in by_split.items():
        names = [path.name for path in paths]
        if twice := next((name for name in names if split and names.count(name) > 1), None):
            folders = [str(path.parent) for path in paths if path.name == twice]
            raise UserError(
                f"Several folders have a file {twice} of the {split} split, as if each were a data "
                f"set of its own: {listed(folders, 5)}. Give one of them: parquet:{folders[0]}"
            )
    if "train" not in by_split:
        raise UserError(f"There is no train split among {listed(p.name for p in files)}.")
    order = [split for split in ("train", "val", "test") if split in by_split]
    return {split: by_split[split] for split in order}, left_out


def _refuse_identifiers(labels: np.ndarray, column: str, patterns: str) -> None:
    rows, share = _LIKE_IDS
    different = len(np.unique(labels.astype(str)))
    if len(labels) >= rows and different > share * len(labels):
        raise UserError(
            f"The column '{column}' of {patterns} has {different} different values in "
            f"{len(labels)} rows, as identifiers have. If they are the classes: --label-column "
            f"{column}; else name another one."
        )


def _check_memory(patterns: str, readers: Mapping[Path, Any], columns: Columns) -> None:
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


def _several(
    cells: Mapping[str, np.ndarray], columns: Columns, patterns: str, delimiter: str | None
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str], list[str]]:
    """Class names, labels uint8 [N, K] of every split, notes, and problems."""
    where, notes = f"{patterns}, column '{columns.label}'", []
    if all(value is None for value in cells.get("test", [True])):
        cells = {split: rows for split, rows in cells.items() if split != "test"}
        notes.append(f"The test split of {where} has no labels: it is not used for testing.")
    values = {split: [[] if v is None else v for v in rows] for split, rows in cells.items()}
    if columns.lists:
        if delimiter is not None:
            raise UserError(f"--label-delimiter: the labels of {where} are lists. Leave it out.")
        names, labels, more = listed_sets(values, columns.class_names, where)
        return names, labels, notes + more, []
    texts = {s: ["" if v is None else str(v) for v in rows] for s, rows in cells.items()}
    every = [text for rows in texts.values() for text in rows]
    divides = functools.partial(may_divide, {*every} - {""})
    found = {split: sets_of(rows, where, delimiter, divides) for split, rows in texts.items()}
    problems: list[str] = []
    if delimiter is None:
        problems = single_problems([one for rows in found.values() for one in rows], where)
    return *indexed_sets(found), notes, problems


def _read(reader: Any, path: Path, columns: Columns, several: bool) -> tuple[Any, np.ndarray]:
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
    if several:  # An image without labels is of none of the classes.
        rows = np.empty(len(labels), object)
        rows[:] = labels.to_pylist()
        return images, rows
    if labels.null_count:
        row = next(i for i, value in enumerate(labels) if not value.is_valid)
        raise UserError(
            f"{path} has {labels.null_count} row(s) without a label, for example row {row}. "
            "Remove them."
        )
    if pa.types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    return images, plain_labels(labels.to_numpy(), f"{path}, column '{columns.label}'")


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
    with contextlib.suppress(OSError), path.open("rb") as file:
        if is_lfs_pointer(file.read(HEAD_BYTES)):
            return UserError(f"{path} {LFS_POINTER}.")
    return UserError(
        f"{path} is not a readable Parquet file ({error}). It may be damaged or incomplete: copy "
        "or download it again."
    )
