"""Parquet files of encoded images and labels, in the layout of Hugging Face or a plain one."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from jtl.common.errors import UserError
from jtl.common.optional import require
from jtl.config.data import Task
from jtl.data.kinds import HEAD_BYTES, LFS_POINTER, is_lfs_pointer
from jtl.data.sources.arrow_tables import Asked, Tables, open_tables
from jtl.data.sources.file_splits import (
    FileKind,
    by_split,
    files_of,
    fingerprint,
    refuse_missing,
)
from jtl.data.sources.parquet_columns import Columns, common_columns
from jtl.data.splits import OpenedSource

_MEMORY_SHARE = 0.5
"""The share of free memory that the encoded images may take."""
_KIND = FileKind("Parquet files", "parquet", (".parquet",), "data/*.parquet")


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
    found = files_of(patterns, _KIND)
    refuse_missing(patterns, found)
    files, left_out = by_split(found, _KIND)
    readers = {}
    for path in (path for paths in files.values() for path in paths):
        try:
            readers[path] = parquet.ParquetFile(path, memory_map=True)
        except (OSError, ValueError) as error:  # Arrow's own errors are of these kinds.
            raise _unreadable(path, error) from error
    asked = Asked(label_column, task == "multilabel", label_delimiter)
    schemas = {path: reader.schema_arrow for path, reader in readers.items()}
    columns = common_columns(schemas, image_column, label_column, several=asked.several)
    _check_memory(patterns, readers, columns)
    tables = Tables(patterns, files, readers, columns, _unreadable)
    return open_tables(tables, asked, fingerprint(readers), left_out)


def parquet_library() -> Any:
    """The module pyarrow.parquet; raises `UserError` where it is not installed."""
    return require("pyarrow.parquet", "reading Parquet files", "jtl[parquet]")


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


def _unreadable(path: Path, error: Exception) -> UserError:
    with contextlib.suppress(OSError), path.open("rb") as file:
        if is_lfs_pointer(file.read(HEAD_BYTES)):
            return UserError(f"{path} {LFS_POINTER}.")
    return UserError(
        f"{path} is not a readable Parquet file ({error}). It may be damaged or incomplete: copy "
        "or download it again."
    )
