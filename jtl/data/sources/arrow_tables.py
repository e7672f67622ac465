"""Columns of images and labels in Arrow's tables, whatever kind of file they come from."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError
from jtl.data.image_file import read_file
from jtl.data.sources.encoded import EncodedSplit
from jtl.data.sources.label_sets import (
    indexed_sets,
    listed_sets,
    may_divide,
    sets_of,
    single_problems,
)
from jtl.data.sources.labels import indexed, plain_labels
from jtl.data.sources.parquet_columns import Columns
from jtl.data.splits import LeftOut, OpenedSource, class_problems

_LIKE_IDS = (20, 0.5)
"""From so many rows on, more different labels than this share of them look like identifiers."""


class Asked(NamedTuple):
    """What was asked for.

    Attributes:
        label_column: The column of the labels.
        several: Whether images may have several labels.
        delimiter: What divides these in text; None for what is found there.
    """

    label_column: str | None = None
    several: bool = False
    delimiter: str | None = None


class Tables(NamedTuple):
    """Tables of all splits.

    Attributes:
        where: What messages call the source.
        files: The files of every split, train first.
        readers: By file: an object with Arrow's `read(columns=)`.
        columns: Those of images and labels.
        unreadable: From a file and what reading it raised to the error for the user.
        follow_paths: Whether an image that is a path alone is read from there.
    """

    where: str
    files: Mapping[str, Sequence[Path]]
    readers: Mapping[Path, Any]
    columns: Columns
    unreadable: Callable[[Path, Exception], UserError]
    follow_paths: bool = False


class _Images(NamedTuple):
    """The images of a file: Arrow's arrays of encoded bytes and, where these lack, of paths."""

    data: Any
    paths: Any = None


def open_tables(
    tables: Tables, asked: Asked, digest: str, left_out: tuple[LeftOut, ...] = ()
) -> OpenedSource:
    """The images and labels of tables as splits.

    Args:
        tables: What there is.
        asked: What was asked for.
        digest: The fingerprint.
        left_out: What is not used.

    Raises:
        UserError: Rows cannot be read, or labels are no classes.
    """
    where, columns = tables.where, tables.columns
    labels, parts = {}, {}
    for split, paths in tables.files.items():
        loaded = [_read(tables, path, asked.several) for path in paths]
        parts[split] = [images for images, _ in loaded]
        labels[split] = np.concatenate([values for _, values in loaded])
        if not len(labels[split]):
            raise UserError(f"The {split} split of {where} has no rows.")
    problems: list[str] = []
    if asked.several:
        class_names, labels, notes, problems = sets_of_cells(
            labels, f"{where}, column '{columns.label}'", asked.delimiter,
            lists=columns.lists, class_names=columns.class_names,
        )  # fmt: skip
    else:
        if asked.label_column is None and columns.class_names is None:
            told = f"The column '{columns.label}' of {where}"
            refuse_identifiers(labels["train"], told, columns.label)
        class_names, labels, notes = indexed(labels, columns.class_names, where)
    splits = {
        split: _split(f"{where} ({split})", tables.files[split], parts[split], values)
        for split, values in labels.items()
    }
    problems += class_problems(where, class_names, splits)
    return OpenedSource(
        class_names,
        splits,
        tuple(notes),
        tuple(problems),
        digest,
        f"the column '{columns.label}'",
        left_out,
    )


def refuse_identifiers(labels: np.ndarray, told: str, name: str) -> None:
    """Raises `UserError` if labels that nobody asked for hardly repeat, as identifiers do.

    Args:
        labels: Of train, [N].
        told: What a sentence about them begins with.
        name: What `--label-column` calls them.
    """
    rows, share = _LIKE_IDS
    different = len(np.unique(labels.astype(str)))
    if len(labels) >= rows and different > share * len(labels):
        raise UserError(
            f"{told} has {different} different values in {len(labels)} rows, as identifiers have. "
            f"If they are the classes: --label-column {name}; else name another one."
        )


