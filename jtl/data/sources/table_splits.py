"""Which column of a table says the split of each row, and what it says."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.sources.names import splits_in, words_of
from jtl.data.sources.split_column import FALSE, TRUE
from jtl.data.sources.table_files import Table

_SPLITS = ("split", "splits", "subset", "partition", "data_split", "dataset_split", "ml_use")
"""Of columns that hardly are something else, whatever they hold."""
_MAYBE_SPLITS = ("set", "phase", "usage", "stage", "mode", "dataset", "fold")
"""Of columns that may be something else."""
_OTHER_SPLITS = (
    *_SPLITS, "set", "phase", "usage", "holdout", "cohort", "menge", "teilmenge", "aufteilung",
    "conjunto", "subconjunto", "partición", "particion", "ensemble", "partizione", "insieme",
)  # fmt: skip
"""Of columns that are named where they are not used, whatever they hold."""
_FIRST, _MOST_WORDS = 1000, 12
"""Rows that are looked at first, and how many words for splits a column may have."""
MISSING = {"", "nan", "NaN", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "null", "NULL", "#REF!",
           "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!"}  # fmt: skip
"""What stands where there is no value, among it errors of spreadsheets."""
NONE = "none"
"""For --split-column: the table says no splits."""


def named_columns(table: Table) -> list[int]:
    """The places of the columns that have a name."""
    return [column for column, name in enumerate(table.names) if name]


def key_of(name: str) -> str:
    """A column's name to compare; of `annotation.label`, an object's value in JSON, the last."""
    last = re.split(r"[./]", name)[-1] or name
    return last.casefold().replace(" ", "_").replace("-", "_")


def flag_of(table: Table, column: int) -> str | None:
    """The split that a column of 0 and 1 such as `is_test` is for."""
    words = [word for word in words_of(table.names[column]) if word != "is"]
    splits = splits_in(table.names[column])
    if len(words) != 1 or len(splits) != 1 or splits == {"unlabelled"} or not table.has_head:
        return None
    cells = {cell.lower() for cell in table.columns[column]}
    return splits.pop() if cells <= {*TRUE, *FALSE} else None


def split_column(table: Table, asked: str | None) -> int | None:
    """The column of splits, or None.

    Args:
        table: The table.
        asked: The name that was asked for; `NONE` for no splits.

    Raises:
        UserError: There is none of that name, several may say splits, or it says something else.
    """
    if asked == NONE and NONE not in table.names:
        return None
    if asked is not None:
        column = table.column(asked, "--split-column")
        split_words(table, column)
        return column
    columns = named_columns(table)
    named = [c for c in columns if key_of(table.names[c]) in _SPLITS]
    said = [c for c in columns if c not in named and _says_splits(table, c)]
    flags = [c for c in columns if flag_of(table, c)]
    found = named or said or flags
    if len(found) > 1:
        raise UserError(
            f"{table.path} has several columns that may say splits: "
            f"{listed(repr(table.names[c]) for c in found)}. Name one: --split-column "
            f"{table.names[found[0]]}, or none of them: --split-column {NONE}"
        )
    if found:
        split_words(table, found[0])
    return found[0] if found else None


def _says_splits(table: Table, column: int) -> bool:
    """Whether a column holds nothing but splits."""
    cells = table.columns[column]
    words = {*cells[:_FIRST]}
    if 1 < len(words) <= _MOST_WORDS:
        words = {*cells}
    named = key_of(table.names[column]) in _MAYBE_SPLITS
    return 1 < len(words) <= _MOST_WORDS and all(
        split_in_word(word) and (named or len(words_of(word)) == 1) for word in words
    )


def unused_splits(table: Table, columns: Sequence[int]) -> list[str]:
    """A note for each column that may divide the rows into splits, and is not used."""
    notes = []
    for column in columns:
        name, words = table.names[column], {*table.columns[column]} - MISSING
        if not 1 < len(words) <= min(_MOST_WORDS, len(table.rows) // 2):
            continue
        plain = [word for word in words if len(words_of(word)) == 1 and split_in_word(word)]
        named = key_of(name) in _OTHER_SPLITS or splits_in(name) - {"unlabelled"}
        if named or 2 * len(plain) >= len(words):
            notes.append(
                f"The column '{name}' ({listed(sorted(words), 4)}) is not used. If it says splits, "
                f"write train, val or test in it, and add --split-column {name}; if not, add "
                f"--split-column {NONE}."
            )
    return notes


def split_in_word(word: str) -> str | None:
    """The split that a cell says: train, val or test; None where it says none."""
    splits = splits_in(word)
    return next(iter(splits)) if len(splits) == 1 and "unlabelled" not in splits else None


def split_words(table: Table, column: int) -> dict[str, str]:
    """The split of every different cell of a column.

    Raises:
        UserError: Some say none.
    """
    different, name = {*table.columns[column]}, table.names[column]
    if (flag := flag_of(table, column)) is not None:
        if flag == "train":
            raise UserError(
                f"The column '{name}' of {table.path} does not say whether the other rows are for "
                "validation or for the test. Give a column with the words train, val and test, or "
                f"hold out a random part: --split-column {NONE}"
            )
        return {cell: flag if cell.lower() in TRUE else "train" for cell in different}
    found = {cell: split_in_word(cell) for cell in different}
    wrong = [cell for cell, split in found.items() if split is None]
    if wrong:
        cell_rows = [
            n for n, c in zip(table.rows, table.columns[column], strict=True) if c in wrong
        ]
        raise UserError(
            f"The column '{name}' of {table.path} says something else than train, val or test: "
            f"{listed(map(repr, sorted(wrong)), 5)} in {len(cell_rows):,} row(s), the first being "
            f"row {cell_rows[0]}. Correct them, name another column with --split-column, or hold "
            f"out a random part: --split-column {NONE}"
        )
    for split in ("train", "val", "test"):
        same = {tuple(words_of(cell)): cell for cell, one in found.items() if one == split}
        if len(same) > 1:
            raise UserError(
                f"The column '{name}' of {table.path} has several values for the {split} split: "
                f"{listed(map(repr, sorted(same.values())), 5)}. Write train, val or test in it, "
                "leave out the rows of one of them, or hold out a random part: "
                f"--split-column {NONE}"
            )
    return {cell: split for cell, split in found.items() if split is not None}
