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
from jtl.common.text import counted, listed
from jtl.data.kinds import by_ending
from jtl.data.sources import unused_columns
from jtl.data.sources.image_groups import IN_COLUMNS
from jtl.data.sources.label_sets import Reading
from jtl.data.sources.measurements import is_measured
from jtl.data.sources.names import words_of
from jtl.data.sources.parquet_columns import NO_LABELS
from jtl.data.sources.split_column import FALSE, TRUE
from jtl.data.sources.table_files import NoLabels, Table
from jtl.data.sources.table_splits import (
    MISSING,
    flag_of,
    key_of,
    named_columns,
    split_column,
    unused_splits,
)

IMAGES = (
    "image", "img", "images", "file", "filename", "file_name", "filepath", "file_path", "path",
    "image_path", "img_path", "imagepath", "image_file", "image_name", "img_name", "imagename",
    "image_id", "img_id", "imageid", "id", "uuid", "name",
)  # fmt: skip
LABELS = (
    "label", "labels", "class", "class_name", "classname", "class_label", "label_name", "category",
    "category_name", "target", "targets", "y", "species", "breed", "diagnosis", "dx", "class_id",
    "label_id", "category_id", "classid", "label_index", "class_index", "choice",
    "displayname", "display_name",
)  # fmt: skip
_ENOUGH = 0.5
"""The share of a column that leads to images from which on it is one of images."""
_NUMBERS = (*TRUE[:2], *FALSE[:2])
_CORNER = re.compile(r"(?i)(roi|b?box)?[._ -]?[xy][._ -]?(min|max|[0-2])|b?box(es)?")
_LAST_WORDS = {"label", "class", "category", "species", "breed", "diagnosis"}
"""Of columns of labels that are called otherwise, such as `object_annotation_category`."""
_PRESENCE = {"confidence", "present", "presence", "is_present", "positive", "is_positive", "exists"}
"""Columns that say whether a label is one of the image's."""
_MARKS = {"1", "0", "-1", "1.0", "0.0", "-1.0", *MISSING}
"""What a column holds that says of each image whether it has something."""


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
    split = split_column(table, asked.split)
    group = None if asked.group is None else table.column(asked.group, "--group-column")
    label = None if asked.label is None else table.column(asked.label, "--label-column")
    taken = {split, group, label} - {None}
    image = _image(table, asked.image, [c for c in named_columns(table) if c not in taken], hits)
    if label == image:
        raise UserError(f"The column '{table.names[image]}' cannot be both images and labels.")
    one_hot: tuple[int, ...] = ()
    notes: list[str] = []
    if label is None:
        label, one_hot, said = _labels(table, {image, split, group})
        notes += said
        if never := [table.names[c] for c in one_hot if {*table.columns[c]} <= {*FALSE, *MISSING}]:
            notes.append(
                f"The columns {listed(map(repr, never))} of {table.path.name} are 1 in no row: "
                "they are no classes here."
            )
    if split is None and asked.split is None:
        used = {image, label, group, *one_hot}
        notes += unused_splits(table, [c for c in named_columns(table) if c not in used])
    if label is not None:
        _refuse_negatives(table, [c for c in named_columns(table) if c not in {image, label}])
    if corners := [name for name in table.names if _CORNER.fullmatch(name)][:4]:
        notes.append(
            f"The columns {listed(map(repr, corners))} may say a part of each image, such as a "
            "box: jtl uses whole images."
        )
    if group is None:
        used = {image, label, split, *one_hot}
        rest = [c for c in named_columns(table) if c not in used]
        notes += unused_columns.notes(table, None if asked.label else label, rest)
    return Columns(image, label, one_hot, split, group, tuple(notes))


def is_usual_label(name: str) -> bool:
    """Whether a column is called as those of labels are."""
    return key_of(name) in LABELS


def _usual(table: Table, columns: Sequence[int], known: Sequence[str]) -> list[int]:
    """The columns called as usual, the most usual name first."""
    keyed = [(known.index(key), c) for c in columns if (key := key_of(table.names[c])) in known]
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
    rest = [c for c in columns if c not in usual and key_of(table.names[c]) not in LABELS]
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
    columns = [c for c in named_columns(table) if c not in taken]
    usual = _usual(table, columns, LABELS)
    if any(words_of(name)[-1:] == ["x"] for name in table.names):  # A place, as `Bbox [x,y,w,h]`.
        usual = [column for column in usual if key_of(table.names[column]) != "y"]
    usual = usual or [c for c in columns if {*words_of(table.names[c])[-1:]} & _LAST_WORDS]
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
    flags = tuple(
        c for c in columns if {*table.columns[c]} <= {*_NUMBERS} and not flag_of(table, c)
    )
    if len(flags) > 1:
        return None, tuple(flags), []
    rest = [c for c in columns if key_of(table.names[c]) not in IMAGES]
    rest = [c for c in rest if not table.names[c].startswith("Unnamed:")]  # Numbers, by pandas.
    if len(rest) > 1 or (rest and table.has_head):
        rest = [c for c in rest if not {*words_of(table.names[c])} & {*NO_LABELS, *IN_COLUMNS}]
    if len(rest) == 1:
        return rest[0], (), []
    _refuse_marks(table, rest)
    if rest:
        odd = [c for c in rest if is_measured(table.names[c], table.columns[c])]
        classes = [c for c in rest if c not in odd] + odd
        numbers = f", and {listed(repr(table.names[c]) for c in odd)} looks like a measurement"
        why = f"none is called label or class{numbers if odd else ''}"
        raise _unclear(table, classes, "labels", why)
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


def _refuse_negatives(table: Table, columns: Sequence[int]) -> None:
    """Raises `UserError` if a column says of which rows the label is not in the image."""
    for column in columns:
        name, cells = table.names[column], table.columns[column]
        if key_of(name) in _PRESENCE and {*cells} in ({"0", "1"}, {"0.0", "1.0"}):
            wrong = sum(cell in ("0", "0.0") for cell in cells)
            raise UserError(
                f"The column '{name}' of {table.path} is 0 in {wrong:,} of "
                f"{counted(len(cells), 'row')}: their labels may be those that an image does not "
                "have, as in Open Images. Remove these rows; or, if they count, this column."
            )


def _are_numbers(cells: Sequence[str]) -> bool:
    return all(cell.replace(".", "", 1).isdigit() for cell in cells[:100])


def _unclear(table: Table, columns: Sequence[int], what: str, why: str) -> UserError:
    names = listed((f"'{table.names[column]}'" for column in columns), 20)
    return UserError(
        f"{table.path} has several columns that could hold the {what}: {names}; {why}. Name one: "
        f"--{what[:-1]}-column {table.names[columns[0]]}"
    )
