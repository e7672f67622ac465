"""Where image files lie: what a store is, and the store for a directory."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jtl.common.errors import UserError
from jtl.data.decoding import read_file

IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
)  # fmt: skip

_JUNK_FOLDERS = ("__MACOSX",)


class ImageFile(NamedTuple):
    """One image file, not opened.

    Attributes:
        parts: Its path below the data folder, always printable.
        source: What the store finds it by.
        size: Bytes on disk, or unpacked; -1 if unknown.
        stamp: CRC-32 in a zip; else the modification time in ns, in a tar that of the archive.
    """

    parts: tuple[str, ...]
    source: Any
    size: int
    stamp: int

    @property
    def name(self) -> str:
        """The path as one string."""
        return "/".join(self.parts)


class Tree(NamedTuple):
    """The images of a store, sorted by path, and all folders (those without images too)."""

    images: list[ImageFile]
    folders: set[tuple[str, ...]]

    def children(self, folder: tuple[str, ...]) -> list[str]:
        """The sorted names of the folders directly in `folder`."""
        depth = len(folder)
        return sorted(
            path[-1] for path in self.folders if len(path) == depth + 1 and path[:depth] == folder
        )


class ImageStore(Protocol):
    """A place that holds image files; all methods may be called from several threads."""

    def tree(self) -> Tree:
        """List the place. Raises `UserError` if that is impossible or unsafe."""
        ...

    def read(self, image: ImageFile, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, or all of it."""
        ...


class FolderStore:
    """The image files below a directory. Symbolic links are followed, loops left out.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def tree(self) -> Tree:
        """List the directory. Raises `UserError` if a folder in it cannot be read."""
        images: list[ImageFile] = []
        folders: set[tuple[str, ...]] = set()
        pending: list[tuple[str, tuple[str, ...], frozenset[tuple[int, int]]]] = [
            (str(self._root), (), frozenset())
        ]
        while pending:
            path, parts, above = pending.pop()
            try:
                status = os.stat(path)
                entries = list(os.scandir(path))
            except OSError as error:
                raise unreadable_place(path, error) from error
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue  # a link to a folder that this one lies in
            folders.add(parts)
            for entry in entries:
                entry_parts = (*parts, printable(entry.name))
                if ignored(entry_parts):
                    continue
                if _is_folder(entry):
                    pending.append((entry.path, entry_parts, above | {identity}))
                elif is_image_file(entry_parts[-1]):
                    images += _file(entry, entry_parts)
        return Tree(sorted(images, key=lambda image: image.parts), folders)

    def read(self, image: ImageFile, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, or all of it."""
        if limit < 0:
            return read_file(image.source)
        with open(image.source, "rb") as file:
            return file.read(limit)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # A link that leads to itself is reported as an unreadable file.


def _file(entry: os.DirEntry[str], parts: tuple[str, ...]) -> Iterator[ImageFile]:
    try:
        status = entry.stat()
    except OSError:
        # A broken link: kept, so that reading reports it instead of silently having less data.
        yield ImageFile(parts, entry.path, -1, 0)
        return
    if stat.S_ISREG(status.st_mode):  # Opening a pipe would wait for ever.
        yield ImageFile(parts, entry.path, status.st_size, status.st_mtime_ns)


def is_image_file(name: str) -> bool:
    """Whether a file's name ends like an image's."""
    return name.lower().endswith(IMAGE_EXTENSIONS)


def ignored(parts: Iterable[str]) -> bool:
    """Whether a path leads through what is hidden, or what archivers add."""
    return any(part.startswith(".") or part in _JUNK_FOLDERS for part in parts)


def printable(name: str) -> str:
    """A file name as valid, composed Unicode: equal names of macOS and Linux compare equal."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def unreadable_place(path: Path | str, error: OSError) -> UserError:
    """The error for a place that the system does not let us read."""
    return UserError(
        f"Cannot read {path}: {error.strerror or error}. Check that it exists and that you may "
        "read it."
    )
