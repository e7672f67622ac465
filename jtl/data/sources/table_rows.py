"""The images, labels, splits and groups in the rows of one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources.label_sets import Labels, Reading
from jtl.data.sources.measurements import is_measured, measurement_told
from jtl.data.sources.stores import ImageFile, ImageStore
from jtl.data.sources.table_columns import Asked, choose, is_usual_label
from jtl.data.sources.table_files import NAMED, Table
from jtl.data.sources.table_images import ImageFinder, Several, count, doubtful
from jtl.data.sources.table_labels import code_in, label_sets_of, labels_of, missing_in, rows_told
from jtl.data.sources.table_splits import MISSING, split_words


class Rows(NamedTuple):
    """Images and what a table says of them, one item a row.

    Attributes:
        images: The files.
        labels: The classes; of images with several, a tuple for each image.
        splits: As the table says; empty where it does not.
        groups: As the table says; empty where it was not asked.
        file: The table's name.
        rows: The numbers of the rows.
        told: Where the labels stand, in words.
        splits_told: Where the splits stand, in words.
        store: What reads the files.
        notes: What a user should know, in sentences.
        undivided: Whether nothing but the cells could say that images have several labels.
    """

    images: list[ImageFile]
    labels: Sequence[str | Labels]
    splits: list[str]
    groups: list[str]
    file: str
    rows: Sequence[int]
    told: str
    splits_told: str
    store: ImageStore
    notes: tuple[str, ...]
    undivided: bool = False


def rows_of_table(table: Table, asked: Asked, finder: ImageFinder) -> Rows:
    """What a table says of images.

    Args:
        table: The table.
        asked: The columns that were asked for.
        finder: What finds the images.

    Raises:
        NoLabels: There are no labels at all.
        UserError: Rows name no image, or no class, or it is not clear which columns count.
    """

    def hits(cells: Sequence[str], plain: bool) -> tuple[float, object]:
        _, found = finder.way(cells, plain=plain)
        return count(found) / max(len(found), 1), found

    columns = choose(table, asked, hits)
    first = table.names[columns.image]
    if table.has_head and not first.isalpha() and not (asked.image or asked.label):
        way, _ = finder.way(table.columns[columns.image])
        if isinstance(way.find(first), ImageFile):  # As the rows below it lead to images.
            table = table.without_head()
            columns = choose(table, asked, hits)
    notes = list(columns.notes)
    splits: list[str] = []
    labels: Sequence[str | Labels]
    if columns.split is not None:
        words = split_words(table, columns.split)
        splits = [words[cell] for cell in table.columns[columns.split]]
    if asked.several.wanted:
        labels = label_sets_of(table, columns, asked.several.delimiter)
    else:
        labels = labels_of(table, columns, asked=asked.label is not None)
    cells = [] if columns.label is None else table.columns[columns.label]
    name = table.names[columns.label or 0]
    if not is_usual_label(name) and is_measured(name, cells):
        notes.append(measurement_told(name, cells))
    if (code := code_in(cells)) is not None:
        notes.append(
            f"'{code}' in the column '{name}' is read as a label, as "
            "the others are codes of two letters. If it stands for a missing label, remove these "
            "rows."
        )
    empty = set() if all(labels) else {row for row, label in enumerate(labels) if not label}
    untested = empty == {row for row, split in enumerate(splits) if split == "test"}
    if empty and (untested or not asked.several.wanted):
        if not untested:
            raise UserError(
                f"{table.path}, column '{name}': no label for "
                f"{rows_told(table, empty.__contains__)}. {_missing(cells)}Fill them in, or remove "
                "the rows."
            )
        notes.append("The test rows of the table have no labels: they are not used for testing.")
        kept = [row for row in range(len(labels)) if row not in empty]
        table = table._replace(
            columns=[[cells[row] for row in kept] for cells in table.columns],
            rows=[table.rows[row] for row in kept],
        )
        labels, splits = [labels[row] for row in kept], [splits[row] for row in kept]
    images, said = _images(table, columns.image, finder)
    groups = [] if columns.group is None else table.columns[columns.group]
    if MISSING & {*groups}:
        raise UserError(
            f"--group-column {asked.group}: no group for "
            f"{rows_told(table, lambda row: groups[row] in MISSING)} of {table.path}. Fill them "
            "in: an image without others of its kind is a group of its own."
        )
    file, names = table.path.name, table.names
    listed_cells = columns.label is not None and names[columns.label] in table.lists
    if columns.label is None:
        told = f"the columns {listed((names[c] for c in columns.one_hot), 5)} of {file}"
    else:
        told = f"the column '{names[columns.label]}' of {file}"
    return Rows(
        images,
        labels,
        splits,
        groups,
        file,
        table.rows,
        f"{told} (images: '{names[columns.image]}')",
        "" if columns.split is None else f"the column '{names[columns.split]}' of {file}",
        finder.store,
        (*notes, *said),
        asked.several == Reading(True) and columns.label is not None and not listed_cells,
    )


def _missing(cells: Sequence[str]) -> str:
    """A sentence about words that are taken for missing labels."""
    marks = sorted(map(repr, missing_in(cells) & {*cells} - {""}))
    if not marks:
        return ""
    return (
        f"{listed(marks)} {'stands' if len(marks) == 1 else 'stand'} for a missing label here, as "
        "in pandas, R and many data sets; if it is a class, call it otherwise. "
    )


def _images(table: Table, column: int, finder: ImageFinder) -> tuple[list[ImageFile], list[str]]:
    """The image of every row, and what to say of how they were found.

    Raises:
        UserError: Rows name none, or several.
    """
    cells, name = table.columns[column], table.names[column]
    if "" in cells:
        raise UserError(
            f"{table.path}, column '{name}': no image for "
            f"{rows_told(table, lambda row: not cells[row])}. Fill them in, or remove the rows."
        )
    way, _ = finder.way(cells)
    found = [way.find(cell) for cell in cells]
    images = [image for image in found if isinstance(image, ImageFile)]
    if len(images) == len(found):
        return images, [way.told] if way.told else []
    problems = []
    lost = [row for row, image in enumerate(found) if image is None]
    if lost:
        shown = (f"row {table.rows[row]} ({cells[row]!r})" for row in lost[:NAMED])
        more = f" and {len(lost) - NAMED:,} more" if len(lost) > NAMED else ""
        first = cells[lost[0]]
        if root := finder.root_for(first):
            way_out = f"They are there from another folder: --image-root {root}"
        elif "://" in first:
            way_out = "These are addresses: download the images, and name the files."
        else:
            way_out = (
                "Add them, remove the rows, or name the folder that the paths start at with "
                "--image-root."
            )
        problems.append(
            f"{len(lost):,} of {counted(len(cells), 'row')} of {table.path}, column '{name}', name "
            f"images that are not there: {', '.join(shown)}{more}. They were looked for in "
            f"{finder.root}.{finder.near(first)} {way_out}"
        )
    several = [(row, image) for row, image in enumerate(found) if isinstance(image, Several)]
    if several:
        row, meant = several[0]
        problems.append(
            f"{len(several):,} of {counted(len(cells), 'row')} of {table.path}, column '{name}', "
            f"may name several images, such as row {table.rows[row]} ({cells[row]!r}): "
            f"{doubtful(meant)}. Write whole paths, or name one folder with --image-root."
        )
    raise UserError("\n".join(problems))
