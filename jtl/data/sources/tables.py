"""Images whose labels stand in a table: one row an image, with its path or name."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common import garbage_collection
from jtl.common.errors import UserError, suggest
from jtl.common.text import counted, listed
from jtl.config.data import Task
from jtl.data.class_names import misspelt_classes
from jtl.data.sources import name_groups
from jtl.data.sources.encoded import split_of_files
from jtl.data.sources.label_sets import WAY_OUT, Labels, Reading, indexed_sets, single_problems
from jtl.data.sources.names import splits_in_path
from jtl.data.sources.path_splits import folder_splits
from jtl.data.sources.stores import ImageFile, spread
from jtl.data.sources.table_columns import Asked
from jtl.data.sources.table_files import NAMED, NoLabels, Table, read_table
from jtl.data.sources.table_images import ImageFinder
from jtl.data.sources.table_rows import Rows, rows_of_table
from jtl.data.sources.table_sets import beside, groups_beside, lists_beside, tables_in
from jtl.data.sources.table_splits import NONE
from jtl.data.splits import OpenedSource, class_problems, split_of

_ORDER = ("train", "val", "test")
_NEARLY_ALL = 0.9
"""The share of images whose paths must say a split."""


def load_table(
    path: str,
    image_column: str | None = None,
    label_column: str | None = None,
    split_column: str | None = None,
    image_root: str | None = None,
    group_column: str | None = None,
    task: Task = "auto",
    label_delimiter: str | None = None,
) -> OpenedSource:
    """Opens images that a table names.

    Args:
        path: A table, or a folder with `train.csv` and, if there are such, `val.csv` and
            `test.csv`; or with one table; or with Hugging Face's `metadata.csv`, in it or in the
            folders of the splits.
        image_column: The column of the images' paths or names.
        label_column: The column of the classes.
        split_column: The column of the splits; "none" for no splits.
        image_root: The folder that the paths start at, or an archive; default the table's.
        group_column: The column of the groups that splits do not divide.
        task: Whether images may have several labels.
        label_delimiter: What stands between the labels of a cell; None for what is found there.

    Raises:
        UserError: The table cannot be read, rows name no image or no class, or it is not clear
            what is meant.
    """
    several = Reading(task == "multilabel", label_delimiter)
    with garbage_collection.paused():  # It would take 40 % of the time over millions of cells.
        return _load(
            Path(os.path.expanduser(path)),
            Asked(image_column, label_column, split_column, group_column, several),
            None if image_root is None else Path(os.path.expanduser(image_root)),
        )


def _load(place: Path, asked: Asked, root: Path | None) -> OpenedSource:
    base = root or (place if place.is_dir() else place.parent)
    files = tables_in(place) if place.is_dir() else {"": place}
    finder = functools.cache(lambda folder: ImageFinder(folder, base))
    parts: dict[str, Rows] = {}
    notes: list[str] = []
    for split, file in files.items():
        try:
            table = _read(file)
            of_file = asked if not split else asked._replace(split="none")
            parts[split] = rows_of_table(table, of_file, finder(root or file.parent))
        except NoLabels as error:
            if split != "test":
                raise
            notes.append(f"{error} It is not used for testing.")
    if asked.split is None and [*parts] == [""] and not parts[""].splits:
        refuse_named_splits(parts[""])
    notes += beside(place)
    if asked.group is None:
        notes += groups_beside(place, [image for rows in parts.values() for image in rows.images])
    if asked.split is None and not any(rows.splits for rows in parts.values()):
        notes += lists_beside(place)
    return open_rows(str(place), parts, notes)


def refuse_named_splits(rows: Rows) -> None:
    """Raises `UserError` if the images' paths say splits, and the table does not."""
    folders = folder_splits(image.parts for image in rows.images)
    found: dict[str, list[str]] = {}
    sample = spread(rows.images)
    for image in sample:
        split = folders.split_of(image.parts)
        splits = splits_in_path(image.parts) if split is None else {split} - {"unlabelled"}
        if len(splits) == 1:
            found.setdefault(splits.pop(), []).append(image.name)
    nearly_all = sum(map(len, found.values())) >= _NEARLY_ALL * len(sample)
    if len(found) < 2 or not (nearly_all or folders.within):
        return
    raise UserError(
        f"The images that {rows.file} names are called after splits "
        f"({listed(names[0] for names in found.values())}), and it has no column of splits. Add a "
        "column called split, with train, val or test in every row; or hold out a random part of "
        f"all images, which may train on published test images: --split-column {NONE}"
    )


def _read(file: Path) -> Table:
    if not file.is_file():
        siblings = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        raise UserError(f"There is no file {file}.{suggest(file.name, siblings)}")
    return read_table(file)


