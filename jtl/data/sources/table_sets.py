"""Which tables in a folder are those of images, and of which split."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.sources.image_groups import column_of
from jtl.data.sources.image_index import ImageIndex
from jtl.data.sources.names import splits_in
from jtl.data.sources.split_column import rows_of
from jtl.data.sources.stores import ImageFile, decoded
from jtl.data.sources.table_files import ENDINGS
from jtl.data.splits import split_of

METADATA = "metadata"
"""What Hugging Face's `datasets` calls the table in a folder of images."""
_FORM = "submission"
"""In the names of tables to be filled in."""
_LIST = re.compile(
    r"(?i)(train|test|val|valid|validation|training|testing)((?![a-z])(?!.*log).*)?\.(txt|lst)|"
    r".*partition.*\.(csv|tsv|txt)"
)
"""The names of lists of splits."""
_ORDER = ("train", "val", "test")
_MOST_TABLES, _FIRST_BYTES = 8, 2**14
"""That are looked into, and how far."""


def tables_in(place: Path) -> dict[str, Path]:
    """The tables in a folder by split, train first; "" for one of all splits.

    Raises:
        UserError: There is none, or it is not clear which counts.
    """
    tables = _tables(place) or _lists(place)
    alone = [table for table in tables if table.stem.lower() == METADATA] or tables
    by_split: dict[str, list[Path]] = {}
    for table in tables:
        splits = splits_in(table.stem)
        if len(splits) == 1 and _FORM not in table.stem.lower():
            by_split.setdefault(splits.pop(), []).append(table)
    if not tables:
        for folder in sorted(child for child in place.iterdir() if child.is_dir()):
            if split := split_of(folder.name):
                inner = _tables(folder)
                inner = [t for t in inner if t.stem.lower() == METADATA] or inner
                by_split.setdefault(split, []).extend(inner)
    for split, same in by_split.items():
        if len(same) > 1 and split in _ORDER:
            names = listed(str(table.relative_to(place)) for table in same)
            raise UserError(
                f"{place} has several tables for the {split} split: {names}. Keep one of them, or "
                f"give one table: csv:{same[0]}"
            )
    if by_split.get("train"):
        return {split: by_split[split][0] for split in _ORDER if by_split.get(split)}
    if len(alone) == 1:
        return {"": alone[0]}
    if not tables:
        raise UserError(
            f"{place} has no table (.csv, .tsv, .jsonl, .parquet or train.txt). Of class folders: "
            f"folder:{place}."
        )
    raise UserError(
        f"{place} has several tables: {listed(table.name for table in tables)}. Give one of them, "
        f"such as csv:{tables[0]}, or call them train.csv, val.csv and test.csv."
    )


def _tables(place: Path) -> list[Path]:
    return sorted(
        path
        for path in place.iterdir()
        if path.suffix.lower() in ENDINGS
        and path.is_file()
        and not path.name.startswith(".")
        and _FORM not in path.stem.lower()
    )


def _lists(place: Path) -> list[Path]:
    """Text files called `train.txt`, `val.txt` and `test.txt`, if the first is there."""
    found = [p for p in sorted(place.glob("*.txt")) if split_of(p.stem) and p.is_file()]
    return found if "train" in {split_of(path.stem) for path in found} else []


def lists_beside(place: Path) -> list[str]:
    """A note if lists beside a table without splits may say them."""
    if place.is_dir():
        return []
    names = sorted(n for n in os.listdir(place.parent) if n != place.name and _LIST.fullmatch(n))
    if not names:
        return []
    if place in _lists(place.parent):
        return [
            f"{listed(names, 4)} next to {place.name}: not read. To use them: csv:{place.parent}"
        ]
    return [
        f"{listed(names, 4)} next to {place.name}: not read. If they say splits, add a column "
        "called split to the table, with train, val or test in every row."
    ]


def beside(place: Path) -> list[str]:
    """A note if other tables beside one of training images may be those of the other splits."""
    if place.is_dir() or splits_in(place.stem) != {"train"}:
        return []
    is_list = place.suffix.lower() == ".txt"
    others = sorted(place.parent.glob("*.txt")) if is_list else _tables(place.parent)
    names = [t.name for t in others if splits_in(t.stem) in ({"val"}, {"test"})]
    if not names or (is_list and place in _lists(place.parent)):  # See `lists_beside`.
        return []
    told = f"{listed(names)} next to {place.name}: not read. "
    try:
        tables_in(place.parent)
    except UserError:  # Several for one split, or lists with longer names.
        if is_list:
            return [
                f"{told}If they say validation or test images, copy the lists that belong together "
                "to files called train.txt, val.txt and test.txt in a folder of their own, and "
                f"give that: csv:FOLDER --image-root {place.parent}"
            ]
        return [
            f"{told}If they say validation or test images, put the tables of train, val and test "
            "that belong together into a folder, and give that as csv:FOLDER."
        ]
    return [f"{told}To use them: csv:{place.parent}"]


def groups_beside(place: Path, images: Sequence[ImageFile]) -> list[str]:
    """Notes of tables beside one that say which of its images belong together.

    Args:
        place: The table, which says no groups.
        images: That it names.
    """
    if place.is_dir():
        return []
    index = ImageIndex(images)
    notes = []
    for table in _tables(place.parent)[:_MOST_TABLES]:
        if table == place or table.suffix.lower() == ".parquet":
            continue
        try:
            with table.open("rb") as file:
                text = decoded(file.read(_FIRST_BYTES))
            rows = list(rows_of(text.rpartition("\n")[0]))
            column = column_of(table.name, rows, index) if rows else ""
        except (OSError, ValueError, csv.Error):
            continue
        if column:
            notes.append(
                f"{table.name} next to {place.name} says the {column} of images, which jtl does "
                "not use. To keep images of a group on one side of a validation split that is "
                f"held out, add that column to {place.name}, and --group-column {column}"
            )
    return notes
