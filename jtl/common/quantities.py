"""Numbers and sizes from text, and sizes for people."""

from __future__ import annotations

import re

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


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_bytes(option: str, text: str) -> int:
    """Bytes from a text such as `4GB`, `500 MB`, `1.5GiB` or `1000000`.

    Args:
        option: Where the text is from, for the message.
        text: The size.

    Raises:
        UserError: It is none.

    Example:
        >>> parse_bytes("--cache-budget", "1.5GiB")
        1610612736
    """
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgt]?)(i?)b?)", text.strip().lower())
    if match is None or (match[3] and not match[2]):
        raise UserError(f"{option} must be a size such as 4GB, 500MB or 0, not '{text}'.")
    return int(float(match[1]) * (_BINARY if match[3] else _UNITS)[match[2]])


_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


def parse_seconds(option: str, text: str) -> float:
    """Seconds from a text such as `90s`, `10m`, `2h` or `1h30m`.

    Args:
        option: Where the text is from, for the message.
        text: The time.

    Raises:
        UserError: It is none, or none at all.

    Example:
        >>> parse_seconds("--budget", "1h30m")
        5400.0
    """
    match = _DURATION.fullmatch(re.sub(r"\s", "", text.lower()))
    parts = [float(part or 0) for part in match.groups()] if match else []
    seconds = sum(part * unit for part, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise UserError(f"{option} must be a time such as 90s, 10m, 2h or 1h30m, not '{text}'.")
    return seconds


def format_bytes(count: int) -> str:
    """Bytes for people.

    Example:
        >>> format_bytes(1_310_000_000)
        '1.3 GB'
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= 0.9995 * unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} bytes"


def format_seconds(seconds: float) -> str:
    """A time for people.

    Example:
        >>> [format_seconds(s) for s in (0.04, 3.14, 45.3, 754, 9000)]
        ['under 0.1 s', '3.1 s', '45 s', '13 min', '2 h 30 min']
    """
    if seconds < 0.1:
        return "under 0.1 s"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
