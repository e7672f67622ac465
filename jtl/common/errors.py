"""The one exception type that means "the user can fix this", and what else has one message."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable, Iterator


class UserError(ValueError):
    """Input that jtl cannot work with.

    The message says what was seen, what is allowed and what to do. Commands print it on
    stderr and exit with code 2; library callers catch it as a `ValueError`. Notebooks show the
    message alone.
    """

    def _render_traceback_(self) -> list[str]:
        # Of IPython: what it shows instead of the frames.
        return [f"{type(self).__name__}: {self}"]


def suggest(word: str, candidates: Iterable[str], cutoff: float = 0.5) -> str:
    """A phrase naming the candidate closest to `word` whatever the case, or an empty string.

    Args:
        word: What was given.
        candidates: What is allowed.
        cutoff: How alike they must be, from 0 to 1.

    Example:
        >>> suggest("head_onyl", ["head_only", "full"])
        " Did you mean 'head_only'?"
    """
    lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=cutoff)
    return f" Did you mean '{lower[close[0]]}'?" if close else ""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The numbers of system errors that say that files find no room."""
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE,
    errno.ENAMETOOLONG, errno.ELOOP,
)  # fmt: skip


def explain(error: BaseException) -> str | None:
    """One message for an error that is not of jtl's making; None for any other.

    These are `UserError`, and a full disk, a refusing file system or too little memory,
    wherever they show and however libraries have wrapped them.
    """
    if isinstance(error, UserError):
        return str(error)
    for link in _chain(error):
        text = str(link)
        if isinstance(link, OSError) and link.errno in (*DISK_FULL, *_REFUSED):
            what = (link.strerror or text) + (f": '{link.filename}'" if link.filename else "")
            return f"{what}. {_advice(link.errno)}".rstrip()
        # TensorStore, which writes checkpoints, has only words for it.
        for words in _DISK:
            if words in text:
                return f"{words}: {first_line(link)}\nFree some space, or write elsewhere."
        if _is_memory(link):
            return (
                f"not enough memory: {_first_of_memory(link)}.\n"
                f"To use less, try a lower --batch-size, {LESS_MEMORY}."
            )
    return None


def _advice(number: int) -> str:
    if number in DISK_FULL:
        return "Free some space, or write elsewhere."
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Allow it, or name another place."
    return "Name a shorter path." if number == errno.ENAMETOOLONG else ""


LESS_MEMORY = (
    "a lower --image-size, a smaller --model, a narrower --head or a --mask that trains less"
)
"""What needs less memory, beside a lower --batch-size."""


def out_of_memory(error: BaseException) -> str | None:
    """What an error says first of too little memory, host's or device's; None if of other things.

    A full disk is another thing, although TensorStore's error for it has the same name.
    """
    if isinstance(error, UserError):
        return None
    for link in _chain(error):
        if any(words in str(link) for words in _DISK):
            return None
        if _is_memory(link):
            return _first_of_memory(link)
    return None


_DISK = ("No space left on device", "Disk quota exceeded", "File too large")
_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "bad_alloc", "ALLOC_FAILED")


def _is_memory(error: BaseException) -> bool:
    # jax.errors.JaxRuntimeError is a RuntimeError, as are those of other libraries.
    said = isinstance(error, RuntimeError) and any(words in str(error) for words in _MEMORY)
    return said or isinstance(error, MemoryError)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that it was raised from, or while."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def first_line(error: BaseException) -> str:
    """What an error of a library says first, without its period; its type where it says nothing."""
    text = str(error).strip().removeprefix("RESOURCE_EXHAUSTED: ")
    line = text.partition("\n")[0].rstrip(".")
    return (line if len(line) <= 200 else f"{line[:200]} ...") or type(error).__name__


def _first_of_memory(error: BaseException) -> str:
    return first_line(error) if str(error).strip() else "no more is available"
