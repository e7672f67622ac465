"""What one file says of the splits that images belong to; `split_lists` puts several together."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.kinds import by_ending
from jtl.data.sources import image_groups
from jtl.data.sources.image_index import FIRST_ROWS, ImageIndex
from jtl.data.sources.names import splits_in, words_of
from jtl.data.sources.split_column import FALSE, TRUE, rows_of, rows_of_objects, splits_of
from jtl.data.sources.split_list_candidates import SETTINGS, ListName, is_read
from jtl.data.sources.stores import ImageFile, decoded, text_of

CUB = ("images.txt", "train_test_split.txt")
"""The two files of CUB-200."""
_ENOUGH = 0.5
"""The share of a list's rows that must name an image."""
_NEARLY_ALL = 0.9
"""The share of its rows below which a list is refused; one row may be a head."""
_SOME = 0.1
"""The share of its rows from which a file called like a list is one."""
_FIRST_BYTES = 2**16
"""What is read of a file to see whether it names images at all."""
_MOST_BYTES = 2**26
_MOST_NUMBERS = 20
"""A row of more holds pixels or features."""
_MOST_CODES = 5
"""A column of splits has no more values."""
_STRING = re.compile(r'"([^"\n]{1,400})"')
_SHEET = re.compile(r"xl/(sharedStrings|worksheets/[^/]+)\.xml")
_TEXT = re.compile(r"[^\"'\n,\[\]=:]+")
_SETTING = re.compile(r"\w[\"' ]*[:=]\s*[^\s\[]")
_CELL = re.compile(r"<t\b[^>]*>([^<]+)</t>")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
WAY_OUT = (
    "To hold out a random part of all images instead, which may train on published test images: "
    "--split-lists ignore. Or move the images into train/CLASS/, val/CLASS/ and test/CLASS/."
)
"""What to do where lists are refused."""


class Contents(NamedTuple):
    """What a file says.

    Attributes:
        splits: {split: names of images}; empty if it is no list that jtl understands.
        missing: What it calls images that are not there.
        unread: Why it cannot be read, in words; empty if it can.
        names_images: Whether its rows name images.
        of_data: Whether it surely is no list: of pixels or other numbers.
        unclear: Why its splits are not those of images, in words; empty if they are.
        groups: What it lists that stands in the names of images, such as `subject07`.
        grouped_by: What it groups images by, such as "patient"; empty if it does not.
    """

    splits: Mapping[str, frozenset[str]] = MappingProxyType({})
    missing: Sequence[str] = ()
    unread: str = ""
    names_images: bool = False
    of_data: bool = False
    unclear: str = ""
    groups: Sequence[str] = ()
    grouped_by: str = ""


def read(
    file: ImageFile,
    name: ListName | None,
    index: ImageIndex,
    contents: Callable[..., bytes],
    *,
    expected: bool,
) -> Contents:
    """Reads one file; of a file that names no image only the beginning.

    Args:
        file: The file.
        name: What its name says; None where it does not look like a list.
        index: Of the images.
        contents: What gives a file's contents, with a second argument at most so many bytes.
        expected: Whether a list of images that are not there is an error.

    Raises:
        UserError: It is a list, and of other images or of a split twice.
    """
    try:
        if file.name.lower().endswith(".xlsx"):
            return _of_sheets(contents(file), index)
        if file.name.lower().endswith(SETTINGS) and name is not None:
            return _of_settings(decoded(contents(file, _FIRST_BYTES)), index)
        if not is_read(file):
            return Contents()
        start = contents(file, _FIRST_BYTES)
        if len(start) < min(file.size, _FIRST_BYTES):
            return Contents(unread="cannot be read from a compressed archive: unpack it")
        head = decoded(start)
        if not head.strip():
            return Contents(unread="is empty")
        if head.count("\0") or head.count("\ufffd") > _SOME * len(head):
            return Contents(unread="holds no text")
        is_json = file.name.lower().endswith(".json")
        if len(start) == _FIRST_BYTES:
            told = (
                _of_json_start(head, index) if is_json else _of_start(file.name, head, name, index)
            )
            if told is not None:
                return told
            if file.size > _MOST_BYTES:
                return Contents(unread=f"is larger than {_MOST_BYTES // 2**20} MB")
            head = decoded(contents(file))
        if is_json:
            return _of_json(file.name, json.loads(head), name, index, expected=expected)
        return _of_rows(file.name, list(rows_of(head)), name, index, expected=expected)
    except UserError:
        raise
    except (ValueError, RecursionError, csv.Error, zipfile.BadZipFile) as error:
        return Contents(unread=f"is damaged ({error})")
    except Exception as error:  # Links to nothing, damaged archives: of many kinds.
        reason = error.strerror if isinstance(error, OSError) else None
        return Contents(unread=f"cannot be read ({reason or error})")


