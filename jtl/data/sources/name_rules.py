"""Rules that say which part of an image's name is its label, or its group."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from jtl.common.errors import UserError, suggest
from jtl.common.text import counted
from jtl.data.sources.stores import ImageFile, stem_of

_BEFORE_NUMBER = re.compile(r"^(?P<label>.*?[^\W\d_])[ ._-]*\(?\d+\)?$")
_FIRST_WORD = re.compile(r"^(?P<label>[^ ._-]+)[ ._-]")
REGEX = "regex:"
"""What begins a rule that is a regular expression."""


class Rule(NamedTuple):
    """How the label of an image is read.

    Attributes:
        label_of: From an image to its label; None where there is none.
        told: Where it comes from, in words.
    """

    label_of: Callable[[ImageFile], str | None]
    told: str


def rule_of(text: str, flag: str = "--label-from", group: str = "label") -> Rule:
    """The rule that an option says.

    Args:
        text: `name`, `first-word`, `parent` or `regex:EXPRESSION`.
        flag: The option, for messages.
        group: The name of the group of the expression that is taken.

    Raises:
        UserError: It is none of these, or the expression has no such group.
    """
    rules = {
        "name": Rule(_matcher(_BEFORE_NUMBER, stem_of), "the names of the files"),
        "first-word": Rule(_matcher(_FIRST_WORD, str), "the first words of the files' names"),
        "parent": Rule(lambda image: image.parts[-2] if image.parts[1:] else None,
                       "the folders that the files are in"),
    }  # fmt: skip
    if text in rules:
        return rules[text]
    if not text.startswith(REGEX):
        raise UserError(
            f"{flag} {text}: give name (for cat.0.jpg or yorkshire_terrier_101.jpg), first-word "
            f"(for cat_on_sofa.jpg), parent (the folder's name), or a regular expression: "
            f"'{REGEX}^(?P<{group}>[a-z]+)_'.{suggest(text, rules)}"
        )
    try:
        pattern = re.compile(text.removeprefix(REGEX))
    except re.error as error:
        raise UserError(f"{flag} {text}: no regular expression ({error}).") from error
    if group not in pattern.groupindex and pattern.groups != 1:
        raise UserError(
            f"{flag} {text}: the expression has {counted(pattern.groups, 'group')}, none called "
            f"{group}. Mark the part that is the {group}: (?P<{group}>...)"
        )
    place = group if group in pattern.groupindex else 1
    whole = "/" in pattern.pattern

    def label_of(image: ImageFile) -> str | None:
        match = pattern.search(image.name if whole else image.parts[-1])
        return match[place] if match else None

    return Rule(label_of, f"the {'paths' if whole else 'names'} of the files by {text}")


def _matcher(
    pattern: re.Pattern[str], part: Callable[[str], str]
) -> Callable[[ImageFile], str | None]:
    def label_of(image: ImageFile) -> str | None:
        match = pattern.search(part(image.parts[-1]))
        return match["label"] if match else None

    return label_of