def open_rows(where: str, parts: Mapping[str, Rows], notes: list[str]) -> OpenedSource:
    """The images of all tables as splits.

    Args:
        where: What messages call the source.
        parts: The rows by split; under "" those that say their splits themselves.
        notes: What a user should know; more is added.

    Raises:
        UserError: Rows say different things of one image, or none is for training.
    """
    images = [image for rows in parts.values() for image in rows.images]
    labels: list[Any] = [label for rows in parts.values() for label in rows.labels]
    groups = [group for rows in parts.values() for group in rows.groups]
    splits = [
        split
        for name, rows in parts.items()
        for split in (rows.splits or [name or "train"] * len(rows.images))
    ]
    names = [image.name for image in images]
    several, problems = any(isinstance(label, tuple) for label in labels[:1]), []
    if several:
        labels = _united(names, labels)
        if all(rows.undivided for rows in parts.values()):
            problems = single_problems(labels, where)
    kept = _without_doubles(names, labels, splits, parts, notes)
    # As a folder's images are sorted: by the parts of their paths.
    keys = [name.replace("/", "\0") for name in names]
    order = sorted(kept, key=keys.__getitem__)
    if "train" not in splits:
        raise UserError(
            f"{where} has no training images, only those of {listed(sorted(set(splits)))}. Add "
            "some, or say that these are no splits: --split-column none"
        )
    grouped = groups or any("--group-column" in n for rows in parts.values() for n in rows.notes)
    stores = {name: rows.store for name, rows in parts.items()}
    by_split = {split: [row for row in order if splits[row] == split] for split in _ORDER}
    if not grouped:
        pairs = {
            split: [(images[row], labels[row]) for row in rows]
            for split, rows in by_split.items() if rows
        }  # fmt: skip
        notes += filter(None, [name_groups.note(pairs)])
    told_labels = {split: [labels[row] for row in rows] for split, rows in by_split.items() if rows}
    if not several:
        notes += misspelt_classes(Counter(told_labels["train"]))
    classes, indexed = (indexed_sets if several else _indexed)(told_labels)
    opened = {}
    for split, rows in by_split.items():
        if rows:
            indices = indexed[split]
            sorted_rows = np.arange(len(rows)) if several else np.argsort(indices, kind="stable")
            opened[split] = split_of_files(
                f"{where} ({split})",
                [images[rows[place]] for place in sorted_rows],
                indices[sorted_rows],
                stores.get(split) or stores[""],
                [names[rows[place]] for place in sorted_rows],
            )
    told = dict.fromkeys(rows.told for rows in parts.values())
    splits_told = dict.fromkeys(rows.splits_told for rows in parts.values())
    if "" not in parts and len(parts) > 1:
        splits_told = dict.fromkeys(rows.file for rows in parts.values())
        if len(splits_told) == 1:
            splits_told = [f"{file} in the folder of each" for file in splits_told]
    return OpenedSource(
        classes,
        opened,
        tuple(dict.fromkeys([*notes, *(note for rows in parts.values() for note in rows.notes)])),
        (*problems, *class_problems(where, classes, opened)),
        _fingerprint(
            [images[row] for row in order],
            [names[row] for row in order],
            [labels[row] for row in order],
            [splits[row] for row in order],
            [groups[row] for row in order] if groups else [],
        ),
        " and ".join(told),
        (),
        " and ".join(filter(None, splits_told)),
        groups={names[row]: groups[row] for row in order} if groups else {},
    )


def _indexed(labels: Mapping[str, Sequence[str]]) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    """Class names, those of train first, and the labels of every split as int32 [N]."""
    classes = sorted({*labels["train"]})
    classes += sorted({label for each in labels.values() for label in each} - {*classes})
    label_of = {name: label for label, name in enumerate(classes)}
    return tuple(classes), {
        split: np.array([label_of[label] for label in each], np.int32)
        for split, each in labels.items()
    }


def _united(names: Sequence[str], labels: Sequence[Labels]) -> list[Labels]:
    """The labels of each image in all of its rows together."""
    known: dict[str, Labels] = {}
    for name, own in zip(names, labels, strict=True):
        before = known.get(name)
        known[name] = own if before is None else tuple(sorted({*before, *own}))
    return [known[name] for name in names]


def _without_doubles(
    names: Sequence[str],
    labels: Sequence[str | Labels],
    splits: Sequence[str],
    parts: Mapping[str, Rows],
    notes: list[str],
) -> Sequence[int]:
    """The rows of different images.

    Raises:
        UserError: Rows say different things of one image.
    """
    first: dict[str, int] = {}
    again = [row for row, name in enumerate(names) if first.setdefault(name, row) != row]
    if not again:
        return range(len(names))
    place = [
        f"row {number}" if len(parts) == 1 else f"row {number} of {rows.file}"
        for rows in parts.values()
        for number in rows.rows
    ]
    for what, cells in (("labels", labels), ("splits", splits)):
        torn = [row for row in again if cells[row] != cells[first[names[row]]]]
        if torn:
            told = (
                f"{names[row]} is {cells[before]!r} in {place[before]} and {cells[row]!r} in "
                f"{place[row]}"
                for row in torn
                for before in (first[names[row]],)
            )
            raise UserError(
                f"{counted(len({names[row] for row in torn}), 'image')} with different {what} in "
                f"several rows: {'; '.join(itertools.islice(told, NAMED))}. Keep one row for each "
                f"image.{f' {WAY_OUT}' if what == 'labels' else ''}"
            )
    what = "united" if isinstance(labels[0], tuple) else "with the same label: left out"
    notes.append(
        f"{counted(len(again), 'row')} that name an image a second time, {what}, for example "
        f"{place[again[0]]}."
    )
    return [row for row, name in enumerate(names) if first[name] == row]


def _fingerprint(
    images: Sequence[ImageFile],
    names: Sequence[str],
    labels: Sequence[str | Labels],
    splits: Sequence[str],
    groups: Sequence[str],
) -> str:
    """As of a folder of the same images, where their paths say labels and splits."""

    @functools.cache
    def said_by(folders: tuple[str, ...]) -> set[str]:
        return {split for name in folders if (split := split_of(name)) is not None}

    told = []
    for row, image in enumerate(images):
        label, split, folders = labels[row], splits[row], image.parts[:-1]
        told.append(f"{names[row]}\0{image.size}\0{image.stamp}")
        if folders[-1:] != (label,):
            told[-1] += f"\0label {label if isinstance(label, str) else json.dumps(label)}"
        if (said_by(folders) or {"train"}) != {split}:
            told[-1] += f"\0split {split}"
        if groups:
            told[-1] += f"\0group {groups[row]}"
    told.append("")
    return hashlib.sha256("\n".join(told).encode()).hexdigest()
