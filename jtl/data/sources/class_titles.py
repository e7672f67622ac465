"""Names for people of classes that are called by numbers of WordNet, such as n01440764."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jtl.data.sources.stores import ImageFile, decoded
from jtl.data.splits import LeftOut

_FILES = (
    "loc_synset_mapping.txt", "synset_words.txt", "imagenet_class_index.json", "labels.json",
    "words.txt",
)  # fmt: skip
"""What files with such names are called, in lower case, those of ImageNet's classes first."""
_SYNSET = re.compile(r"n\d{8}")
_LINE = re.compile(r"(n\d{8})[\s,]+(\S.*)")
_ENOUGH = 0.5
"""The share of classes that are called by numbers, and of those that a file must name."""
_MOST_BYTES = 2**24
_ABOVE = 2
"""Folders above the data that are looked into, as ImageNet's file lies far above its images."""


class Titles(NamedTuple):
    """What classes are called.

    Attributes:
        names: By class; without those that the file does not name.
        file: The file's name, of one among the data its path there; empty where there is none.
    """

    names: Mapping[str, str] = {}
    file: str = ""

    @property
    def told(self) -> str:
        """How a sentence about the labels goes on."""
        file = self.file.rpartition("/")[2]
        return f"; {file} says what they are called" if self.names else ""

    def without_file(self, left_out: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
        """What is left out but for the file."""
        kept = (
            LeftOut(what, tuple(n for n in names if n != self.file)) for what, names in left_out
        )
        return tuple(left for left in kept if left.names)


def find(
    class_names: Sequence[str],
    others: Iterable[ImageFile],
    read: Callable[[ImageFile], bytes],
    place: Path,
) -> Titles:
    """What a file among or above the data calls the classes.

    Args:
        class_names: The classes.
        others: Files of the data that are no images.
        read: What gives their contents.
        place: The folder or archive.
    """
    numbers = {name for name in class_names if _SYNSET.fullmatch(name)}
    if len(numbers) < max(2, _ENOUGH * len(class_names)):
        return Titles()
    held: list[tuple[int, str, Callable[[], bytes]]] = []
    for file in others:
        if (rank := _rank(file.parts[-1])) is not None and 0 <= file.size <= _MOST_BYTES:
            held.append((rank, file.name, lambda file=file: read(file)))
    for folder in place.resolve().parents[:_ABOVE]:
        with contextlib.suppress(OSError):
            for path in sorted(folder.iterdir()):
                rank = _rank(path.name)
                if rank is not None and path.is_file() and path.stat().st_size <= _MOST_BYTES:
                    held.append((rank, path.name, path.read_bytes))
    for _, name, content in sorted(held, key=lambda one: one[0]):
        with contextlib.suppress(Exception):  # Damaged ones say nothing.
            text = decoded(content())
            titles = {key: title for key, title in _pairs(text).items() if key in numbers}
            if len(titles) >= _ENOUGH * len(numbers):
                return Titles(titles, name)
    return Titles()


def _rank(name: str) -> int | None:
    return _FILES.index(name.lower()) if name.lower() in _FILES else None


def _pairs(text: str) -> dict[str, str]:
    """Names by number: in lines `n01440764 tench, Tinca tinca`, or in JSON."""
    if text.lstrip()[:1] == "{":
        return {
            pair[0]: pair[1].strip()
            for item in json.loads(text).items()
            if (pair := _pair(*item)) is not None and pair[1].strip()
        }
    lines = (_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return {line[1]: line[2] for line in lines if line}


def _pair(key: str, value: Any) -> tuple[str, str] | None:
    """As in Keras's `{"0": ["n01440764", "tench"]}`, or `{"n01440764": "tench, Tinca tinca"}`."""
    pair = value if isinstance(value, list) else [key, value]
    whole = len(pair) == 2 and all(isinstance(one, str) for one in pair)
    return (pair[0], pair[1].replace("_", " ")) if whole and _SYNSET.fullmatch(pair[0]) else None
