"""What columns of a table that are not used may say: groups, other labels, rows to leave out."""

from __future__ import annotations

from collections.abc import Sequence

from jtl.common.text import counted, listed
from jtl.data.sources.image_groups import IN_COLUMNS
from jtl.data.sources.names import words_of
from jtl.data.sources.table_files import Table
from jtl.data.sources.table_splits import MISSING

_OF_PERSONS = {"age", "ages", "sex", "gender", "weight", "height", "race", "ethnicity", "position",
               "orientation", "count"}  # fmt: skip
"""What columns say of persons and others, which many have in common."""
_OF_THINGS = {"id", "mrn", "uid", "source", "parent", "original", "origin"}
"""Words in the names of columns that say which thing an image shows, or is made from."""
_OF_LABELS = {"label", "labels", "class", "category", "species", "diagnosis", "target"}
_OF_ROWS = {"exclude", "excluded", "discard", "discarded", "ignore", "ignored", "skip", "skipped",
            "remove", "removed", "bad", "use", "used", "keep", "usable", "ok", "status", "accepted",
            "rejected", "flagged", "deleted", "duplicate", "duplicated", "verified", "invalid",
            "corrupt", "corrupted"}  # fmt: skip
"""Words in the names of columns that say whether a row counts."""
_MOST_MARKS = 4
_SAME = 0.5
"""The share of different values that must be classes."""


def notes(table: Table, label: int | None, columns: Sequence[int]) -> list[str]:
    """What a user should know of columns that are not used, in sentences.

    Args:
        table: The table.
        label: The column of the labels, if there is one.
        columns: Those that are not used.
    """
    return [*_groups(table, label, columns), *_labels(table, label, columns),
            *_rows(table, columns)]  # fmt: skip


def _groups(table: Table, label: int | None, columns: Sequence[int]) -> list[str]:
    """A note if a column may say which images belong together."""
    for usual in (IN_COLUMNS, _OF_THINGS):
        for column in columns:
            name = table.names[column]
            words = {*words_of(name)}
            if usual is IN_COLUMNS:
                words = {word.removesuffix("id") or word for word in words}
            if words & _OF_PERSONS or not words & usual or name.startswith("object_"):  # EcoTaxa.
                continue
            different = {*table.columns[column]}
            if 2 * len(different) > len(table.rows):
                continue
            if usual is _OF_THINGS and (label is None or _are_classes(table, label, column)):
                continue
            return [
                f"The column '{name}' may say which images belong together; to keep these on one "
                f"side of a validation split that is held out: --group-column {name}"
            ]
    return []


def _are_classes(table: Table, label: int, column: int) -> bool:
    """Whether a column says no more things than there are classes, as their numbers do."""
    return len({*table.columns[column]}) <= len({*table.columns[label]})


def _labels(table: Table, label: int | None, columns: Sequence[int]) -> list[str]:
    """A note if a column says other classes for some rows, as a second reading does."""
    if label is None:
        return []
    own = table.columns[label]
    for column in columns:
        if not {*words_of(table.names[column])} & _OF_LABELS:
            continue
        cells = table.columns[column]
        said = {*cells} - MISSING
        if not said or len(said & {*own}) < _SAME * len(said):
            continue
        pairs = zip(own, cells, strict=True)
        other = sum(cell != mine for mine, cell in pairs if cell not in MISSING)
        if other:
            return [
                f"The column '{table.names[column]}' is not used, and says other classes than "
                f"'{table.names[label]}' in {other:,} of {counted(len(cells), 'row')}. If these "
                f"are right: --label-column {table.names[column]}"
            ]
    return []


def _rows(table: Table, columns: Sequence[int]) -> list[str]:
    """A note if a column may say which rows do not count."""
    for column in columns:
        different = {*table.columns[column]}
        if {*words_of(table.names[column])} & _OF_ROWS and 1 < len(different) <= _MOST_MARKS:
            return [
                f"The column '{table.names[column]}' ({listed(sorted(different))}) is not used: "
                "all rows count. Remove those that should not."
            ]
    return []
