"""Compiled programs, which JAX keeps between runs, in a folder that no accident spoils for good.

JAX writes an entry, `KEY-cache`, and then the time of its last use, `KEY-atime`. It never writes an
entry anew that is there, be it half of one (of a full disk, or a process that was killed), and
writes none at all any more once a time is missing.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

import filelock

from jtl.common.locks import FileLock, unsupported

MOST_BYTES = 2**31
"""What they may take there; the least recently used go first."""
_ENTRY, _TIME, _TIME_BYTES = "-cache", "-atime", 8
_OURS = re.compile(rf".+-[0-9a-f]{{64}}({_ENTRY}|{_TIME})", re.DOTALL)
_LOCK = ".lockfile"
_ERROR = "ing persistent compilation cache entry"


def keep(folder: Path, note: Callable[[str], None]) -> None:
    """Lets JAX keep this process's compiled programs in a folder; says once what is in the way.

    For commands: JAX's warnings of it are taken from here on.

    Args:
        folder: Made if it is missing. One that cannot be written is read.
        note: Told where programs cannot be kept, or one that was kept is damaged.
    """
    import jax  # Late: who only lists or removes entries does without.

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        tidy(folder)
    except OSError as error:
        reason = f"no locks: {error.strerror}" if unsupported(error) else error.strerror
        note(
            f"jtl cannot save compiled programs in '{folder}' ({reason}), so every start "
            "compiles them again. Set JTL_CACHE to a folder that you can write to."
        )
        if not (folder.is_dir() and os.access(folder, os.R_OK | os.X_OK)):
            return
        # Without a limit JAX reads without a lock, which it would have to write.
        limit, seconds = -1, math.inf
    else:
        limit, seconds = MOST_BYTES, 0.0
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", limit)
    # Small programs too: a run has some fifty of them, and reading one takes a quarter of the
    # time of compiling it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    _take_warnings(folder, note)


def entries(folder: Path) -> Iterator[Path]:
    """All files of programs, and none of others."""
    for path in folder.glob("*-*"):
        if _OURS.fullmatch(path.name):
            yield path


def tidy(folder: Path) -> None:
    """Removes what JAX has not written to its end, unless a process is at work in the folder.

    Raises:
        OSError: It cannot be locked.
    """
    with contextlib.suppress(filelock.Timeout), FileLock(folder / _LOCK).acquire(timeout=0):
        for key in {path.name.rpartition("-")[0] for path in entries(folder)}:
            try:
                size = (folder / f"{key}{_ENTRY}").stat().st_size
                whole = size and (folder / f"{key}{_TIME}").stat().st_size == _TIME_BYTES
            except FileNotFoundError:
                whole = False
            if not whole:
                _remove(folder, key)


def _remove(folder: Path, key: str) -> None:
    for ending in (_ENTRY, _TIME):
        with contextlib.suppress(OSError):
            (folder / f"{key}{ending}").unlink()


def _take_warnings(folder: Path, note: Callable[[str], None]) -> None:
    """Makes one note of JAX's warnings about entries, and removes those that cannot be read."""
    show, said = warnings.showwarning, False

    def shown(message: Warning | str, *place: object, **more: object) -> None:
        nonlocal said
        if _ERROR not in str(message):
            show(message, *place, **more)  # pyright: ignore[reportArgumentType]
            return
        error = sys.exc_info()[1]  # Of whose handling JAX warns.
        key = None if error is None else _key(error.__traceback__)
        if key is not None and not isinstance(error, OSError):
            _remove(folder, key)
        if not said:
            said = True
            reason = " ".join(str(message).split())[:200]
            note(
                "jtl could not save a compiled program, so the next run compiles it again: "
                f"{reason}"
            )

    warnings.showwarning = shown
    # Of each program, whatever filters say.
    warnings.filterwarnings("always", f".*{_ERROR}", UserWarning)


def _key(traceback: TracebackType | None) -> str | None:
    """The entry that JAX was about to read or write when something was raised."""
    while traceback is not None:
        key = traceback.tb_frame.f_locals.get("cache_key")
        if isinstance(key, str):
            return key
        traceback = traceback.tb_next
    return None
