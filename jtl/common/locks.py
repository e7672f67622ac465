"""Locks of the operating system: they end with their process, however that ends."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import filelock

_MISSING = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class FileLock(filelock.FileLock):
    """A lock on a file, which is made if it is missing, in a folder that exists.

    Where the file system has no locks, it raises an OSError that `unsupported` knows.
    """

    def __init__(self, path: Path):
        """Takes the file's path; nothing is locked yet."""
        # filelock's own way out, a soft lock, would outlive a killed process.
        super().__init__(path, thread_local=False, fallback_to_soft=False)

    def acquire(self, *args: Any, **options: Any) -> Any:
        """As of `filelock.FileLock`."""
        try:
            return super().acquire(*args, **options)
        except NotImplementedError as error:
            raise OSError(errno.ENOSYS, str(error)) from error


def unsupported(error: Exception) -> bool:
    """Whether it means that a file system has no locks."""
    return isinstance(error, OSError) and error.errno in _MISSING
