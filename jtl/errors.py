"""The one exception type that means "the user can fix this"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Input that jtl cannot work with.

    The message says what was seen, what is allowed and what to do. Commands print it on
    stderr and exit with code 2; library callers catch it as a `ValueError`.
    """


def suggest(word: str, candidates: Iterable[str]) -> str:
    """A phrase naming the candidate closest to `word`, or an empty string.

    Example:
        >>> suggest("head_onyl", ["head_only", "full"])
        " Did you mean 'head_only'?"
    """
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""
