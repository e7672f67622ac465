"""The class of every row of a table, or why there is not one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources.names import words_of
from jtl.data.sources.table_columns import MISSING, Columns
from jtl.data.sources.table_files import NAMED, NoLabels, Table

_LIKE_IDS = (20, 0.5)
"""From so many rows on, more different labels than this share of them look like identifiers."""
_ONE, _ONES = "1", ("1", "1.0")
_WHOLE, _FRACTION = re.compile(r"-?\d+\.0+"), re.compile(r"-?\d*\.\d+(?:[eE][+-]?\d+)?")
_SEPARATORS = ";,"
_OF_SETS = {"labels", "tags", "keywords", "attributes"}
"""Words in the names of columns whose cells may be several words in any order."""
_MULTI = (
    "jtl learns one class for each image. Give a table with one class in each row: for example, "
    "leave out the images with several, or make one column for each question (such as 'tumour: "
    "yes or no') and name it with --label-column."
)


def labels_of(table: Table, columns: Columns, *, asked: bool) -> list[str]:
    """The class of every row; empty where the row has none.

    Args:
        table: The table.
        columns: Which columns count.
        asked: Whether the column was asked for, so that any text is a class.

    Raises:
        NoLabels: No row has a class.
        UserError: Rows have several classes, or the labels are no classes.
    """
    if columns.label is None:
        return _of_flags(table, columns.one_hot)
    name = table.names[columns.label]
    cells = [
        "" if cell in MISSING else cell if cell.isascii() else unicodedata.normalize("NFC", cell)
        for cell in table.columns[columns.label]
    ]
    different = {*cells} - {""}
    if not different:
        raise NoLabels(f"The column '{name}' of {table.path} is empty: there are no labels.")
    several = _several(different, is_list=name in table.lists)
    if not several and _OF_SETS & {*words_of(name)}:
        several = _in_other_orders(different)
    if several:
        rows = rows_told(table, lambda row: cells[row] in several)
        raise UserError(
            f"The column '{name}' of {table.path} has several labels for an image: {rows}, such as "
            f"{sorted(several)[0]!r}. {_MULTI}"
        )
    if all(map(_WHOLE.fullmatch, different)):  # As pandas writes integers among gaps.
        return [cell.partition(".")[0] for cell in cells]
    fractions = sorted(filter(_FRACTION.fullmatch, different))
    if fractions and all(_FRACTION.fullmatch(c) or c.lstrip("-").isdigit() for c in different):
        raise UserError(
            f"The labels of {table.path}, column '{name}', are numbers such as {fractions[0]}, no "
            "classes: jtl classifies, and does no regression. Name another column, or make "
            "classes of it."
        )
    least, share = _LIKE_IDS
    if not asked and len(cells) >= least and len(different) > share * len(cells):
        raise UserError(
            f"The column '{name}' of {table.path} has {len(different):,} different values in "
            f"{len(cells):,} rows, as identifiers or captions have. If they are the classes: "
            f"--label-column {name}; else name another one."
        )
    return cells


def rows_told(table: Table, is_one: Callable[[int], bool]) -> str:
    """The rows that are meant, in words.

    Args:
        table: The table.
        is_one: Whether a row is meant, by its place from 0 on.
    """
    rows = [number for place, number in enumerate(table.rows) if is_one(place)]
    named = listed((f"row {number}" for number in rows), NAMED)
    return f"{len(rows):,} of {counted(len(table.rows), 'row')} ({named})"


def _of_flags(table: Table, flags: Sequence[int]) -> list[str]:
    """Labels from one column for each class."""
    found: list[str] = [""] * len(table.rows)
    several: set[int] = set()
    for column in flags:
        name = table.names[column]
        for row, cell in enumerate(table.columns[column]):
            if cell in _ONES:
                if found[row]:
                    several.add(row)
                found[row] = name
    names = f"{table.path}, columns {listed((table.names[c] for c in flags), 5)}"
    if several:
        raise UserError(
            f"{names}: several labels for an image, as {rows_told(table, several.__contains__)} "
            f"have more than one 1. {_MULTI}"
        )
    if not any(found):
        raise NoLabels(f"{names}: no row has a 1, so that there are no labels.")
    if "" in found:
        raise UserError(
            f"{names}: no label for {rows_told(table, lambda row: not found[row])}, where all are "
            "0. If these are images of no class, add a column for them; or name a column of "
            "labels with --label-column."
        )
    return found


def _several(labels: set[str], *, is_list: bool) -> set[str]:
    """The labels that are several in one cell."""
    marked = {label for label in labels if "|" in label}
    marked |= {label for label in labels if label[0] == "[" and label[-1] == "]"}
    if marked or is_list:
        return marked or labels
    for separator in _SEPARATORS:
        divided = {label: _parts(label, separator) for label in labels if separator in label}
        owners: dict[str, int] = {}
        for label in labels:
            for part in set(_parts(label, separator)):
                owners[part] = owners.get(part, 0) + 1
        # `crane, Grus grus` is one name; of `cat, dog` both stand elsewhere, too.
        shared = {label for label, parts in divided.items() if all(owners[p] > 1 for p in parts)}
        if shared and 2 * len(shared) >= len(divided):
            return set(divided)
    return set()


def _in_other_orders(labels: set[str]) -> set[str]:
    """The labels of which others are the same words in another order, as `haze clear`."""
    same: dict[tuple[str, ...], set[str]] = {}
    for label in labels:
        same.setdefault(tuple(sorted(label.split())), set()).add(label)
    return {label for found in same.values() if len(found) > 1 for label in found}


def _parts(label: str, separator: str) -> list[str]:
    return [part.strip() for part in label.split(separator)]
