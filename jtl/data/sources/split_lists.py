"""Lists of the images of each split beside class folders, as many public data sets have them.

Read are lists whose names say a split (`train.txt`, `test.csv`, `val.json`) and whose rows name
images, tables with a column of splits, JSON with splits as keys, and CUB's `images.txt` with
`train_test_split.txt`. What each row says beside the image is not read: labels come from folders.
"""

from __future__ import annotations

import csv
import json
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.kinds import by_ending
from jtl.data.sources.class_folders import Classes
from jtl.data.sources.names import splits_in, words_of
from jtl.data.sources.stores import ImageFile

_TEXTS = (".txt", ".csv", ".tsv", ".lst")
_READ = (*_TEXTS, ".json")
_NAMED = (*_READ, ".mat", ".pkl", ".xlsx")
_OTHERS = {
    "submission",
    "requirements",
    "readme",
    "log",
    "loss",
    "history",
    "results",
    "predictions",
}
_MOST_BYTES = 2**26
_MOST_FILES = 60
"""In a folder: of more, each belongs to one image."""
_HEADERS = ("split", "splits", "set", "subset", "phase", "partition", "usage", "is_train")
_TRUE, _FALSE = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_CUB = ("images.txt", "train_test_split.txt")
_ENOUGH = 0.5
"""The share of the images that lists must name, and of its rows that must name one."""
_NEARLY_ALL = 0.9
"""The share of its rows below which a list is refused; one row may be a head."""
_FIRST_ROWS = 200
"""The rows that decide which column names images."""
_WAY_OUT = (
    "To hold out a random part of all images instead, which may train on published test images: "
    "--split-lists ignore. Or move the images into train/CLASS/, val/CLASS/ and test/CLASS/."
)


class Listed(NamedTuple):
    """What lists say.

    Attributes:
        split_of: The split of every image that is in a list, by the image's name.
        files: Where that stands.
        rest: The split of the images in no list; None if they are not used.
    """

    split_of: dict[str, str]
    files: tuple[ImageFile, ...]
    rest: str | None


def find(
    files: Iterable[ImageFile],
    images: Sequence[ImageFile],
    where: str,
    read: Callable[[ImageFile], bytes],
    *,
    expected: bool,
) -> Listed | None:
    """Reads the lists of splits among the files.

    Args:
        files: Where to look.
        images: All images in class folders.
        where: What the place is called.
        read: What gives a file's contents.
        expected: Whether files that look like lists and cannot be read are an error.

    Returns:
        None where there are none.

    Raises:
        UserError: There are lists that cannot be read, or that contradict one another.
    """
    candidates = _candidates(files)
    if not candidates:
        return None
    index = _Index(images)
    found: dict[str, list[tuple[ImageFile, frozenset[str]]]] = defaultdict(list)
    named = []
    for file in candidates:
        splits = _splits_of(file)
        if splits is not None:
            named.append(file)
        if file.size > _MOST_BYTES or not file.name.lower().endswith(_READ):
            continue
        for split, names in _read_one(file, splits, index, read).items():
            found[split].append((file, names))
    for split, names in _cub(candidates, index, read).items():
        found[split].append((_by_name(candidates)[_CUB[1]], names))
    if not found:
        if expected:
            _refuse_unread(named, where)
        return None
    return _combined(found, index.names, where)


def divide(listed: Listed, classes: Classes) -> tuple[dict[str, Classes], list[str]]:
    """The classes of every split, and the names of the images in none."""
    found: dict[str, Classes] = {split: {} for split in ("train", "val", "test")}
    lost = []
    for label, images in classes.items():
        for image in images:
            split = listed.split_of.get(image.name, listed.rest)
            if split is None:
                lost.append(image.name)
            else:
                found[split].setdefault(label, []).append(image)
    return {split: by_class for split, by_class in found.items() if by_class}, lost


def _candidates(files: Iterable[ImageFile]) -> list[ImageFile]:
    by_folder = defaultdict(list)
    for file in files:
        name = file.parts[-1].lower()
        if name.endswith(_NAMED) and not _OTHERS & {*words_of(name)}:
            by_folder[file.parts[:-1]].append(file)
    return [file for same in by_folder.values() if len(same) <= _MOST_FILES for file in same]


def _splits_of(file: ImageFile) -> set[str] | None:
    """The splits in a file's name; None where it does not look like a list of splits."""
    stem = file.parts[-1].rpartition(".")[0]
    splits = splits_in(stem) & {"train", "val", "test"}
    named = {"split", "splits", "setid"} & {*words_of(stem)}
    return splits if named or len(splits) == 1 else None


def _read_one(
    file: ImageFile,
    splits: set[str] | None,
    index: _Index,
    read: Callable[[ImageFile], bytes],
) -> dict[str, frozenset[str]]:
    """{split: names of images} of one file."""
    try:
        text = read(file).decode("utf-8-sig", "replace")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}  # A link to nothing, say; if its name is that of a list, it is refused.
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
    if len(found) - len(missing) < _ENOUGH * len(found):
        return {}
    if len(missing) > max(1, (1 - _NEARLY_ALL) * len(found)):
        raise UserError(
            f"'{file.name}' lists images that are not there, or whose names are not theirs alone: "
            f"{listed(missing, 3)}. Correct it, or move it elsewhere. {_WAY_OUT}"
        )
    return (
        {"trainval" if _is_trainval(file.parts[-1]) else next(iter(splits)): names} if names else {}
    )


