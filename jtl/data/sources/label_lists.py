"""Lists of labels beside a flat folder of images, as ImageNet's validation images have one."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from jtl.data.sources.class_folders import Classes
from jtl.data.sources.stores import ImageFile, stem_of, text_of

_LISTS = (".txt", ".csv", ".tsv")
_MOST_BYTES = 2**26


class Listed(NamedTuple):
    """The images of every class, and the file that says so."""

    classes: Classes
    file: ImageFile


def find(
    files: Iterable[ImageFile],
    images: Sequence[ImageFile],
    class_names: Sequence[str],
    read: Callable[[ImageFile], bytes],
) -> Listed | None:
    """Reads the class of every image from the only list that names it for all of them.

    A row holds an image's name, with or without ending, and in another column one of the
    classes (Tiny ImageNet's `val_annotations.txt`, Kaggle's `LOC_val_solution.csv`). Numbers are
    no names: what they count differs from list to list.

    Args:
        files: Where to look.
        images: Without labels.
        class_names: Of train.
        read: What gives a file's contents.

    Returns:
        None where no list names a class for every image, or several do so differently.
    """
    found: dict[tuple[str, ...], Listed] = {}
    for file in {file.parts: file for file in files}.values():
        name = file.parts[-1].lower()
        if not name.endswith(_LISTS) or file.size > _MOST_BYTES:
            continue
        if "submission" in name:  # A form to be filled in: its classes are placeholders.
            continue
        by_image = _labels(text_of(file, read) or "", set(class_names))
        labels = [
            by_image.get(image.parts[-1]) or by_image.get(stem_of(image.parts[-1]))
            for image in images
        ]
        if None not in labels:
            key = tuple(map(str, labels))
            classes: Classes = {name: [] for name in sorted(set(key))}
            for image, label in zip(images, key, strict=True):
                classes[label].append(image)
            found.setdefault(key, Listed(classes, file))
    return next(iter(found.values())) if len(found) == 1 else None


def way_out(images: Sequence[ImageFile]) -> str:
    """What to do about images without class folders or a list."""
    told = (
        "Sort its images into class folders, add a list with the file name and the class of every "
        "image, or move the folder elsewhere: jtl then holds out a part of train. "
    )
    if images[0].parts[-1].startswith("ILSVRC2012_val"):
        told += (
            "Of ImageNet, the list is LOC_val_solution.csv from Kaggle; valprep.sh sorts the "
            "images into class folders. Class numbers are not read, as lists count differently. "
        )
    return told


def _labels(text: str, class_names: set[str]) -> dict[str, str]:
    """{name of an image: its class} of the rows that have one class and no other."""
    found: dict[str, str] = {}
    torn: set[str] = set()
    for row in csv.reader(text.splitlines(), delimiter=_delimiter(text)):
        cells = [word for cell in row for word in cell.split()] if len(row) < 2 else row
        if len(cells) < 2:
            continue
        # Of Kaggle's "n01751748 111 108 230 173" the first word.
        named = {c for cell in cells[1:] if (c := _class(cell, class_names)) is not None}
        if len(named) == 1:
            name, label = re.split(r"[\\/]", cells[0].strip())[-1], named.pop()
            if found.get(name, label) != label:
                torn.add(name)
            found[name] = found[stem_of(name)] = label
    return {name: label for name, label in found.items() if not {name, stem_of(name)} & torn}


def _class(cell: str, class_names: set[str]) -> str | None:
    cell = cell.strip()
    if cell in class_names:
        return cell
    words = cell.split()
    # With the corners of one box, or of several of the same class.
    if words and words[0] in class_names and all(w.isdigit() or w == words[0] for w in words[1:]):
        return words[0]
    return None


def _delimiter(text: str) -> str:
    line = text[:4096].partition("\n")[0]
    return max("\t,;", key=line.count) if any(c in line for c in "\t,;") else " "