def sets_of_cells(
    cells: Mapping[str, np.ndarray],
    where: str,
    delimiter: str | None,
    *,
    lists: bool,
    class_names: Sequence[str] | None,
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str], list[str]]:
    """The labels of images that may have several.

    Args:
        cells: Of every split, objects [N]: lists, or text that is divided; None for no label.
        where: What messages call them.
        delimiter: What divides text; None for what is found there.
        lists: Whether they are lists.
        class_names: Of the numbers in lists.

    Returns:
        Class names, labels uint8 [N, K] of every split, notes, and problems.

    Raises:
        UserError: It is not clear what divides them, or numbers are no classes.
    """
    notes = []
    if all(value is None for value in cells.get("test", [True])):
        cells = {split: rows for split, rows in cells.items() if split != "test"}
        notes.append(f"The test split of {where} has no labels: it is not used for testing.")
    values = {split: [[] if v is None else v for v in rows] for split, rows in cells.items()}
    if lists:
        if delimiter is not None:
            raise UserError(f"--label-delimiter: the labels of {where} are lists. Leave it out.")
        names, labels, more = listed_sets(values, class_names, where)
        return names, labels, notes + more, []
    texts = {s: ["" if v is None else str(v) for v in rows] for s, rows in cells.items()}
    every = [text for rows in texts.values() for text in rows]
    divides = functools.partial(may_divide, {*every} - {""})
    found = {split: sets_of(rows, where, delimiter, divides) for split, rows in texts.items()}
    problems: list[str] = []
    if delimiter is None:
        problems = single_problems([one for rows in found.values() for one in rows], where)
    return *indexed_sets(found), notes, problems


def _read(tables: Tables, path: Path, several: bool) -> tuple[_Images, np.ndarray]:
    """The images and the labels of a file."""
    import pyarrow as pa

    columns = tables.columns
    wanted = [columns.field, columns.label]
    try:
        table = tables.readers[path].read(columns=wanted)
    except (OSError, ValueError) as error:  # Arrow's own errors are of these kinds.
        raise tables.unreadable(path, error) from error
    column, labels = table[columns.image], table[columns.label]
    images = _Images(column)
    if pa.types.is_struct(column.type):
        with_paths = tables.follow_paths and column.type.get_field_index("path") >= 0
        fields = [
            pa.chunked_array([chunk.field(name) for chunk in column.chunks], field.type)
            for name in ("bytes", "path")[: 1 + with_paths]
            for field in [column.type.field(name)]
        ]
        images = _Images(*fields)
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
    where: str, files: Sequence[Path], parts: Sequence[_Images], labels: np.ndarray
) -> EncodedSplit:
    import pyarrow as pa

    images = pa.chunked_array([chunk for part in parts for chunk in part.data.chunks])
    paths = None
    if images.null_count and all(part.paths is not None for part in parts):
        paths = pa.chunked_array([chunk for part in parts for chunk in part.paths.chunks])
    top = os.path.commonpath([path.parent for path in files])
    names, folders = [], []
    for path, part in zip(files, parts, strict=True):
        names += [f"{path.relative_to(top)}[{row}]" for row in range(len(part.data))]
        folders += [path.parent] * (len(part.data) if paths is not None else 0)

    def place(row: int) -> Path | None:
        """The file of an image that is a path alone."""
        text = paths[row].as_py() if paths is not None else None
        return folders[row] / text if text else None

    def fetch(row: int, limit: int) -> bytes:
        value = images[row].as_py()
        if value is not None:
            return value if limit < 0 else value[:limit]
        file = place(row)
        if file is None:
            raise ValueError("the row holds no image's bytes, only its path or nothing")
        if not file.is_file():
            raise ValueError(f"the row holds only a path, and there is no file {file}")
        return read_file(file)[: None if limit < 0 else limit]

    stored = images.nbytes
    if paths is not None:
        for row in np.flatnonzero(images.is_null().to_numpy(zero_copy_only=False)).tolist():
            file = place(row)
            stored += file.stat().st_size if file is not None and file.is_file() else 0
    return EncodedSplit(where, names, labels, fetch, stored_bytes=max(stored, 1))
