"""Rows of lists and tables as cells, and the column that says each row's split."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jtl.data.sources.image_index import FIRST_ROWS
from jtl.data.sources.names import splits_in, words_of

_HEADERS = ("split", "splits", "set", "subset", "phase", "partition", "usage")
_NAMES = ("split", "splits", "partition", "subset")
"""Those that hardly mean something else."""
_REST = {"train": "test", "test": "train", "val": "train"}
"""Where a single column says whether a row is of a split: what the others are of."""
TRUE, FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")

Row = Sequence[str]


class Splits(NamedTuple):
    """How a table says splits.

    Attributes:
        of_row: The split of a row, or None.
        has_head: Whether the first row names the columns.
        cell: What a row says, as it stands there.
        name: The column's, where it is one for splits.
        sure: Whether all of the first rows say a split.
    """

    of_row: Callable[[Row], str | None]
    has_head: bool
    cell: Callable[[Row], str] = lambda row: ""
    name: str = ""
    sure: bool = False


def rows_of(text: str) -> Iterator[list[str]]:
    """The cells of every row, the whole row before them; after them it without its last word."""
    lines = [line for line in text.splitlines() if line.strip()]
    if lines and lines[0].strip().isdigit() and 0 <= len(lines) - 1 - int(lines[0]) <= 1:
        lines = lines[1:]  # How many follow, as in the lists of DeepFashion.
    head = lines[0].strip() if lines else ""
    if head.startswith("{") and head.endswith("}"):  # JSON, an object a line.
        yield from rows_of_objects(map(json.loads, lines))
        return
    delimiter = max("\t,;", key=head.count) if any(c in head for c in "\t,;") else None
    split = map(str.split, lines) if delimiter is None else csv.reader(lines, delimiter=delimiter)
    for line, cells in zip(lines, split, strict=False):
        rest = line.strip().rpartition(" ")[0] if delimiter is None and len(cells) > 2 else ""
        yield [line.strip(), *(cell.strip() for cell in cells), *filter(None, [rest.strip()])]


def rows_of_objects(objects: Iterable[Any]) -> Iterator[list[str]]:
    """The values of JSON objects as rows, and their keys as a head."""
    keys: list[str] | None = None
    for row in objects:
        if not isinstance(row, dict):
            raise ValueError("a line is no JSON object")
        if keys is None:
            keys = list(map(str, row))
            yield ["", *keys]
        cells = [str(row.get(key, "")) for key in keys]
        yield [", ".join(cells), *cells]


def splits_of(rows: Sequence[Row]) -> Splits | None:
    """How a table says splits; None where it does not.

    By a column that is called so or that holds nothing but splits; or by columns such as `is_test`,
    or `train`, `val` and `test`, of yes and no.
    """
    if not rows:
        return None
    head = [cell.casefold().replace(" ", "_") for cell in rows[0]]
    first = rows[1:FIRST_ROWS]
    for column, cell in enumerate(head):
        if not column:
            continue
        cells = [row[column] for row in first if column < len(row)]
        sure = len(set(cells)) > 1 and all(map(_is_split, cells))
        if cell in _HEADERS or sure:
            has_head = cell in _HEADERS or not _is_split(cell)
            name = rows[0][column] if cell in _NAMES else ""
            return Splits(_by_word(column), has_head, _cell_of(column), name, sure)
    return _by_flags(head, first)


def _by_word(column: int) -> Callable[[Row], str | None]:
    def of_row(row: Row) -> str | None:
        splits = splits_in(row[column]) if column < len(row) else set()
        return next(iter(splits)) if len(splits) == 1 and splits <= {*_REST} else None

    return of_row


def _cell_of(column: int) -> Callable[[Row], str]:
    return lambda row: row[column] if column < len(row) else ""


def _by_flags(head: Row, first: Sequence[Row]) -> Splits | None:
    flags: dict[str, int] = {}
    named = False
    for column, cell in enumerate(head):
        splits = splits_in(cell)
        cells = [row[column].lower() for row in first if column < len(row)]
        if not column or len(splits) != 1 or not cells or not {*cells} <= {*TRUE, *FALSE}:
            continue
        words = words_of(cell)
        if len(words) == 1 or words[0] == "is":
            named = named or len(words) > 1
            flags.setdefault(splits.pop(), column)
    flags = {split: column for split, column in flags.items() if split in _REST}
    if not flags or not (named or len(flags) > 1):  # `train` alone may be a class.
        return None

    def of_row(row: Row) -> str | None:
        said = {split: row[c].lower() for split, c in flags.items() if c < len(row)}
        true = [split for split, cell in said.items() if cell in TRUE]
        if len(flags) > 1 or true:
            return true[0] if len(true) == 1 else None
        (split,) = flags
        return _REST[split] if said.get(split) in FALSE else None

    return Splits(of_row, has_head=True)


def _is_split(cell: str) -> bool:
    splits = splits_in(cell)
    return len(words_of(cell)) == 1 and len(splits) == 1 and splits <= {*_REST}
