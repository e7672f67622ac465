"""Which columns of a table hold the images, their labels, their splits and their groups.

By the usual names, and by what is in them: images are what leads to files. What can be read in two
ways is refused, with the columns in question.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.kinds import by_ending
from jtl.data.sources.image_groups import IN_COLUMNS
from jtl.data.sources.label_sets import Reading
from jtl.data.sources.names import splits_in, words_of
from jtl.data.sources.parquet_columns import NO_LABELS
from jtl.data.sources.split_column import FALSE, TRUE
from jtl.data.sources.table_files import NoLabels, Table

IMAGES = (
    "image", "img", "images", "file", "filename", "file_name", "filepath", "file_path", "path",
    "image_path", "img_path", "imagepath", "image_file", "image_name", "img_name", "imagename",
    "image_id", "img_id", "imageid", "id", "uuid", "name",
)  # fmt: skip
LABELS = (
    "label", "labels", "class", "class_name", "classname", "class_label", "label_name", "category",
    "category_name", "target", "targets", "y", "species", "breed", "diagnosis", "dx", "class_id",
    "label_id", "category_id", "classid", "label_index", "class_index", "choice",
)  # fmt: skip
_SPLITS = ("split", "splits", "subset", "partition", "data_split", "dataset_split", "ml_use")
"""Of columns that hardly are something else, whatever they hold."""
_MAYBE_SPLITS = ("set", "phase", "usage", "stage", "mode", "dataset", "fold")
"""Of columns that may be something else."""
_OTHER_SPLITS = (
    *_SPLITS, "set", "phase", "usage", "holdout", "menge", "teilmenge", "aufteilung",
    "conjunto", "subconjunto", "partición", "particion", "ensemble", "partizione", "insieme",
)  # fmt: skip
"""Of columns that are named where they are not used, whatever they hold."""
MISSING = {"", "nan", "NaN", "NA", "N/A", "#N/A", "<NA>", "null", "NULL"}
"""What stands where there is no value."""
_ENOUGH = 0.5
"""The share of a column that leads to images from which on it is one of images."""
_FIRST, _MOST_WORDS = 1000, 12
"""Rows that are looked at first, and how many words for splits a column may have."""
_NUMBERS = (*TRUE[:2], *FALSE[:2])
_CORNER = re.compile(r"(?i)(roi|b?box)?[._ -]?[xy][._ -]?(min|max|[0-2])|b?box(es)?")
_MARKS = {"1", "0", "-1", "1.0", "0.0", "-1.0", *MISSING}
"""What a column holds that says of each image whether it has something."""
NONE = "none"
"""For --split-column: the table says no splits."""


Hits = Callable[[Sequence[str], bool], tuple[float, object]]
"""From cells, and whether only plain paths count, to the share of a sample that leads to images,
and to something that is equal for equal images."""


class Columns(NamedTuple):
    """Which columns count, by place.

    Attributes:
        image: Of the images.
        label: Of the labels; None where `one_hot` is.
        one_hot: One for each class, with a 1 in the rows of the class.
        split: Of the splits, or None.
        group: Of the groups, or None.
        notes: What a user should know, in sentences.
    """

    image: int
    label: int | None
    one_hot: tuple[int, ...] = ()
    split: int | None = None
    group: int | None = None
    notes: tuple[str, ...] = ()


class Asked(NamedTuple):
    """The names of columns that were asked for, and how labels are read."""

    image: str | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None
    several: Reading = Reading()


def choose(table: Table, asked: Asked, hits: Hits) -> Columns:
    """Chooses the columns of a table.

    Args:
        table: The table.
        asked: The columns that were asked for.
        hits: See `Hits`.

    Raises:
        UserError: A column is missing, or it is not clear which is meant.
    """
    split = _split(table, asked.split)
    group = None if asked.group is None else table.column(asked.group, "--group-column")
    label = None if asked.label is None else table.column(asked.label, "--label-column")
    taken = {split, group, label} - {None}
    image = _image(table, asked.image, [c for c in _named(table) if c not in taken], hits)
    if label == image:
        raise UserError(f"The column '{table.names[image]}' cannot be both images and labels.")
    one_hot: tuple[int, ...] = ()
    notes: list[str] = []
    if label is None:
        label, one_hot, said = _labels(table, {image, split, group})
        notes += said
    if split is None and asked.split is None:
        used = {image, label, group, *one_hot}
        notes += _unused_splits(table, [c for c in _named(table) if c not in used])
    if corners := [name for name in table.names if _CORNER.fullmatch(name)][:4]:
        notes.append(
            f"The columns {listed(map(repr, corners))} may say a part of each image, such as a "
            "box: jtl uses whole images."
        )
    if group is None:
        used = {image, label, split, *one_hot}
        notes += _groups(table, [c for c in _named(table) if c not in used])
    return Columns(image, label, one_hot, split, group, tuple(notes))


def _named(table: Table) -> list[int]:
    return [column for column, name in enumerate(table.names) if name]


def _key(name: str) -> str:
    return name.casefold().replace(" ", "_").replace("-", "_")


def _usual(table: Table, columns: Sequence[int], known: Sequence[str]) -> list[int]:
    """The columns called as usual, the most usual name first."""
    keyed = [(known.index(key), c) for c in columns if (key := _key(table.names[c])) in known]
    return [column for _, column in sorted(keyed)]


def _image(
    table: Table,
    asked: str | None,
    columns: Sequence[int],
    hits: Hits,
) -> int:
    if asked is not None:
        return table.column(asked, "--image-column")
    usual = _usual(table, columns, IMAGES)
    rest = [c for c in columns if c not in usual and _key(table.names[c]) not in LABELS]
    # Only where no paths lead to images are all folders listed.
    for plain, some in itertools.product((True, False), (usual, rest)):
        looked = {column: hits(table.columns[column], plain) for column in some}
        found = [column for column, (share, _) in looked.items() if share >= _ENOUGH]
        if len({repr(looked[column][1]) for column in found}) > 1:
            raise _unclear(table, found, "images", "each leads to other files")
        if found:
            return found[0]
    by_name = [c for c in rest if all(map(by_ending, table.columns[c][:20]))]
    if len(choices := usual or by_name) == 1:
        return choices[0]  # Its files are missing, which is said later.
    if len(choices) > 1:
        raise _unclear(table, choices, "images", "none leads to image files")
    raise UserError(
        f"No column of {table.path} leads to image files. Its columns are {table.told()}. Name the "
        "one with paths or names of images with --image-column, and the folder they start at with "
        "--image-root."
    )


def _labels(table: Table, taken: set[int | None]) -> tuple[int | None, tuple[int, ...], list[str]]:
    columns = [c for c in _named(table) if c not in taken]
    usual = _usual(table, columns, LABELS)
    if len(usual) > 1:
        cells = [table.columns[column] for column in usual]
        pairs = set(zip(*cells, strict=True))
        if any(len(pairs) != len(set(same)) for same in cells):
            raise _unclear(table, usual, "labels", "they say different things")
        chosen = next((c for c in usual if not _are_numbers(table.columns[c])), usual[0])
        others = listed(f"'{table.names[c]}'" for c in usual if c != chosen)
        return chosen, (), [f"The column {others} says the same as '{table.names[chosen]}'."]
    if usual:
        return usual[0], (), []
    flags = tuple(c for c in columns if {*table.columns[c]} <= {*_NUMBERS} and not _flag(table, c))
    if len(flags) > 1:
        return None, flags, []
    rest = [c for c in columns if _key(table.names[c]) not in IMAGES]
    rest = [c for c in rest if not table.names[c].startswith("Unnamed:")]  # Numbers, by pandas.
    if len(rest) > 1 or (rest and table.has_head):
        rest = [c for c in rest if not {*words_of(table.names[c])} & {*NO_LABELS, *IN_COLUMNS}]
    if len(rest) == 1:
        return rest[0], (), []
    _refuse_marks(table, rest)
    if rest:
        raise _unclear(table, rest, "labels", "none is called label or class")
    raise NoLabels(
        f"{table.path} has no column of labels. Its columns are {table.told()}. Name the one with "
        "the classes with --label-column."
    )


def _refuse_marks(table: Table, columns: Sequence[int]) -> None:
    """Raises `UserError` if several columns say whether an image has something, as findings do."""
    cells = {table.names[c]: {*table.columns[c]} for c in columns}
    marked = [n for n, words in cells.items() if words <= _MARKS and {"1", "1.0"} & words]
    if len(marked) > 1:
        raise UserError(
            f"{table.path} may have several labels for an image: its columns "
            f"{listed(map(repr, marked), 20)} hold 1, 0, -1 or nothing. To learn all of them, make "
            "each cell 1 or 0, and add --task multilabel. To learn one class for each image, make "
            "one column with the class of each; or learn one of these questions, with "
            f"--label-column '{marked[0]}', from the rows that answer it."
        )


def _are_numbers(cells: Sequence[str]) -> bool:
    return all(cell.replace(".", "", 1).isdigit() for cell in cells[:100])


def _unclear(table: Table, columns: Sequence[int], what: str, why: str) -> UserError:
    names = listed((f"'{table.names[column]}'" for column in columns), 20)
    return UserError(
        f"{table.path} has several columns that could hold the {what}: {names}; {why}. Name one: "
        f"--{what[:-1]}-column {table.names[columns[0]]}"
    )


def _flag(table: Table, column: int) -> str | None:
    """The split that a column of 0 and 1 such as `is_test` is for."""
    words = [word for word in words_of(table.names[column]) if word != "is"]
    splits = splits_in(table.names[column])
    if len(words) != 1 or len(splits) != 1 or not table.has_head:
        return None
    cells = {cell.lower() for cell in table.columns[column]}
    return splits.pop() if cells <= {*TRUE, *FALSE} else None


def _split(table: Table, asked: str | None) -> int | None:
    if asked == NONE and NONE not in table.names:
        return None
    if asked is not None:
        column = table.column(asked, "--split-column")
        split_words(table, column)
        return column
    columns = _named(table)
    named = [c for c in columns if _key(table.names[c]) in _SPLITS]
    said = [c for c in columns if c not in named and _says_splits(table, c)]
    flags = [c for c in columns if _flag(table, c)]
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
    named = _key(table.names[column]) in _MAYBE_SPLITS
    return 1 < len(words) <= _MOST_WORDS and all(
        split_in_word(word) and (named or len(words_of(word)) == 1) for word in words
    )


def _unused_splits(table: Table, columns: Sequence[int]) -> list[str]:
    """A note for each column that may divide the rows into splits, and is not used."""
    notes = []
    for column in columns:
        name, words = table.names[column], {*table.columns[column]} - MISSING
        if not 1 < len(words) <= min(_MOST_WORDS, len(table.rows) // 2):
            continue
        plain = [word for word in words if len(words_of(word)) == 1 and split_in_word(word)]
        if _key(name) in _OTHER_SPLITS or 2 * len(plain) >= len(words):
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
    if (flag := _flag(table, column)) is not None:
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


def _groups(table: Table, columns: Sequence[int]) -> list[str]:
    """A note if a column may say which images belong together."""
    for column in columns:
        words = {word.removesuffix("id") or word for word in words_of(table.names[column])}
        if words & IN_COLUMNS and 2 * len({*table.columns[column]}) <= len(table.rows):
            name = table.names[column]
            return [
                f"The column '{name}' may say which images belong together; to keep these on one "
                f"side of a validation split that is held out: --group-column {name}"
            ]
    return []
