"""The dictionaries of plain values beside a file's tensors, wherever a program keeps them."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterator
from typing import Any

from weights_convert.read.torch_pickle import Settings

# Entries that describe the network or its images; others are of an optimizer, a head, a teacher.
_DESCRIBING = re.compile(
    r"(?i)args|arguments|h_?params|hyper_?param\w*|(dataset_)?meta\w*|opts?|options|settings|"
    r"\w*(config|cfg)\w*|\w*norm\w*|\w*pre_?proc\w*|\w*transforms?|(data|model|net\w*)(_?\w*args)?|"
    r"backbone|encoder"
)
_MOST_PLACES, _DEPTH, _MOST_TEXT = 1000, 6, 1_000_000
_LONGEST_NAME = 300


def is_name(key: object, part: str = "") -> bool:
    """Whether a key of a dictionary is a name that a program may give, with `part` in it."""
    return isinstance(key, str) and len(key) < _LONGEST_NAME and part in key


def places(
    value: object, wrappers: tuple[str, ...], parsed: Callable[[str], dict[str, Any] | None]
) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Every dictionary that may describe the network, once, with its place.

    Args:
        value: All that a file holds.
        wrappers: Entries around the tensors, which are looked into as well.
        parsed: What makes a dictionary of a text, such as a configuration's.

    Yields:
        The place, such as `args`, or "" for the top of the file; and what is there.
    """
    pending: collections.deque[tuple[str, object, int]] = collections.deque([("", value, 0)])
    seen: dict[int, object] = {}
    text_left = _MOST_TEXT
    for _ in range(_MOST_PLACES):
        if not pending:
            return
        place, found, depth = pending.popleft()
        found = getattr(found, "values", None) if isinstance(found, Settings) else found
        if isinstance(found, str) and place:
            text_left -= len(found)
            found = parsed(found) if text_left > 0 else None
        if not isinstance(found, dict) or id(found) in seen:
            continue
        seen[id(found)] = found
        yield place, found
        if depth < _DEPTH:
            pending += [
                (f"{place}.{key}" if place else key, inner, depth + 1)
                for key, inner in found.items()
                if is_name(key) and (_DESCRIBING.fullmatch(key) or key in wrappers)
            ]
