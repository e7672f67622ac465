"""Text of other people's making, such as names of files and classes, where it could do harm."""

from __future__ import annotations

import itertools
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


def shortened(text: str, width: int) -> str:
    """Text in one line of printable characters, without its middle where it is too long.

    Both ends are kept, which is where species of one genus and files of one folder differ.

    Example:
        >>> shortened("Bombus_terrestris_audax", 16)
        'Bombus..._audax'
    """
    text = "".join(c if c.isprintable() else "\ufffd" for c in text)
    if len(text) <= width:
        return text
    before = (width - 3) // 2
    return f"{text[:before]}...{text[len(text) - (width - 3 - before) :]}"


def shortened_apart(texts: Sequence[str], width: int) -> list[str]:
    """Texts as `shortened` gives them, but those that would then be alike show where they differ.

    Example:
        >>> shortened_apart(["Parus_major_left_side_2021", "Parus_major_right_side_2021"], 16)
        ['Paru...r_left_si', 'Paru...r_right_s']
    """
    found = [shortened(text, width) for text in texts]
    alike: dict[str, list[int]] = {}
    for index, short in enumerate(found):
        alike.setdefault(short, []).append(index)
    head = width // 4
    for rows in alike.values():
        if len({texts[row] for row in rows}) > 1:
            whole = [shortened(texts[row], len(texts[row])) for row in rows]
            pairs = zip(min(whole), max(whole), strict=False)
            shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            begin = max(shared - 2, head)
            for row, text in zip(rows, whole, strict=True):
                found[row] = f"{text[:head]}...{text[begin : begin + width - head - 3]}"
    return found


def percent(share: float) -> str:
    """A probability for people; what is nearly 0 or 1 is not rounded to it.

    Example:
        >>> percent(0.0001), percent(0.345), percent(0.9999), percent(1.0)
        ('<1 %', '34 %', '>99 %', '100 %')
    """
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{100 * share:.0f} %"


def indented(items: Sequence[object], most: int) -> list[str]:
    """A line for each of the first items, and one for how many more there are."""
    more = [f"  ... and {len(items) - most} more"] if len(items) > most else []
    return [*(f"  {item}" for item in items[:most]), *more]


def type_of(value: object) -> str:
    """What a value is, for messages: `None` or `of type int`."""
    return "None" if value is None else f"of type {type(value).__name__}"


def for_terminal(text: str) -> str:
    """Text without control characters, by which a name could rule a terminal: U+FFFD for each."""
    return text.translate(_CONTROL)


def for_markdown(text: str) -> str:
    """Text as it is, in one line: what Markdown would take for markup is escaped."""
    line = re.sub(r"\s+", " ", text).translate(_CONTROL)
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", line)


def for_spreadsheet(text: str) -> str:
    """Text that does nothing in a spreadsheet or terminal.

    What looks like a formula gets an apostrophe before it, control characters become U+FFFD.
    """
    shown = for_terminal(text)
    return f"'{shown}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else shown
