"""Image files as bytes."""

from __future__ import annotations

import errno
import os
import stat

MOST_BYTES = 2**30
"""The largest file: what the most pixels that Pillow decodes take without compression."""


def read_file(path: str | os.PathLike[str]) -> bytes:
    """An image file's bytes.

    Raises:
        OSError: It cannot be read, is a pipe or a device (which may have no end, or let one wait
            for ever), or holds more than any image that `decode` takes.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        raise OSError(errno.EINVAL, "not a file, but a pipe or a device")
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1) if os.fstat(file.fileno()).st_size <= MOST_BYTES else None
    if data is None or len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"more than {MOST_BYTES // 2**20:,} MB, too large for an image")
    return data
