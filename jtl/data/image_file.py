"""Image files: their bytes, and opened by Pillow but not decoded yet."""

from __future__ import annotations

import errno
import functools
import io
import os
import stat
import warnings

from PIL import Image, UnidentifiedImageError, features

from jtl.common.errors import UserError
from jtl.data import tiff_bands
from jtl.data.kinds import HEAD_BYTES, kind_of, unreadable_reason

# Pillow knows many more formats; some of them run external programs (EPS), and none of them
# appears in image data sets.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_RARE = ("TGA", "PCX", "SGI")
"""Formats that are tried only where a file begins like one."""
_EXTRA_FORMATS = {"AVIF": "AVIF", "HEIC": "HEIF", **dict(zip(_RARE, _RARE, strict=True))}
"""What is read besides, by what `kind_of` calls it, and what Pillow does."""
_pillow_filter: tuple | None = None

MOST_BYTES = 2**30
"""The largest file: what the most pixels that Pillow decodes take without compression."""


class BadImage(UserError):
    """An image that cannot be read; the message names the file and the reason."""


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


def open_image(data: bytes) -> Image.Image:
    """An image file opened, not decoded; raises `BadImage` or what Pillow raises on damage."""
    if not data:
        raise BadImage("the file is empty (0 bytes)")
    _silence_pillow()
    kind = kind_of(data[:HEAD_BYTES])
    formats, readable = FORMATS, FORMATS
    if kind in _EXTRA_FORMATS and _has_plugin(kind):
        formats, readable = (_EXTRA_FORMATS[kind],), (*FORMATS, kind)
    try:
        return Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        bands = tiff_bands.of_no_colours(data) if kind == "TIFF" else ""
        raise BadImage(bands or unreadable_reason(data, readable)) from error


@functools.cache
def _has_plugin(kind: str) -> bool:
    """Whether Pillow reads a format here; for HEIC, pillow-heif must be installed."""
    if kind in _RARE:
        return True
    if kind == "AVIF":
        return bool(features.check("avif")) if "avif" in features.modules else False
    try:
        import pillow_heif  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _silence_pillow() -> None:
    """Keep Pillow's remarks on odd but readable files (such as broken EXIF) off the screen.

    A filter for Pillow's modules alone, set for the process: `warnings.catch_warnings` is not
    safe with threads. Set again whenever other filters (a test's, say) came in front of it.
    """
    global _pillow_filter
    if _pillow_filter is None or not warnings.filters or warnings.filters[0] != _pillow_filter:
        warnings.filterwarnings("ignore", module=r"PIL\.")
        _pillow_filter = warnings.filters[0]
