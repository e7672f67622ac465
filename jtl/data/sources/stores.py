"""Where image files lie: what a store is, and the store for a directory."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jtl.common.errors import UserError
from jtl.data.image_file import read_file
from jtl.data.kinds import HEAD_BYTES, by_ending, kind_of

_SAMPLE = 2000
_JUNK = (
    "__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "#recycle", "@recycle",
    "lost+found", "system volume information", "icon\r",
)  # fmt: skip
"""What archivers and systems leave behind, in lower case."""


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
    """What a store holds, sorted by path.

    Attributes:
        images: Its images, by content where the ending does not tell.
        folders: All folders, those without images too.
        others: Files that are no images.
        hidden: Paths of files that are hidden, or that archivers and systems leave behind.
        special: Pipes, sockets and devices, which nothing opens.
    """

    images: list[ImageFile]
    folders: set[tuple[str, ...]]
    others: list[ImageFile]
    hidden: list[str]
    special: Sequence[ImageFile] = ()


class ImageReader(Protocol):
    """What reads image files; may be called from several threads."""

    def read(self, image: ImageFile, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, or all of it."""
        ...


class ImageStore(ImageReader, Protocol):
    """A place that holds image files; all methods may be called from several threads."""

    def tree(self) -> Tree:
        """List the place. Raises `UserError` if that is impossible or unsafe."""
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
        tree = Tree([], set(), [], [])
        special: list[ImageFile] = []
        pending: list[tuple[str, tuple[str, ...], frozenset[tuple[int, int]]]] = [
            (str(self._root), (), frozenset())
        ]
        while pending:
            path, parts, above = pending.pop()
            try:
                status = os.stat(path)
                entries = list(os.scandir(path))
            except OSError as error:
                if ignored(parts):
                    continue  # What is not used need not be readable.
                raise unreadable_place(path, error) from error
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue  # a link to a folder that this one lies in
            if not ignored(parts):
                tree.folders.add(parts)
            written: dict[str, str] = {}
            for entry in entries:
                entry_parts = (*parts, printable(entry.name))
                if _is_folder(entry):
                    if written.setdefault(entry_parts[-1], entry.name) != entry.name:
                        raise same_in_unicode(self._root, entry_parts)
                    if not (ignored(entry_parts) and entry.is_symlink()):
                        pending.append((entry.path, entry_parts, above | {identity}))
                elif ignored(entry_parts):
                    tree.hidden.append("/".join(entry_parts))
                else:
                    file = _file(entry, entry_parts)
                    if file is None:  # Opening a pipe would wait for ever.
                        special.append(ImageFile(entry_parts, entry.path, -1, 0))
                    else:
                        (tree.images if self._is_image(file) else tree.others).append(file)
        return sorted_tree(tree._replace(special=special))

    def _is_image(self, file: ImageFile) -> bool:
        known = by_ending(file.parts[-1])
        if known is None:
            try:
                return kind_of(self.read(file, HEAD_BYTES)) is not None
            except OSError:
                return False
        return known

    def read(self, image: ImageFile, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, or all of it."""
        if limit < 0 or image.size < 0:
            return read_file(image.source)
        with open(image.source, "rb") as file:
            return file.read(limit)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # A link that leads to itself is reported as an unreadable file.


def _file(entry: os.DirEntry[str], parts: tuple[str, ...]) -> ImageFile | None:
    """A file; None where it is a pipe, a socket or a device."""
    try:
        status = entry.stat()
    except OSError:
        # A broken link: kept, so that reading reports it instead of silently having less data.
        return ImageFile(parts, entry.path, -1, 0)
    if not stat.S_ISREG(status.st_mode):
        return None
    return ImageFile(parts, entry.path, status.st_size, status.st_mtime_ns)


def ignored(parts: Iterable[str]) -> bool:
    """Whether a path leads through what is hidden, or what archivers and systems leave behind."""
    return any(part.startswith((".", "~$")) or part.lower() in _JUNK for part in parts)


def sorted_tree(tree: Tree) -> Tree:
    """The tree with its files in order of their paths."""
    by_path = sorted(tree.images, key=lambda file: file.parts)
    others = sorted(tree.others, key=lambda file: file.parts)
    special = sorted(tree.special, key=lambda file: file.parts)
    return Tree(by_path, tree.folders, others, sorted(tree.hidden), special)


def printable(name: str) -> str:
    """A file name as valid, composed Unicode: equal names of macOS and Linux compare equal."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def spread(images: Sequence[ImageFile]) -> Sequence[ImageFile]:
    """Some of many images, from all over: enough to see how they are called."""
    return images[:: max(1, len(images) // _SAMPLE)]


def stem_of(name: str) -> str:
    """A file's name without its ending."""
    return name.rpartition(".")[0] or name


def text_of(file: ImageFile, read: Callable[[ImageFile], bytes]) -> str | None:
    """The text of a file that need not be one; None where it cannot be read."""
    try:
        return decoded(read(file))
    except Exception:  # Links to nothing, damaged archives: of many kinds.
        return None


def decoded(data: bytes) -> str:
    """Text in UTF-8 or, as PowerShell and Excel write it, in UTF-16."""
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    return data.decode("utf-16" if wide else "utf-8-sig", "replace")


def same_in_unicode(place: Path, parts: Iterable[str]) -> UserError:
    """The error for two folders whose names are the same text in two forms of Unicode."""
    return UserError(
        f"{place} has two folders '{'/'.join(parts)}', whose names look the same and differ in the "
        "form of their Unicode (composed and decomposed letters). Merge them into one folder, or "
        "rename one."
    )


def unreadable_place(path: Path | str, error: OSError) -> UserError:
    """The error for a place that the system does not let us read."""
    return UserError(
        f"Cannot read {path}: {error.strerror or error}. Check that it exists and that you may "
        "read it."
    )
