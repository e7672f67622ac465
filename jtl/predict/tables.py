"""Predictions as a table in a file: .csv, .jsonl or .parquet."""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from jtl.common import files
from jtl.common.errors import UserError
from jtl.common.optional import require
from jtl.common.text import for_spreadsheet
from jtl.data.multilabel import joined
from jtl.predict.predictions import Prediction, Trust, Unreadable

Put = Callable[[Prediction | Unreadable], None]

_ROWS = 8192
"""Rows of one write to a Parquet file."""


@contextlib.contextmanager
def writing(
    path: Path,
    top_k: int,
    *,
    raw: bool = False,
    several: bool = False,
    trust: Trust = Trust(),
) -> Iterator[Put]:
    """A table that is at `path` when all is written, replacing what was there; else not at all.

    A row holds an image's `name`, its `class` and `probability`, those of the next likeliest as
    `class_2`, `probability_2` and so on, and `error` where it could not be read; in .jsonl
    `name` and either `classes` or `error`. Of a classifier for several labels there are `labels`,
    too: all classes that the image has, in .jsonl a list, else with `|` between them (a JSON list
    where a name has a `|` itself).

    Args:
        path: Its ending decides the format.
        top_k: How many classes a row holds.
        raw: Whether a .csv file holds names as they are, also such as spreadsheets would take for
            formulas.
        several: Whether images may have several labels.
        trust: Whether rows say that the classifier abstains (`abstains`, true or false), and how
            far images are from the training images (`distance`, and `unusual`, true or false).

    Yields:
        What takes a row.

    Raises:
        UserError: The ending is another, a library is missing, or the file cannot be written.
    """
    columns = _columns(top_k, several, trust)
    formats = {".csv": functools.partial(_csv, raw=raw), ".jsonl": _jsonl, ".parquet": _parquet}
    form = formats.get(path.suffix.lower())
    if form is None:
        raise UserError(
            f"--out '{path}' must end in {', '.join(formats)}; the extension selects the format."
        )
    if path.is_dir():
        raise UserError(f"--out '{path}' is a folder. Name the file to write.")
    try:
        with files.replacing(path) as unfinished, form(unfinished, columns) as put:
            yield put
    except OSError as error:
        if not os.fsdecode(error.filename or "").startswith(str(path.with_name(".jtl-"))):
            raise  # Of what is predicted.
        raise UserError(
            f"cannot write --out '{path}': {error.strerror}. Choose a place that you can write to."
        ) from error


def as_json(row: Prediction | Unreadable) -> dict[str, Any]:
    """A row as JSON holds it."""
    if isinstance(row, Unreadable):
        return {"name": row.name, "error": row.reason}
    labels = {} if row.labels is None else {"labels": list(row.labels)}
    return {
        "name": row.name,
        **labels,
        "classes": [list(pair) for pair in row.classes],
        **_trusted(row),
    }


def _trusted(row: Prediction) -> dict[str, Any]:
    """What is known of how far a row can be trusted."""
    found = {"abstains": row.abstains, "distance": row.distance, "unusual": row.unusual}
    return {name: value for name, value in found.items() if value is not None}


@contextlib.contextmanager
def _jsonl(path: Path, columns: dict[str, type]) -> Iterator[Put]:
    del columns  # Rows are as long as they are.
    with _text(path) as file:
        yield lambda row: print(json.dumps(as_json(row), ensure_ascii=False), file=file)


@contextlib.contextmanager
def _csv(path: Path, columns: dict[str, type], raw: bool) -> Iterator[Put]:
    def put(row: Prediction | Unreadable) -> None:
        cells = _cells(row)
        for column, value in cells.items():
            if isinstance(value, bool):
                cells[column] = str(value).lower()
            elif isinstance(value, float):
                cells[column] = f"{value:.6g}"
            elif not raw:
                cells[column] = for_spreadsheet(value)
        table.writerow(cells)

    with _text(path) as file:
        table = csv.DictWriter(file, list(columns), lineterminator="\n")
        table.writeheader()
        yield put


def _text(path: Path) -> TextIO:
    # Names of files need not be Unicode.
    return path.open("w", encoding="utf-8", errors="backslashreplace", newline="")


@contextlib.contextmanager
def _parquet(path: Path, columns: dict[str, type]) -> Iterator[Put]:
    more = ", or write .csv or .jsonl"
    pyarrow = require("pyarrow", "writing .parquet", "jtl[parquet]", more)
    parquet = require("pyarrow.parquet", "writing .parquet", "jtl[parquet]", more)
    types = {str: pyarrow.string(), float: pyarrow.float32(), bool: pyarrow.bool_()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    rows: list[dict[str, Any]] = []
    with parquet.ParquetWriter(path, schema) as file:

        def flush() -> None:
            if rows:
                file.write_table(pyarrow.Table.from_pylist(rows, schema))
                rows.clear()

        def put(row: Prediction | Unreadable) -> None:
            cells = _cells(row)
            cells["name"] = cells["name"].encode("utf-8", "backslashreplace").decode()
            rows.append(cells)
            if len(rows) >= _ROWS:
                flush()

        yield put
        flush()


def _columns(top_k: int, several: bool, trust: Trust) -> dict[str, type]:
    columns: dict[str, type] = {"name": str} | ({"labels": str} if several else {})
    for suffix in _suffixes(top_k):
        columns |= {f"class{suffix}": str, f"probability{suffix}": float}
    columns |= {"abstains": bool} if trust.abstain is not None else {}
    columns |= {"distance": float, "unusual": bool} if trust.limit is not None else {}
    return columns | {"error": str}


def _cells(row: Prediction | Unreadable) -> dict[str, Any]:
    if isinstance(row, Unreadable):
        return {"name": row.name, "error": row.reason}
    cells: dict[str, Any] = {"name": row.name}
    if row.labels is not None:
        cells["labels"] = joined(row.labels)
    for suffix, (name, share) in zip(_suffixes(len(row.classes)), row.classes, strict=True):
        cells |= {f"class{suffix}": name, f"probability{suffix}": share}
    return cells | _trusted(row)


def _suffixes(top_k: int) -> list[str]:
    return [f"_{rank}" if rank > 1 else "" for rank in range(1, top_k + 1)]