def _of_sheets(data: bytes, index: ImageIndex) -> Contents:
    """Whether a workbook of Excel names images; jtl does not read which."""
    with zipfile.ZipFile(io.BytesIO(data)) as book:
        parts = [part for part in book.infolist() if _SHEET.match(part.filename)]
        if sum(part.file_size for part in parts) > _MOST_BYTES:
            return Contents()
        texts = {t for part in parts for t in _CELL.findall(decoded(book.read(part)))}
    names, _ = index.of_all(texts)
    return Contents(names_images=len(names) > max(1, _SOME * len(texts)))


def _of_settings(head: str, index: ImageIndex) -> Contents:
    """Whether YAML and the like names images, or holds settings; jtl does not read which."""
    texts = {text.strip(" -\t\r") for text in _TEXT.findall(head)}
    if sum(map(index.may_name, texts)) > max(1, _SOME * len(texts)):
        return Contents(names_images=True)
    lines = [line for line in head.splitlines() if line.strip(" {}")]
    settings = sum(_SETTING.search(line) is not None for line in lines)
    return Contents(of_data=settings >= _ENOUGH * len(lines))


def _of_start(where: str, head: str, name: ListName | None, index: ImageIndex) -> Contents | None:
    """What the beginning of a long file says; None where one has to read on."""
    rows = list(rows_of(head.rpartition("\n")[0]))[:FIRST_ROWS]
    if not rows or splits_of(rows) is not None:
        return None if rows else Contents(of_data=True)
    if name is None:
        unclear = _half_known(rows, index)
        return Contents(unclear=unclear, grouped_by=image_groups.column_of(where, rows, index))
    if any(index.may_name(cell) for row in rows for cell in row):
        return None
    numbers = sum(len(row) > _MOST_NUMBERS for row in rows)
    return Contents(of_data=numbers > _ENOUGH * len(rows))


def _of_json_start(head: str, index: ImageIndex) -> Contents | None:
    found = any(index.may_name(text) for text in _STRING.findall(head))
    return None if found else Contents(of_data=True)


def _of_rows(
    where: str,
    rows: list[list[str]],
    name: ListName | None,
    index: ImageIndex,
    *,
    expected: bool,
) -> Contents:
    table = _of_table(rows, index)
    if name is None and table == Contents():
        return Contents(grouped_by=image_groups.column_of(where, rows, index))
    if table.splits or name is None:
        return table
    images = index.of_rows(rows)
    missing = [row[0] for row, image in zip(rows, images, strict=True) if image is None]
    found = len(rows) - len(missing)
    if name.of_several:
        return Contents(names_images=found >= _ENOUGH * len(rows))
    if found < _ENOUGH * len(rows):
        if sum(index.is_elsewhere(row) for row in rows) >= _ENOUGH * len(rows):
            return Contents(of_data=True)  # Of a flat test/, which has no labels.
        like_images = sum(any(by_ending(cell) for cell in row) for row in rows)
        if not expected or (
            like_images <= _ENOUGH * len(rows) and found < max(2, _SOME * len(rows))
        ):
            groups = image_groups.in_names(rows, index) if expected and not found else ()
            of_data = all(len(row) > _MOST_NUMBERS for row in rows)
            return Contents(of_data=of_data, groups=groups)
    if missing and missing[0] == rows[0][0] and _is_head(rows):
        missing = missing[1:]
    return _of_one(where, name, frozenset(filter(None, images)), missing)


