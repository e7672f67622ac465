"""The C library's allocator, told to keep what a training frees.

XLA takes the memory of a step's intermediate results, gigabytes, from the C library and gives
it back after the step. The C library returns blocks of that size to the kernel at once, which
then has to zero every page anew in the next step: a fifth of a fine-tuning step's time.
"""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from pathlib import Path

# Parameters of mallopt, from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_RESERVE_SHARE = 4


def keep_freed_memory() -> bool:
    """Keeps freed memory in the process; for commands, as it holds for the whole process.

    All large blocks then come from one heap that never shrinks, in huge pages where the
    kernel has them. Does nothing where the C library is not glibc.

    Returns:
        Whether it was done.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "gnu_get_libc_version"):
        return False
    # One heap: threads' own heaps cannot hold large blocks, and would ask the kernel for each.
    done = libc.mallopt(_ARENA_MAX, 1) and libc.mallopt(_MMAP_MAX, 0)
    done = done and libc.mallopt(_TRIM_THRESHOLD, -1)
    if not done:
        return False
    _reserve(libc)
    return True


def _reserve(libc: ctypes.CDLL) -> None:
    """Extends the heap by addresses without memory behind them, and asks for huge pages there.

    Blocks of changing sizes leave gaps, so the heap grows to some multiple of what is in use;
    what grows in huge pages costs a five-hundredth of the page faults.
    """
    import psutil

    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    libc.free(libc.malloc(psutil.virtual_memory().total // _RESERVE_SHARE))
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if heap := re.search(r"^(\w+)-(\w+) .*\[heap\]$", maps, re.MULTILINE):
        start, end = (int(address, 16) for address in heap.groups())
        libc.madvise(start, end - start, mmap.MADV_HUGEPAGE)
