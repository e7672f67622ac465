"""Files that hold images of one split each, as their names say."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources.names import splits_in
from jtl.data.splits import LeftOut

_OF_SEVERAL = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_FILES = 100_000


class FileKind(NamedTuple):
    """Files of one format.

    Attributes:
        told: What messages call them, in the plural.
        scheme: The word before the colon of a source.
        endings: Of their names; the first is the usual one.
        example: A pattern that finds some of them.
        ranges: Whether patterns may have ranges such as `{000..012}`.
    """

    told: str
    scheme: str
    endings: tuple[str, ...]
    example: str
    ranges: bool = False


def files_of(patterns: str, kind: FileKind) -> list[Path]:
    """The files that patterns name, in their order.

    Args:
        patterns: Paths, separated by commas: files, folders, or patterns with `*` or ranges.
        kind: Of which folders give the files.

    Raises:
        UserError: A pattern names none, or a file of a range is missing.
    """
    found: list[Path] = []
    for pattern in patterns.split(","):
        place = os.path.expanduser(pattern.strip())
        if os.path.isdir(place):
            matches = sorted(
                str(path)
                for path in Path(place).rglob("*")
                if path.name.lower().endswith(kind.endings)
                and not path.name.startswith(".")
                and path.is_file()
            )
        elif kind.ranges and _RANGE.search(place) and not os.path.isfile(place):
            matches = _of_range(place)
        else:
            matches = [place] if os.path.isfile(place) else sorted(glob.glob(place, recursive=True))
        if not matches:
            raise UserError(
                f"There are no {kind.told} '{pattern.strip()}'. Give files, folders of "
                f"{kind.endings[0]} files or patterns such as '{kind.example}', separated by "
                "commas."
            )
        found += map(Path, matches)
    return list(dict.fromkeys(found))


def _of_range(pattern: str) -> list[str]:
    """The files of `NAME-{000..012}.tar`, which all must be there."""
    pending, names = [pattern], []
    while pending:
        text = pending.pop()
        match = _RANGE.search(text)
        if match is None:
            names.append(text)
            continue
        first, last = int(match[1]), int(match[2])
        if last < first or last - first >= _MOST_FILES:
            raise UserError(
                f"The range {match[0]} of '{pattern}' is not possible: write the first and the "
                f"last number of at most {_MOST_FILES:,} files, such as {{000..012}}."
            )
        width = len(match[1])
        numbers = range(last, first - 1, -1)
        pending += [f"{text[: match.start()]}{n:0{width}}{text[match.end() :]}" for n in numbers]
    if missing := [name for name in names if not os.path.isfile(name)]:
        raise UserError(
            f"{counted(len(missing), 'file')} of '{pattern}' missing: {listed(missing, 3)}."
        )
    return names


def refuse_missing(patterns: str, files: Iterable[Path]) -> None:
    """Raises `UserError` if a folder lacks some of the files that names such as these count.

    Args:
        patterns: What was given; who names files or a pattern may mean some of them.
        files: Those that are there, such as `train-00000-of-00003.parquet`.
    """
    if not any(os.path.isdir(os.path.expanduser(place.strip())) for place in patterns.split(",")):
        return
    there: dict[tuple[Path, str, int, str], set[int]] = {}
    for path in files:
        if match := _OF_SEVERAL.fullmatch(path.name):
            key = path.parent, match[1], int(match[3]), match[4]
            there.setdefault(key, set()).add(int(match[2]))
    for (folder, start, count, end), numbers in there.items():
        if len(numbers) < count <= _MOST_FILES:
            lost = [f"{start}-{n:05}-of-{count:05}{end}" for n in range(count) if n not in numbers]
            raise UserError(
                f"{folder} lacks {len(lost):,} of {counted(count, 'file')}, going by their names: "
                f"{listed(lost, 3)}. Download them; or name the files to use, with a pattern such "
                f"as '{folder}/{start}-*{end}'."
            )


def by_split(
    files: Sequence[Path], kind: FileKind
) -> tuple[dict[str, list[Path]], tuple[LeftOut, ...]]:
    """The files of every split, train first, and those of unlabelled images.

    Raises:
        UserError: It is not clear of which split some are, or none are for training.
    """
    by_name: dict[str | None, list[Path]] = {}
    top = os.path.commonpath([path.parent for path in files])
    for path in files:
        # The file's own name counts before its folder's, and that before the one around it.
        above = reversed(path.parent.relative_to(top).parts)
        named = (splits_in(name) for name in (path.stem, *above))
        found = next(filter(None, named), set())
        if len(found) > 1:
            raise UserError(f"{path} names several splits: rename it to the one that it holds.")
        by_name.setdefault(next(iter(found), None), []).append(path)
    unlabelled = tuple(map(str, by_name.pop("unlabelled", ())))
    left_out = (LeftOut("files of unlabelled images", unlabelled),) if unlabelled else ()
    if set(by_name) == {None}:
        return {"train": by_name[None]}, left_out
    if None in by_name:
        names = [path.name for path in by_name[None]]
        ending = kind.endings[0]
        raise UserError(
            f"Some {kind.told} name a split and others do not: {listed(names)}. Name them like "
            f"train-00000{ending}, validation-00000{ending} and test-00000{ending}, or leave "
            "them out."
        )
    for split, paths in by_name.items():
        names = [path.name for path in paths]
        if twice := next((name for name in names if split and names.count(name) > 1), None):
            folders = [str(path.parent) for path in paths if path.name == twice]
            raise UserError(
                f"Several folders have a file {twice} of the {split} split, as if each were a data "
                f"set of its own: {listed(folders, 5)}. Give one of them: "
                f"{kind.scheme}:{folders[0]}"
            )
    if "train" not in by_name:
        raise UserError(f"There is no train split among {listed(p.name for p in files)}.")
    order = [split for split in ("train", "val", "test") if split in by_name]
    return {split: by_name[split] for split in order}, left_out


def fingerprint(paths: Iterable[Path], *more: str) -> str:
    """SHA-256 (hex) of files' names, sizes and modification times, and of `more`."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    for text in more:
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()