def _rows(text: str) -> Iterator[list[str]]:
    """The cells of every row, the whole row before them."""
    lines = [line for line in text.splitlines() if line.strip()]
    head = lines[0] if lines else ""
    delimiter = max("\t,;", key=head.count) if any(c in head for c in "\t,;") else None
    split = map(str.split, lines) if delimiter is None else csv.reader(lines, delimiter=delimiter)
    for line, cells in zip(lines, split, strict=False):
        yield [line.strip(), *(cell.strip() for cell in cells)]


def _of_table(rows: Sequence[Sequence[str]], index: _Index) -> dict[str, frozenset[str]]:
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
    if len(others) > _ENOUGH * sum(map(len, found.values())):
        return {}  # A column of something else.
    return {split: frozenset(names) for split, names in found.items()}


def _split_word(cell: str, head: str) -> str | None:
    if head == "is_train":
        return "train" if cell.lower() in _TRUE else "test" if cell.lower() in _FALSE else None
    splits = splits_in(cell)
    return next(iter(splits)) if len(splits) == 1 and splits <= {"train", "val", "test"} else None


def _of_json(text: str, splits: set[str] | None, index: _Index) -> dict[str, frozenset[str]]:
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
                    f"{key!r}. Keep one for each split. {_WAY_OUT}"
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


def _by_name(files: Iterable[ImageFile]) -> dict[str, ImageFile]:
    return {file.parts[-1].lower(): file for file in files}


def _cub(
    files: Iterable[ImageFile], index: _Index, read: Callable[[ImageFile], bytes]
) -> dict[str, frozenset[str]]:
    """Of CUB-200: `1 001.Albatross/a.jpg` in one file and `1 0` (not for training) in another."""
    by_name = _by_name(files)
    if any(name not in by_name for name in _CUB):
        return {}
    try:
        texts = [read(by_name[name]).decode("utf-8", "replace") for name in _CUB]
        images, trained = (dict(row[1:3] for row in _rows(t) if row[2:]) for t in texts)
    except (OSError, ValueError, EOFError, csv.Error, zipfile.BadZipFile, zlib.error):
        return {}
    found: dict[str, set[str]] = defaultdict(set)
    for key, path in images.items():
        name, cell = index.of_text(path), trained.get(key)
        if name is not None and cell in (*_TRUE, *_FALSE):
            found["train" if cell in _TRUE else "test"].add(name)
    return {split: frozenset(names) for split, names in found.items()}


def _refuse_unread(named: Sequence[ImageFile], where: str) -> None:
    """Raises `UserError` if files by their names are lists of splits."""
    splits = [(file.name, s) for file in named if (s := _splits_of(file)) is not None]
    several = [name for name, s in splits if len(s) != 1]
    single: set[str] = set().union(*(s for _, s in splits if len(s) == 1))
    if not several and not ("train" in single and len(single) > 1):
        return
    names = [name for name, s in splits if several or len(s) == 1]
    raise UserError(
        f"{where} has no folders for splits, but {listed(names, 6)}, which by "
        f"{'its name lists' if len(names) == 1 else 'their names list'} the images of each split. "
        "jtl reads lists in which every row names an image by its path or file name, and finds no "
        f"image by {'this' if len(names) == 1 else 'these'}. {_WAY_OUT}"
    )


def _combined(
    found: Mapping[str, list[tuple[ImageFile, frozenset[str]]]], images: Sequence[str], where: str
) -> Listed:
    """One split for every image in a list.

    Raises:
        UserError: The lists contradict one another, or name too few images.
    """
    if "trainval" in found:
        rest = {split: lists for split, lists in found.items() if split != "trainval"}
        val = frozenset().union(*(names for _, names in rest.get("val", [])))
        train = [(file, names - val or names) for file, names in found["trainval"]]
        found = rest if "train" in rest else {"train": train, **rest}
    split_of: dict[str, str] = {}
    files: dict[str, ImageFile] = {}
    for split, lists in found.items():
        sets = list(dict.fromkeys(names for _, names in lists))
        if max(Counter(name for names in sets for name in names).values(), default=0) > 1:
            raise UserError(
                f"{where} has several lists for the {split} split: "
                f"{listed((file.name for file, _ in lists), 5)}. Keep one for each split, and move "
                f"the others elsewhere. {_WAY_OUT}"
            )
        for name in (name for names in sets for name in names):
            if split_of.setdefault(name, split) != split:
                lists = [*found[split_of[name]], *found[split]]
                both = " and ".join(sorted({f.name for f, names in lists if name in names}))
                raise UserError(
                    f"The lists of {where} contradict one another: {name} is in {both}. Correct "
                    f"them, or move them elsewhere. {_WAY_OUT}"
                )
        files |= {file.name: file for file, _ in lists}
    rest = None if "train" in found else "train"
    if rest is None and len(split_of) < _ENOUGH * len(images):
        missing = next(name for name in images if name not in split_of)
        raise UserError(
            f"The lists {listed(files)} of {where} name only {len(split_of):,} of "
            f"{counted(len(images), 'image')}, and not {missing}, for example. {_WAY_OUT}"
        )
    return Listed(split_of, tuple(files.values()), rest)


class _Index:
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
