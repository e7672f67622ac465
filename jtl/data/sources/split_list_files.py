"""What one file says of the splits that images belong to; `split_lists` puts several together."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.kinds import by_ending
from jtl.data.sources.names import splits_in
from jtl.data.sources.stores import ImageFile, text_of

_HEADERS = ("split", "splits", "set", "subset", "phase", "partition", "usage", "is_train")
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
CUB = ("images.txt", "train_test_split.txt")
"""The two files of CUB-200."""
ENOUGH = 0.5
"""The share of a list's rows that must name an image."""
_NEARLY_ALL = 0.9
"""The share of its rows below which a list is refused; one row may be a head."""
_FIRST_ROWS = 200
"""The rows that decide which column names images."""
WAY_OUT = (
    "To hold out a random part of all images instead, which may train on published test images: "
    "--split-lists ignore. Or move the images into train/CLASS/, val/CLASS/ and test/CLASS/."
)
"""What to do where lists are refused."""


def read(
    file: ImageFile,
    splits: set[str] | None,
    index: ImageIndex,
    contents: Callable[[ImageFile], bytes],
) -> dict[str, frozenset[str]]:
    """{split: names of images} of one file; empty if it is no list.

    Args:
        file: The file.
        splits: Those in its name; None where it does not look like a list.
        index: Of the images.
        contents: What gives a file's contents.

    Raises:
        UserError: It is a list, and of other images or of a split twice.
    """
    text = text_of(file, contents)
    if text is None:  # If its name is that of a list, it is refused.
        return {}
    if file.name.lower().endswith(".json"):
        return _of_json(text, splits, index)
    try:
        rows = list(_rows(text))
    except csv.Error:
        return {}
    table = _of_table(rows, index)
    if table:
        return table
    if splits is None or len(splits) != 1:
        return {}
    found = index.of_rows(rows)
    names = frozenset(name for name in found if name is not None)
    missing = [row[0] for row, name in zip(rows, found, strict=True) if name is None]
    if len(found) - len(missing) < ENOUGH * len(found):
        return {}
    if len(missing) > max(1, (1 - _NEARLY_ALL) * len(found)):
        raise UserError(
            f"'{file.name}' lists images that are not there, or whose names are not theirs alone: "
            f"{listed(missing, 3)}. Correct it, or move it elsewhere. {WAY_OUT}"
        )
    split = "trainval" if _is_trainval(file.parts[-1]) else next(iter(splits))
    return {split: names} if names else {}


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of every row, the whole row before them."""
    lines = [line for line in text.splitlines() if line.strip()]
    head = lines[0] if lines else ""
    delimiter = max("\t,;", key=head.count) if any(c in head for c in "\t,;") else None
    split = map(str.split, lines) if delimiter is None else csv.reader(lines, delimiter=delimiter)
    for line, cells in zip(lines, split, strict=False):
        yield [line.strip(), *(cell.strip() for cell in cells)]


def _of_table(rows: Sequence[Sequence[str]], index: ImageIndex) -> dict[str, frozenset[str]]:
    """Of a table with a column of splits."""
    if not rows:
        return {}
    head = [cell.casefold().replace(" ", "_") for cell in rows[0]]
    column = next((i for i, cell in enumerate(head) if i and cell in _HEADERS), None)
    if column is None:
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    for row, name in zip(rows[1:], index.of_rows(rows[1:]), strict=True):
        split = _split_word(row[column], head[column]) if column < len(row) else None
        if name is not None:
            found[split or ""].add(name)
    others = found.pop("", set())
    if len(others) > ENOUGH * sum(map(len, found.values())):
        return {}  # A column of something else.
    return {split: frozenset(names) for split, names in found.items()}


def _split_word(cell: str, head: str) -> str | None:
    if head == "is_train":
        return "train" if cell.lower() in _TRUE else "test" if cell.lower() in _FALSE else None
    splits = splits_in(cell)
    return next(iter(splits)) if len(splits) == 1 and splits <= {"train", "val", "test"} else None


def _of_json(text: str, splits: set[str] | None, index: ImageIndex) -> dict[str, frozenset[str]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    keys = {key: splits_in(key) for key in content} if isinstance(content, dict) else {}
    if len(keys) > 1 and all(len(s) == 1 and "unlabelled" not in s for s in keys.values()):
        by_split: dict[str, frozenset[str]] = {}
        for key, (split,) in keys.items():
            names = index.of_all(_texts(content[key]))
            split = "trainval" if _is_trainval(key) else split
            if names and by_split.setdefault(split, names) != names:
                raise UserError(
                    f"A JSON file of splits has several lists for the {split} split, such as "
                    f"{key!r}. Keep one for each split. {WAY_OUT}"
                )
        return by_split
    if splits is None or len(splits) != 1:
        return {}
    names = index.of_all(_texts(content))
    return {next(iter(splits)): names} if names else {}


def _is_trainval(name: str) -> bool:
    return "trainval" in name.lower().replace("_", "")


def _texts(content: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)


def read_cub(
    files: Mapping[str, ImageFile], index: ImageIndex, contents: Callable[[ImageFile], bytes]
) -> dict[str, frozenset[str]]:
    """Of CUB-200: `1 001.Albatross/a.jpg` in one file and `1 0` (not for training) in another.

    Args:
        files: By their names in lower case.
        index: Of the images.
        contents: What gives a file's contents.
    """
    texts = [text_of(files[name], contents) for name in CUB if name in files]
    try:
        images, trained = (dict(row[1:3] for row in _rows(t or "") if row[2:]) for t in texts)
    except (ValueError, csv.Error):  # Only one of them is there, or none.
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    for key, path in images.items():
        name, cell = index.of_text(path), trained.get(key)
        if name is not None and cell in (*_TRUE, *_FALSE):
            found["train" if cell in _TRUE else "test"].add(name)
    return {split: frozenset(names) for split, names in found.items()}


class ImageIndex:
    """Finds images by what lists call them: the end of the path, with or without extension."""

    def __init__(self, images: Sequence[ImageFile]) -> None:
        self.names = [image.name for image in images]
        self._folders = {image.parts[-2] for image in images if len(image.parts) > 1}
        self._found: dict[tuple[str, ...], str | None] = {}
        for image in images:
            for tail in (image.parts[-1:], image.parts[-2:]):
                for key in (tail, (*tail[:-1], _stem(tail[-1]))):
                    if self._found.setdefault(key, image.name) != image.name:
                        self._found[key] = None  # What names several images names none.

    def of_text(self, text: str) -> str | None:
        """The image that a path names, or None; a mere number may count something else."""
        if text.isdigit():
            return None
        parts = tuple(part for part in text.replace("\\", "/").split("/") if part)
        name = self._found.get(parts[-2:])
        if name is None and len(parts) > 1 and parts[-2] not in self._folders:
            return self._found.get(parts[-1:])
        if name is None and len(parts) > 1 and by_ending(parts[-1]):  # Converted since.
            return self._found.get((parts[-2], _stem(parts[-1])))
        return name

    def of_rows(self, rows: Sequence[Sequence[str]]) -> list[str | None]:
        """The image that every row names, in the column that names most."""

        def of_column(column: int, rows: Sequence[Sequence[str]]) -> list[str | None]:
            return [self.of_text(row[column]) if column < len(row) else None for row in rows]

        first = rows[:_FIRST_ROWS]
        columns = range(max(map(len, first), default=0))
        most = max(columns, key=lambda c: -of_column(c, first).count(None), default=0)
        return of_column(most, rows)

    def of_all(self, texts: Iterable[str]) -> frozenset[str]:
        """The images that some of the texts name."""
        return frozenset(name for text in texts if (name := self.of_text(text)) is not None)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name
