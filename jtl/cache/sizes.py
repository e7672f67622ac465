"""How much the features may take: of memory, and of the disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from jtl.common.quantities import parse_bytes

MEMORY_SHARE = 0.4
"""The share of free memory that decoded images or features may take."""
DISK_SHARE = 0.1
"""The share of free disk space that features may take by default; theirs counts as free."""
DISK_BYTES = 20 * 10**9
"""What they may take by default at the most."""
LIMIT = "JTL_CACHE_LIMIT"
"""Environment variable: what features may take on the disk; 0 keeps none."""


def free_memory() -> int:
    """Bytes that new arrays may take: of the host, and of devices that have their own."""
    import jax  # Who lists what there is waits for neither.
    import psutil

    free = psutil.virtual_memory().available
    device = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in device:
        # What is large is divided among the devices.
        each = device["bytes_limit"] - device.get("bytes_in_use", 0)
        free = min(free, each * jax.local_device_count())
    return free


def memory_budget(chosen: str | None) -> int:
    """Bytes of memory that features may take: what `--cache-budget` says, or a share."""
    if chosen is not None:
        return parse_bytes("--cache-budget", chosen)
    return int(MEMORY_SHARE * free_memory())


def disk_limit(folder: Path, used: int) -> int:
    """Bytes of disk that features may take: what JTL_CACHE_LIMIT says, as far as there is room.

    Without it a share of the disk.

    Args:
        folder: Where they lie, or will.
        used: What they take now.

    Raises:
        UserError: JTL_CACHE_LIMIT is no size.
    """
    room = free_disk(folder) + used
    if chosen := os.environ.get(LIMIT):
        return min(parse_bytes(LIMIT, chosen), room)
    return min(DISK_BYTES, int(DISK_SHARE * room))


def free_disk(folder: Path) -> int:
    """Bytes that may be written to the disk of a folder; 0 if that is not known."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
