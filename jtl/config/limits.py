"""What numbers an option takes, and the message where another is given."""

from __future__ import annotations

from jtl.common.errors import UserError


def number(text: str) -> float | None:
    """The number that a text says, or None."""
    try:
        return float(text)
    except ValueError:
        return None


def whole(text: str) -> int | None:
    """The whole number from 0 on that a text says, or None."""
    try:
        return int(text) if text.isdecimal() else None
    except ValueError:  # Of more digits than Python reads.
        return None


def positive(option: str, value: float | None) -> None:
    """Refuses what is not a finite number above 0; None is no value and passes."""
    if value is not None and not 0 < value < float("inf"):
        raise UserError(f"{option} must be a positive number, not {value}.")


def at_least(option: str, value: float | None, minimum: int) -> None:
    """Refuses what is not a finite number from `minimum` on; None passes."""
    if value is not None and not minimum <= value < float("inf"):
        raise UserError(f"{option} must be at least {minimum}, not {value}.")


def within(option: str, value: int | None, minimum: int, maximum: int) -> None:
    """Refuses what is not from `minimum` to `maximum`; None passes."""
    at_least(option, value, minimum)
    if value is not None and value > maximum:
        raise UserError(f"{option} must be from {minimum} to {maximum}, not {value}.")


def share(option: str, value: float | None) -> None:
    """Refuses what is not from 0 on and below 1; None passes."""
    if value is not None and not 0 <= value < 1:
        raise UserError(f"{option} must be at least 0 and below 1, not {value}.")
