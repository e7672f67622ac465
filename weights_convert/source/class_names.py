"""Names of a classifier's classes among the plain values beside a file's tensors.

Training programs keep them as they like: torchvision's `class_to_idx`, a list `classes`, an
`id2label`. They are taken where they fit the classifier, and named where they do not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

from weights_convert.printable import is_text, listed, shown
from weights_convert.read.readers import SourceFile
from weights_convert.read.torch_pickle import Dropped
from weights_convert.source.description import Source
from weights_convert.source.places import is_name, places

_NAMES = {
    "classes", "classnames", "classname", "labelnames", "labels", "names", "categories",
    "categorynames", "targetnames", "vocab", "labelmap", "labelsmap", "classmap", "classindices",
} | {f"{a}to{b}" for a in ("class", "label", "cat", "category", "name")
     for b in ("idx", "index", "id")} | {f"{b}to{a}" for a in ("class", "label", "cat", "category",
     "name") for b in ("idx", "index", "id")}  # fmt: skip
"""Of entries, without underscores, in lower case, and `to` for 2."""
_ENDINGS = ("classes", "classnames", "labelnames", "categories")
"""Of others, such as `label_encoder_classes`."""
_MOST = 100_000
_LONGEST = 1000
_MOST_IN_TEXT = 1000


def named(source: Source, file: SourceFile, num_classes: int | None) -> Source:
    """The source with the class names that the file's plain values give, if it has none.

    Args:
        source: What is known.
        file: The file that was read.
        num_classes: Outputs of its classifier; None without one.
    """
    if not num_classes:
        return source
    own = source.class_names
    if own and len(own) != num_classes:
        note = (
            f"what lies next to the weights names {len(own):,} classes, and their classifier has "
            f"{num_classes:,}: the names are not used"
        )
        source = dataclasses.replace(source, class_names=None, notes=(*source.notes, note))
    elif own:
        return source
    foreign = file.format == "safetensors" and "jtl" not in file.metadata
    value = file.metadata if foreign else file.value
    found = dict(_found(value, file.wrappers))
    unread = [place for place, names in found.items() if names == ()]
    numbered = [place for place, names in found.items() if names is None]
    found = {place: names for place, names in found.items() if names}
    fitting = {place: names for place, names in found.items() if len(names) == num_classes}
    notes = []
    if len({*fitting.values()}) == 1:
        place, names = next(iter(fitting.items()))
        source = dataclasses.replace(source, class_names=names)
        notes.append(f"the names of the {num_classes:,} classes come from {place}")
    elif fitting:
        notes.append(f"{listed(fitting)} name the classes differently: the names are not used")
    else:
        notes += [
            f"{place} names {len(names):,} classes, and the classifier has {num_classes:,}: the "
            "names are not used"
            for place, names in found.items()
        ]
    if numbered and not found:
        verb = "numbers" if len(numbered) == 1 else "number"
        notes.append(
            f"{listed(numbered)} {verb} the classes otherwise than the outputs, which count from 0 "
            f"to {num_classes - 1}: the names are not used"
        )
    if unread and not found:
        notes.append(
            f"{listed(unread)} may name the classes, and is an object that is not read: save the "
            "names as a list of text"
        )
    return dataclasses.replace(source, notes=(*source.notes, *notes))


def _found(
    value: object, wrappers: tuple[str, ...]
) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    """The names in every place that has some.

    They are empty of an object that is not read, and None where they do not count from 0.
    """
    for place, values in places(value, wrappers, lambda text: None):
        for key, said in values.items():
            plain = key.lower().replace("_", "").replace("2", "to") if is_name(key) else ""
            if plain not in _NAMES and not plain.endswith(_ENDINGS):
                continue
            names = _names(said)
            other = not names and _is_numbered(said)
            if names or other or isinstance(said, Dropped):
                name = f"{place}.{key}" if place else key
                yield f"the file's '{shown(name, 60)}'", None if other else names


def _names(said: Any) -> tuple[str, ...]:
    """Names in the order of the classes; empty where it is something else."""
    if isinstance(said, str):
        said = _parsed(said)
    if isinstance(said, dict):
        said = _in_order(said)
    if not isinstance(said, (list, tuple)) or not 1 < len(said) <= _MOST:
        return ()
    sound = all(isinstance(n, str) and n and len(n) < _LONGEST and is_text(n) for n in said)
    return tuple(said) if sound and len({*said}) == len(said) else ()


def _parsed(text: str) -> object:
    """What a text says: JSON, or names with commas or line breaks between them."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    if len(text) > _LONGEST * _MOST_IN_TEXT or text.lstrip()[:1] in ("[", "{", "("):
        return text
    parts = text.strip().split("\n" if "\n" in text.strip() else ",")
    return [part.strip() for part in parts]


def _is_numbered(said: object) -> bool:
    """Whether classes have numbers, each another one, which do not count from 0."""
    said = _parsed(said) if isinstance(said, str) else said
    if not isinstance(said, dict) or not 1 < len(said) <= _MOST:
        return False
    return any(
        len({number for end in ends if (number := _number(end)) is not None}) == len(said)
        and all(isinstance(name, str) and _number(name) is None for name in names)
        and len({*names}) == len(said)
        for names, ends in ((said, said.values()), (said.values(), said))
    )


def _in_order(said: dict[Any, Any]) -> list[Any]:
    """The names of {name: number} or {number: name} by their numbers, which count from 0."""
    if not 1 < len(said) <= _MOST:
        return []
    for pairs in (((k, v) for k, v in said.items()), ((v, k) for k, v in said.items())):
        by_number = {number: name for name, n in pairs if (number := _number(n)) is not None}
        if by_number.keys() == {*range(len(said))}:
            return [by_number[number] for number in range(len(said))]
    return []


def _number(value: Any) -> int | None:
    if type(value) is int:
        return value
    short = isinstance(value, str) and len(value) < 7
    return int(value) if short and value.isascii() and value.isdigit() else None
