"""Text of other people's making, such as names of files and classes, where it could do harm."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun.

    Args:
        count: The number.
        noun: For one.
        plural: For others; default with an s.

    Example:
        >>> counted(1, "epoch"), counted(1234, "epoch"), counted(2, "class", "classes")
        ('1 epoch', '1,234 epochs', '2 classes')
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def listed(names: Iterable[object], most: int = 10) -> str:
    """The first names, and how many more there are.

    Example:
        >>> listed(["ash", "elm", "oak"], 2)
        'ash, elm and 1 more'
    """
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def indented(items: Sequence[object], most: int) -> list[str]:
    """A line for each of the first items, and one for how many more there are."""
    more = [f"  ... and {len(items) - most} more"] if len(items) > most else []
    return [*(f"  {item}" for item in items[:most]), *more]


def for_terminal(text: str) -> str:
    """Text without control characters, by which a name could rule a terminal: U+FFFD for each."""
    return text.translate(_CONTROL)


def for_markdown(text: str) -> str:
    """Text as it is, in one line: what Markdown would take for markup is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", re.sub(r"\s+", " ", text))


def for_spreadsheet(text: str) -> str:
    """Text that spreadsheets do not run: what looks like a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
