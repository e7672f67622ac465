"""Text of other people's making, such as names of files and classes, where it could do harm."""

from __future__ import annotations

import re

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


def for_terminal(text: str) -> str:
    """Text without control characters, by which a name could rule a terminal: U+FFFD for each."""
    return text.translate(_CONTROL)


def for_markdown(text: str) -> str:
    """Text as it is, in one line: what Markdown would take for markup is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", re.sub(r"\s+", " ", text))


def for_spreadsheet(text: str) -> str:
    """Text that spreadsheets do not run: what looks like a formula gets an apostrophe before it."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