def _is_head(rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row of a table names its columns: in words, where others have numbers."""
    if not re.search(r"[\d/\\]", rows[0][0]):
        return True
    numbers = [any(map(_NUMBER.fullmatch, row)) for row in rows]
    return (
        len(rows) > 1 and not numbers[0] and all(numbers[1:]) and not any(map(by_ending, rows[0]))
    )


def _of_one(where: str, name: ListName, names: frozenset[str], missing: list[str]) -> Contents:
    """Of a list of one split.

    Raises:
        UserError: It is of other images.
    """
    if len(missing) > max(1, (1 - _NEARLY_ALL) * (len(names) + len(missing))):
        raise UserError(
            f"'{where}' lists images that are not there, or whose names are not theirs alone: "
            f"{listed(missing, 3)}. Correct it, or move it elsewhere. {WAY_OUT}"
        )
    split = name.split
    if split is None or not names:
        return Contents(names_images=bool(names))
    return Contents({split: names}, missing, names_images=True)


def _of_table(rows: Sequence[Sequence[str]], index: ImageIndex) -> Contents:
    """Of a table that says the split of every row."""
    said = splits_of(rows)
    if said is None:
        return Contents(unclear=_half_known(rows, index))
    rows = rows[1:] if said.has_head else rows
    found: dict[str, set[str]] = defaultdict(set)
    missing = []
    for row, name in zip(rows, index.of_rows(rows), strict=True):
        split = said.of_row(row)
        if name is not None:
            found[split or ""].add(name)
        elif split is not None:
            missing.append(row[0])
    others = found.pop("", set())
    if len(others) > _ENOUGH * sum(map(len, found.values())):  # A column of something else.
        words = sorted({*map(said.cell, rows)})
        unclear = f"has a column '{said.name}' of {listed(words, 5)}, and no word for a split"
        return Contents(unclear=unclear if said.name and len(words) <= _MOST_CODES else "")
    if not found and said.sure:
        return Contents(unclear=f"says splits, and of no image (a row is '{rows[0][0][:60]}')")
    splits = {split: frozenset(names) for split, names in found.items()}
    return Contents(splits, missing if splits else (), names_images=bool(splits))


def _half_known(rows: Sequence[Sequence[str]], index: ImageIndex) -> str:
    """A column in which some cells are splits (`training`), and others no words for them."""
    first = rows[1:FIRST_ROWS]
    for column, head in enumerate(rows[0]):
        cells = [row[column] for row in first if column < len(row)]
        values = {*cells}
        known = {cell for cell in values if len(words_of(cell)) == 1 and splits_in(cell)}
        if not column or not 1 < len(values) <= _MOST_CODES or not known or values & index.folders:
            continue
        if len(known) < len(values) and index.of_rows(first).count(None) <= _ENOUGH * len(first):
            return (
                f"has a column '{head}' of {listed(sorted(values), _MOST_CODES)}, which only in "
                "part are words for splits"
            )
    return ""


def _of_json(
    where: str, content: Any, name: ListName | None, index: ImageIndex, *, expected: bool
) -> Contents:
    keys = {key: splits_in(key) for key in content} if isinstance(content, dict) else {}
    if len(keys) > 1 and all(len(s) == 1 and "unlabelled" not in s for s in keys.values()):
        by_split: dict[str, frozenset[str]] = {}
        lost: list[str] = []
        for key, (split,) in keys.items():
            names, missing = index.of_all(_texts(content[key]))
            lost += missing
            split = "trainval" if "trainval" in key.lower().replace("_", "") else split
            if names and by_split.setdefault(split, names) != names:
                raise UserError(
                    f"'{where}' has several lists for the {split} split, such as {key!r}. Keep one "
                    f"for each split. {WAY_OUT}"
                )
        return Contents(by_split, lost if by_split else (), names_images=bool(by_split))
    if isinstance(content, dict) and not any(isinstance(v, list | dict) for v in content.values()):
        if not any(map(index.may_name, content)):
            return Contents(of_data=True)  # Settings.
        rows = [[key, key, str(value)] for key, value in content.items()]
        return _of_rows(where, rows, name, index, expected=expected)
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        return _of_rows(where, list(rows_of_objects(content)), name, index, expected=expected)
    if name is None:
        return Contents()
    names, missing = index.of_all(_texts(content))
    if not names and not (expected and missing):
        rows = ([text] for text in _texts(content))
        return Contents(groups=image_groups.in_names(rows, index) if expected else ())
    if not expected and len(missing) > len(names):
        return Contents()
    return _of_one(where, name, names, missing)


def _texts(content: Any) -> Iterator[str]:
    """All strings in a JSON value."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, (dict, list)):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _texts(value)


def read_cub(
    files: Mapping[str, ImageFile], index: ImageIndex, contents: Callable[[ImageFile], bytes]
) -> Contents:
    """Of CUB-200: `1 001.Albatross/a.jpg` in one file and `1 0` (not for training) in another.

    Args:
        files: By their names in lower case.
        index: Of the images.
        contents: What gives a file's contents.
    """
    texts = [text_of(files[name], contents) for name in CUB if name in files]
    try:
        images, trained = (dict(row[1:3] for row in rows_of(t or "") if row[2:]) for t in texts)
    except (ValueError, csv.Error):  # Only one of them is there, or none.
        return Contents()
    found: dict[str, set[str]] = defaultdict(set)
    missing = []
    for key, path in images.items():
        name, cell = index.of_text(path), trained.get(key)
        if name is None:
            missing.append(path)
        elif cell in (*TRUE, *FALSE):
            found["train" if cell in TRUE else "test"].add(name)
    splits = {split: frozenset(names) for split, names in found.items()}
    return Contents(splits, missing, names_images=bool(splits))
