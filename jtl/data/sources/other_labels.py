"""Tables beside folders that give images other labels than their folders do.

Then the folders may be patients, sites or sequences: a network that learns to tell these apart
learns nothing of what the table says.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.sources.class_folders import Classes
from jtl.data.sources.image_index import ImageIndex
from jtl.data.sources.names import words_of
from jtl.data.sources.split_column import rows_of, rows_of_objects
from jtl.data.sources.stores import ImageFile, decoded
from jtl.data.sources.unread_labels import COCO, kind_of_text

_ENDINGS = (".csv", ".tsv", ".jsonl", "metadata.json")
_LIST = ".txt"
"""Of what may be a table with a head, as the lists of DeepFashion, or any text."""
_HEADS = {
    "label", "labels", "class", "classes", "class_name", "classname", "target", "category",
    "diagnosis", "dx", "species", "disease",
}  # fmt: skip
_OF_CLASSES = {*_HEADS, "type", "breed", "genus", "name", "names"}
"""Words in the names of columns that may name the folders otherwise, such as `ClassId`."""
_FIRST_BYTES, _FEW_BYTES = 2**14, 2**12
"""Of a table, and of what may be something else."""
_MOST_FILES = 30
_MOST_BYTES, _MOST_ROWS = 2**28, 2000
"""Of a file that must be read whole, and of what it says."""
_ENOUGH = 0.5
"""The share of a table's rows that must name a class folder or an image; the share of the folders
with several labels, or of labels by folders, from which these are something else."""


def refuse(
    files: Iterable[ImageFile],
    classes: Classes,
    where: str,
    read: Callable[..., bytes],
    labels_told: str,
) -> None:
    """Raises `UserError` if a table labels the images otherwise than their folders.

    Args:
        files: Where to look; of each table the beginning is read.
        classes: The images by folder.
        where: What the place is called.
        read: What gives a file's contents, with a second argument at most so many bytes.
        labels_told: How to read labels from the tables.
    """
    tables = [
        file
        for file in files
        if file.name.lower().endswith((*_ENDINGS, ".json", _LIST)) and file.size <= _MOST_BYTES
    ]
    # Of YOLO there is a text for each image.
    tables.sort(key=lambda file: file.name.lower().endswith(_LIST))
    if len(classes) < 2 or not tables:
        return
    images = [image for same in classes.values() for image in same]
    index = ImageIndex(images)
    class_of = {image.name: label for label, same in classes.items() for image in same}
    for file in tables[:_MOST_FILES]:
        try:
            is_table = file.name.lower().endswith((*_ENDINGS, _LIST))
            text = decoded(read(file, _FIRST_BYTES if is_table else _FEW_BYTES))
            if kind_of_text(text) == COCO:
                rows = _rows_of_coco(json.loads(decoded(read(file))))
            elif is_table:
                rows = _rows(text)
            else:
                continue
        except Exception:  # Links to nothing, damaged archives and tables: of many kinds.
            continue
        if rows and (labels := _labels(rows, index, class_of)):
            raise UserError(
                f"The folders in {where} may be no classes: {file.name} gives their images other "
                f"labels ({listed(labels, 3)}), and the folders, such as "
                f"{listed(sorted(classes), 3)}, may be patients, places or videos. If they are the "
                f"classes, add --classes top. {labels_told}".rstrip()
            )


def _says_label(head: str) -> bool:
    """Whether a column is called as one of labels, as `label`, `category_label` or `class_id`."""
    words = words_of(head)
    named = words[:-1] if words[-1:] in (["id"], ["name"]) else words
    return head.casefold() in _HEADS or bool({*named[-1:]} & _HEADS)


def _rows(text: str) -> list[list[str]]:
    """The rows of a table whose end may be missing."""
    if text.lstrip().startswith("["):  # JSON, a list of flat objects.
        return list(rows_of_objects(json.loads(text.rpartition("}")[0] + "}]")))
    return list(rows_of(text.rpartition("\n")[0]))


def _rows_of_coco(content: Any) -> list[list[str]]:
    """The images of COCO's format and what they show, of those that show one kind of thing.

    So camera traps say their labels, with a place for each image, and no boxes.
    """
    names = {each["id"]: str(each["file_name"]) for each in content["images"]}
    categories = {each["id"]: str(each["name"]) for each in content["categories"]}
    shown: dict[Any, set[str]] = defaultdict(set)
    for each in content["annotations"]:
        shown[each["image_id"]].add(categories[each["category_id"]])
    rows = [[names[image], *labels] for image, labels in shown.items() if len(labels) == 1]
    return [["", "file_name", "label"], *([", ".join(row), *row] for row in rows[:_MOST_ROWS])]


def _labels(
    rows: Sequence[Sequence[str]], index: ImageIndex, class_of: Mapping[str, str]
) -> list[str]:
    """The labels in a column called so, where they are not those of the folders."""
    head, *rows = rows
    columns = [c for c, cell in enumerate(head) if c and _says_label(cell)]
    folders = set(class_of.values())
    named = []
    for row, image in zip(rows, index.of_rows(rows), strict=True):
        cells = [cell for cell in row[1:] if cell in folders]
        label = class_of[image] if image is not None else (cells[0] if len(cells) == 1 else None)
        if label is not None:
            named.append((label, row))
    if not columns or len(named) < max(2, _ENOUGH * len(rows)):
        return []
    found: list[str] = []
    for column in range(1, len(head)):
        said: dict[str, set[str]] = defaultdict(set)
        for label, row in named:
            if column < len(row) and row[column]:
                said[label].add(row[column])
        values = set().union(*said.values())
        several = sum(len(same) > 1 for same in said.values())
        own = several == 0 and len(values) == len(said)
        if _OF_CLASSES & {*words_of(head[column])} and (own or values & folders):
            return []  # Each folder has a name or a number of its own here.
        if column not in columns or not 1 < len(values) <= _ENOUGH * len(named) or len(said) < 2:
            continue  # Where nearly each image has a value of its own, it is a measurement.
        # Labels that lie within one folder each are finer, as breeds of `cat`.
        across = [value for value in values if sum(value in same for same in said.values()) > 1]
        if len(across) < _ENOUGH * len(values):
            continue
        if several >= _ENOUGH * len(said) or len(values) <= _ENOUGH * len(said):
            found += sorted(values)
    return found
