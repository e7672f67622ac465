"""What is asked of the C library's memory: huge pages, one arena, and to give back what is free.

XLA takes the memory of a step's intermediate results from the C library, which asks the kernel
for blocks of that size anew in every step. The kernel then zeroes them in pages of 4 KiB, one
page fault each: for a fine-tuning step a fifth of the processor's time. In pages of 2 MiB it
is a fraction of that. Most Linux systems give them only to who asks for them; glibc (2.35 or
newer) asks if its tunable `glibc.malloc.hugetlb` is set when the process starts.

Blocks of the many threads lie in as many arenas, whose free pages glibc keeps where something in
use lies behind them: over hours of training a process grows though it holds no more than before.
With one arena for all threads (`glibc.malloc.arena_max`) there is less to keep; steps are as fast,
since what threads compute lies in few large blocks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jtl.common.invocation import is_command

VARIABLE, _HUGE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"
WANTED = {_HUGE: "1", "glibc.malloc.arena_max": "1"}
"""The C library's tunables of a command."""
_KERNEL = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def restart_with_huge_pages() -> None:
    """Runs the process's command again, with huge pages and one arena, where that helps.

    For the first line of a command, before slow imports. The process stays the same (its
    number, its files, its terminal). Does nothing where the kernel has no huge pages or
    gives them to everybody, or glibc's tunable is set already; nor in a program of somebody
    else's that runs the command, whose first part would run twice, or be gone from its input.
    """
    tunables = os.environ.get(VARIABLE, "")
    if _HUGE in tunables or not is_command(sys.orig_argv) or not _can_ask():
        return
    wanted = [f"{name}={value}" for name, value in WANTED.items() if name not in tunables]
    value = ":".join(filter(None, [tunables, *wanted]))
    try:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, VARIABLE: value})
    except OSError:
        return  # Slower, nothing else.


def _can_ask() -> bool:
    """Whether huge pages are for those who ask, and the C library can."""
    if not sys.platform.startswith("linux") or not sys.executable:
        return False
    try:
        library, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        new = tuple(map(int, version.split(".")[:2])) >= (2, 35)
        return library == "glibc" and new and "[madvise]" in _KERNEL.read_text(encoding="ascii")
    except (OSError, ValueError):
        return False


def give_back() -> None:
    """Gives free pages in the midst of arenas back to the kernel, where the library can.

    Takes some 20 ms (of a process of 500 MB), and steps ask for some of the pages again: for
    every half minute or so.
    """
    import ctypes  # Late: commands have this module's first line before everything else.

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
