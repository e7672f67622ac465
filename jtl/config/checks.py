"""Checks of single options, to stand in their annotations; None is no value and passes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.common.quantities import number, parse_bytes, parse_seconds
from jtl.config import walk

LARGEST_SEED = 2**31 - 1
"""What every generator of random numbers takes."""


def positive(flag: str, value: float | None) -> None:
    """Refuses what is not a finite number above 0."""
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{flag} must be a positive number, not {value}.")


def at_least(minimum: int) -> walk.Check:
    """Refuses what is not a finite number from `minimum` on."""

    def check(flag: str, value: float | None) -> None:
        if value is not None and not minimum <= value < math.inf:
            raise UserError(f"{flag} must be at least {minimum}, not {value}.")

    return check


def within(minimum: int, maximum: int) -> walk.Check:
    """Refuses what is not from `minimum` to `maximum`; text passes, such as `auto`."""
    enough = at_least(minimum)

    def check(flag: str, value: int | str | tuple[int, ...] | None) -> None:
        for each in value if isinstance(value, tuple) else (value,):
            if each is None or isinstance(each, str):
                continue
            enough(flag, each)
            if each > maximum:
                raise UserError(f"{flag} must be from {minimum} to {maximum}, not {each}.")

    return check


seed = within(0, LARGEST_SEED)


def share(flag: str, value: float | None) -> None:
    """Refuses what is not from 0 on and below 1."""
    if value is not None and not 0 <= value < 1:
        raise UserError(f"{flag} must be at least 0 and below 1, not {value}.")


def abstention(flag: str, value: str | None) -> tuple[str, float]:
    """Refuses what is neither a probability nor `error:` and a share of wrong answers.

    Returns:
        (`threshold` or `error`, the share).
    """
    if value is None:
        return "threshold", 0.0
    kind, divider, text = value.rpartition(":")
    found = number(text)
    if found is not None and 0 <= found < 1 and (not divider or kind == "error"):
        return ("error" if divider else "threshold"), found
    raise UserError(
        f"{flag} must be a probability of at least 0 and below 1, such as 0.9, or a share of wrong "
        f"answers, such as error:0.05, not '{value}'."
    )


def size(flag: str, value: str | None) -> None:
    """Refuses what is no number of bytes, such as 4GB."""
    if value is not None:
        parse_bytes(flag, value)


def duration(flag: str, value: str | None) -> None:
    """Refuses what is no time, such as 10m."""
    if value is not None:
        parse_seconds(flag, value)


def png(flag: str, value: Path | None) -> None:
    """Refuses the name of a file that is no .png."""
    if value is not None and value.suffix.lower() != ".png":
        raise UserError(f"{flag} writes a .png file, not '{value}'.")


def idle(options: Any, names: Iterable[str], why: str) -> None:
    """Refuses options that were given and would do nothing.

    Args:
        options: An area.
        names: Options of it.
        why: The rest of a sentence that begins with their flags.

    Raises:
        UserError: One of them is not as by default.
    """
    known, given = walk.options(type(options)), walk.changed(options)
    if flags := [known[name].flag for name in names if name in given]:
        raise UserError(f"{', '.join(flags)}: {why}")
