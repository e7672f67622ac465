"""Seconds, bytes and dollars for people, with two digits."""

from __future__ import annotations


def seconds(count: float) -> str:
    """For people: two digits."""
    for limit, unit, name in ((1e-3, 1e-6, "µs"), (1, 1e-3, "ms"), (120, 1, "s")):
        if count < limit:
            return f"{digits(count / unit)} {name}"
    for limit, unit, name in ((7200, 60, "min"), (48 * 3600, 3600, "h")):
        if count < limit:
            return f"{digits(count / unit)} {name}"
    return f"{digits(count / 86400)} days"


def size(count: float) -> str:
    """Bytes for people: two digits."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= 0.995 * unit:
            return f"{digits(count / unit)} {name}"
    return "0" if not count else f"{count:.0f} B"


def digits(number: float) -> str:
    """Two of them, with what zeros they need."""
    if number >= 9.95:
        zeros = len(str(round(number))) - 2
        return f"{round(number / 10**zeros) * 10**zeros:,}"
    return f"{number:.1f}" if number >= 0.995 else f"{number:.2g}"


def money(range_: tuple[float, float]) -> str:
    """From the least to the most, in dollars."""
    return " to ".join(f"${digits(end)}" for end in range_)
