"""The class of every row of a table, or why there is not one."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources.label_sets import Labels, may_divide, sets_of
from jtl.data.sources.measurements import is_measured, measurement_told
from jtl.data.sources.names import says_no_label, words_of
from jtl.data.sources.table_columns import Columns, is_usual_label
from jtl.data.sources.table_files import NAMED, NoLabels, Table
from jtl.data.sources.table_splits import MISSING

_LIKE_IDS = (20, 0.5)
"""From so many rows on, more different labels than this share of them look like identifiers."""
_ONE, _ONES = "1", ("1", "1.0")
_WHOLE, _FRACTION = re.compile(r"-?\d+(?:\.0+)?"), re.compile(r"-?\d*\.\d+(?:[eE][+-]?\d+)?")
_NUMBERS = re.compile(r"\d+( +\d+)*")
_LIST = re.compile(r"\[.*\]", re.DOTALL)
_IGNORED, _LARGEST = {"-1", "255"}, 254
"""What many programs leave out of a loss, and the number from which on there may be so many."""
_SEPARATORS = ";,"
_OF_SETS = {"labels", "tags", "keywords", "attributes"}
"""Words in the names of columns whose cells may be several words in any order."""
_OF_TAGS = _OF_SETS - {"labels"}
"""Those which hardly are one label each."""
_MULTI = (
    "To learn all of them: --task multilabel. To learn one class for each image, give a table "
    "with one class in each row: for example, leave out the images with several, or make one "
    "column for each question (such as 'tumour: yes or no') and name it with --label-column."
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
    name, cells = table.names[columns.label], _cells(table, columns.label)
    cells = _one_each(cells)
    different = {*cells} - {""}
    several = _several(different, is_list=name in table.lists)
    multi, way_out = _MULTI, ""
    if not several and (several := _sets_of_words(different, {*words_of(name)})):
        multi = _MULTI.replace("multilabel", "multilabel --label-delimiter ' '", 1)
        way_out = " If each is the name of one class, write it without spaces."
    if several:
        rows = rows_told(table, lambda row: cells[row] in several)
        raise UserError(
            f"The column '{name}' of {table.path} has several labels for an image: {rows}, such as "
            f"{sorted(several)[0]!r}. {multi}{way_out}"
        )
    if all(map(_WHOLE.fullmatch, different)):  # As pandas writes integers, or some, among gaps.
        cells = [cell.partition(".")[0] for cell in cells]
        different = {*cells} - {""}
    fractions = sorted(filter(_FRACTION.fullmatch, different))
    if fractions and all(_FRACTION.fullmatch(c) or c.lstrip("-").isdigit() for c in different):
        raise UserError(
            f"The labels of {table.path}, column '{name}', are numbers such as {fractions[0]}, no "
            "classes: jtl classifies, and does no regression. Name another column, or make "
            "classes of it."
        )
    if not asked and not is_usual_label(name) and is_measured(name, cells):
        raise UserError(
            f"{table.path}: {measurement_told(name, cells)} Make a column of classes, such as "
            "ranges of them, or name another one. If each number is a class: --label-column "
            f"'{name}'"
        )
    least, share = _LIKE_IDS
    if not asked and len(cells) >= least and len(different) > share * len(cells):
        raise UserError(
            f"The column '{name}' of {table.path} has {len(different):,} different values in "
            f"{len(cells):,} rows, as identifiers or captions have. If they are the classes: "
            f"--label-column {name}; else name another one."
        )
    return cells


def label_sets_of(table: Table, columns: Columns, delimiter: str | None) -> list[Labels]:
    """The classes of every row, where images may have several, or none.

    Args:
        table: The table.
        columns: Which columns count.
        delimiter: What stands between the labels of a cell; None for what is found there.

    Raises:
        NoLabels: No row has a class.
        UserError: It is not clear what divides the labels.
    """
    if columns.label is None:
        if delimiter is not None:
            raise UserError(
                f"--label-delimiter: the labels of {table.path} are columns of 0 and 1. Leave it "
                "out, or name a column of labels with --label-column."
            )
        flags = [(table.names[column], table.columns[column]) for column in columns.one_hot]
        rows = zip(*(cells for _, cells in flags), strict=True)
        names = [name for name, _ in flags]
        found = [
            tuple(sorted(n for n, c in zip(names, r, strict=True) if c in _ONES)) for r in rows
        ]
        if not any(found):
            raise NoLabels(f"{table.path}: no row has a 1, so that there are no labels.")
        return found
    name, cells = table.names[columns.label], _cells(table, columns.label)
    if name in table.lists and delimiter is None:
        delimiter = "|"  # As lists are written in cells.
    different = {*cells} - {""}
    divides = functools.partial(may_divide, different)
    found = sets_of(cells, f"{table.path}, column '{name}'", delimiter, divides)
    whole = all(_WHOLE.fullmatch(label) for labels in {*found} for label in labels)
    if whole:  # As pandas writes integers among gaps.
        found = [tuple(sorted({label.partition(".")[0] for label in one})) for one in found]
    return found


def _cells(table: Table, column: int) -> list[str]:
    """A column of labels, empty where there is none; raises `NoLabels` if all are."""
    missing = missing_in(table.columns[column])
    cells = [
        "" if cell in missing else cell if cell.isascii() else unicodedata.normalize("NFC", cell)
        for cell in table.columns[column]
    ]
    if not any(cells):
        raise NoLabels(
            f"The column '{table.names[column]}' of {table.path} is empty: there are no labels."
        )
    _refuse_forms(table, column, {*cells} - {""})
    return cells


def _refuse_forms(table: Table, column: int, different: set[str]) -> None:
    """Raises `UserError` if labels are JSON objects, or lists with a 0 or 1 for each class."""
    where = f"The column '{table.names[column]}' of {table.path}"
    if all(cell[0] == "{" and cell[-1] == "}" for cell in different):
        raise UserError(
            f"{where} holds objects of several values, such as {min(different)!r}, and no classes. "
            "Write the value that is the class into a column of its own, and name it with "
            "--label-column."
        )
    flags = {tuple(re.sub(r"[\[\]\s]", "", cell).split(",")) for cell in different}
    if (
        all(map(_LIST.fullmatch, different))
        and len({*map(len, flags)}) == 1
        and {each for row in flags for each in row} <= {"0", "1"}
        and any(len({*row}) < len(row) for row in flags)
    ):
        raise UserError(
            f"{where} has a 0 or 1 for each class, such as {min(different)!r}, and does not name "
            "the classes. Make a column of 0 and 1 for each class, called after it; or name "
            "another column with --label-column."
        )


def _one_each(cells: list[str]) -> list[str]:
    """Labels that are lists of one each, such as `['D']`, without what makes them lists."""
    different = {*cells} - {""}
    if not all(_LIST.fullmatch(cell) and "," not in cell for cell in different):
        return cells
    return [cell.strip("[]").strip().strip("'\"").strip() for cell in cells]


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
        raise NoLabels(f"{names}: no row has a 1, so there are no labels.")
    if "" in found:
        raise UserError(
            f"{names}: no label for {rows_told(table, lambda row: not found[row])}, where all are "
            "0. If these are images of none of the classes: --task multilabel, or add a column "
            "for them; or name a column of labels with --label-column."
        )
    return found


def _several(labels: set[str], *, is_list: bool) -> set[str]:
    """The labels that are several in one cell."""
    marked = {label for label in labels if "|" in label}
    marked |= {label for label in labels if label[0] == "[" and label[-1] == "]"}
    if marked or is_list:
        return marked
    for separator in _SEPARATORS:
        if may_divide(labels, separator):
            return {label for label in labels if separator in label}
    return set()


def _sets_of_words(labels: set[str], column: set[str]) -> set[str]:
    """The labels that are several words each of which may be a label, as `haze clear primary`.

    So they are where the words stand in other orders, too, or alone. Names share one word with
    others (`yorkshire terrier`, `Quercus alba`); tags share several, and some have more of them.
    """
    words = {label: frozenset(label.split()) for label in labels}
    several = {label for label, own in words.items() if len(own) > 1}
    if all(map(_NUMBERS.fullmatch, labels)):  # `16 0`, as of the Human Protein Atlas.
        return several
    alone = {label for label in several if words[label] <= labels}
    if len(alone) > 1 and 2 * len(alone) >= len(several):
        return several
    if not several or not column & _OF_SETS:
        return set()
    same: dict[frozenset[str], set[str]] = {}
    for label in several:
        same.setdefault(words[label], set()).add(label)
    if turned := {label for found in same.values() if len(found) > 1 for label in found}:
        return turned
    owners = Counter(word for own in words.values() for word in own)
    shared = {label for label in several if sum(owners[word] > 1 for word in words[label]) > 1}
    within = column & _OF_TAGS or any(words[a] < words[b] for a in several for b in several)
    return several if within and 2 * len(shared) >= len(several) else set()


def missing_in(cells: Sequence[str]) -> set[str]:
    """What stands for a missing label in a column.

    That is what does so anywhere, except a code (see `code_in`); words such as `unlabeled`; `?`
    among words; and -1 or 255 among lower numbers from 0 on, unless only one of them is there.
    """
    different = {*cells} - MISSING
    found = (MISSING - {code_in(cells)}) | set(filter(says_no_label, different))
    rest = different - found
    for mark in _IGNORED & rest:
        others = rest - {mark}
        if len(others) > 1 and all(cell.isdigit() and int(cell) < _LARGEST for cell in others):
            found.add(mark)
    if "?" in rest and all(len(cell) > 1 for cell in rest - {"?"}):
        found.add("?")
    return found


def code_in(cells: Sequence[str]) -> str | None:
    """NA where it is a code of two letters as all others are, such as Namibia's; else None."""
    different = {*cells} - {"", "NA"}
    codes = len(different) > 1 and all(re.fullmatch("[A-Z]{2}", cell) for cell in different)
    return "NA" if codes and "NA" in cells else None
