"""When Python's garbage collector waits: while a command starts, ends, or reads long tables."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator

from jtl.common.invocation import is_command

_paused = False
"""Whether this process's garbage collector waits until its command has started."""


def pause_until_started() -> None:
    """Lets the garbage collector wait until the command has started.

    Imports and the first programs make half a million objects that stay, and looking through them
    again and again takes a tenth of the time until then. In a program of somebody else's that runs
    the command, nothing changes.
    """
    global _paused
    if is_command(sys.orig_argv) and gc.isenabled():
        _paused = True
        gc.disable()


def resume() -> None:
    """Ends the pause, if there was one; what is there by now is looked through no more."""
    global _paused
    if _paused:
        _paused = False
        gc.freeze()
        gc.enable()


def skip_at_exit() -> None:
    """Spares a command's process the search for garbage while Python ends it."""
    if is_command(sys.orig_argv):
        gc.freeze()


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Collects no garbage inside the `with` block, for work that makes many objects that stay.

    In a command, these are looked through no more after it, which would take seconds.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if is_command(sys.orig_argv):
                gc.freeze()
            gc.enable()
