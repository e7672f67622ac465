"""Several labels for each image, as tables, arrays and lists say them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.multilabel import DIVIDER, label_matrix
from jtl.data.sources.labels import UNLABELLED
from jtl.data.splits import TrainingProblem

Labels = tuple[str, ...]
"""The classes of an image, sorted; empty for an image of none."""
WAY_OUT = "If images have several labels: --task multilabel."
_DELIMITERS = (DIVIDER, ";", ",")


class Reading(NamedTuple):
    """How cells are divided into labels.

    Attributes:
        wanted: Whether images have several labels.
        delimiter: What stands between the labels of a cell; None for what is found there.
    """

    wanted: bool = False
    delimiter: str | None = None


def sets_of(
    cells: Sequence[str], where: str, delimiter: str | None, divides: Callable[[str], bool]
) -> list[Labels]:
    """The labels in each cell; none in an empty one.

    Args:
        cells: Text: labels between delimiters, or lists as JSON writes them.
        where: What messages call the cells.
        delimiter: What stands between labels; None for `|`, `;` or `,`.
        divides: Whether a delimiter that may be part of a name divides labels.

    Raises:
        UserError: It is not clear what divides them.
    """
    different = {*cells}
    if delimiter is None:
        bare = [cell for cell in different if not _is_list(cell)]
        found = [one for one in _DELIMITERS if any(one in cell for cell in bare)]
        found = [one for one in found if one == DIVIDER or divides(one)]
        if len(found) > 1:
            raise UserError(
                f"{where}: labels may be divided by {listed(map(repr, found))}. Say which it is: "
                f"--label-delimiter '{found[0]}'"
            )
        delimiter = found[0] if found else None
    known = {cell: _divided(cell, delimiter) for cell in different}
    return [known[cell] for cell in cells]


def may_divide(labels: set[str], separator: str) -> bool:
    """Whether a separator stands between labels, not within names."""
    divided = {label: _parts(label, separator) for label in labels if separator in label}
    owners: dict[str, int] = {}
    for label in labels:
        for part in set(_parts(label, separator)):
            owners[part] = owners.get(part, 0) + 1
    # `crane, Grus grus` is one name; of `cat, dog` both stand elsewhere, too.
    shared = {label for label, parts in divided.items() if all(owners[p] > 1 for p in parts)}
    return bool(shared) and 2 * len(shared) >= len(divided)


def _parts(label: str, separator: str) -> list[str]:
    return [part.strip() for part in label.split(separator)]


def _is_list(cell: str) -> bool:
    return cell[:1] == "[" and cell[-1:] == "]"


def _divided(cell: str, delimiter: str | None) -> Labels:
    parts = [cell] if delimiter is None else cell.split(delimiter if delimiter.strip() else None)
    if _is_list(cell):
        try:
            parts = [str(part) for part in json.loads(cell)]
        except (ValueError, TypeError):
            parts = [part.strip().strip("'\"") for part in cell[1:-1].split(",")]
    return tuple(sorted({part.strip() for part in parts} - {""}))


def single_problems(rows: Sequence[Labels], where: str) -> list[str]:
    """A sentence if no image has several labels, though they were asked for.

    This matters to training only: images to evaluate may happen to have one label each.
    """
    if any(len(labels) > 1 for labels in rows):
        return []
    return [
        TrainingProblem(
            f"--task multilabel: no image of {where} has several labels. If they are divided by "
            "something else than |, ; or ,, name it with --label-delimiter (--label-delimiter ' ' "
            "for spaces); if each image has one class, leave --task out; if some have one and "
            "others none, say --label-delimiter '|'."
        )
    ]


def indexed_sets(
    rows: Mapping[str, Sequence[Labels]], class_names: Sequence[str] | None = None
) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Class names, and the labels of every split as uint8 [N, K].

    Args:
        rows: The labels of each image, by split.
        class_names: In order; None for those of train, sorted, then others.
    """
    if class_names is None:
        of = {split: sorted({name for row in sets for name in row}) for split, sets in rows.items()}
        class_names = list(
            dict.fromkeys([*of["train"], *(n for each in of.values() for n in each)])
        )
    return tuple(class_names), {
        split: label_matrix(sets, class_names) for split, sets in rows.items()
    }


def of_flags(
    labels: Mapping[str, np.ndarray], class_names: Sequence[str] | None, where: object
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str]]:
    """Columns of 0 and 1, one for each class.

    Args:
        labels: Integers, booleans or floats [N, K], by split.
        class_names: Of the columns; None for their numbers, from 0 on.
        where: What messages call them.

    Returns:
        (class names, labels uint8 [N, K] of every split, notes). A test split without labels (all
        -1) is left out, with a note.

    Raises:
        UserError: There are other values, or other numbers of columns.
    """
    found, kept, notes = {}, dict(labels), []
    if "test" in kept and kept["test"].size and (kept["test"] == UNLABELLED).all():
        del kept["test"]
        notes.append(f"The test split of {where} has no labels: it is not used for testing.")
    widths = {values.shape[1] for values in kept.values()}
    widths |= set() if class_names is None else {len(class_names)}
    if len(widths) > 1:
        raise UserError(
            f"The labels of {where} have different numbers of classes: {listed(map(str, widths))}."
        )
    for split, values in kept.items():
        wrong = np.flatnonzero(~np.isin(values, (0, 1)).all(1))
        if len(wrong):
            raise UserError(
                f"The {split} labels of {where} must be 0 or 1, one column for each class: "
                f"{len(wrong):,} of {len(values):,} rows are not, the first being row {wrong[0]} "
                f"({listed(map(str, values[wrong[0]].tolist()), 8)})."
            )
        found[split] = values.astype(np.uint8)
    return tuple(class_names or map(str, range(widths.pop()))), found, notes


def is_of_flags(values: Sequence[Sequence[Any]]) -> bool:
    """Whether lists have a 0 or 1 for each class: all are as long, and some say a number twice."""
    same, plain = len({*map(len, values)}) == 1, {each for row in values for each in row} <= {0, 1}
    return same and plain and any(len({*row}) < len(row) for row in values)


def listed_sets(
    values: Mapping[str, Sequence[Sequence[Any]]], class_names: Sequence[str] | None, where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str]]:
    """Lists of classes.

    Args:
        values: A list for each image, by split: of names or numbers of classes, or of a 0 or 1
            for each class.
        class_names: Of the numbers; None where there are none.
        where: What messages call them.

    Returns:
        As `of_flags`.

    Raises:
        UserError: There are other numbers than those of classes.
    """
    if is_of_flags([row for rows in values.values() for row in rows]):
        arrays = {split: np.array([list(row) for row in rows]) for split, rows in values.items()}
        return of_flags(arrays, class_names, where)
    if class_names is None:
        numbers = all(isinstance(each, int) for rows in values.values() for r in rows for each in r)
        named = {s: [tuple(sorted({*map(str, row)})) for row in rows] for s, rows in values.items()}
        names, found = indexed_sets(named)
        if not numbers:
            return names, found, []
        class_names = sorted(names, key=int)
        return tuple(class_names), indexed_sets(named, class_names)[1], []
    known = range(len(class_names))
    wrong = [each for rows in values.values() for row in rows for each in row if each not in known]
    if wrong:
        raise UserError(
            f"Labels of {where} are out of range; the classes are 0 to {len(class_names) - 1}, but "
            f"{len(wrong):,} labels are others, such as {wrong[0]!r}."
        )
    names = tuple(class_names)
    found = {
        s: [tuple({names[each] for each in row}) for row in rows] for s, rows in values.items()
    }
    return *indexed_sets(found, names), []
