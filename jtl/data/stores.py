"""Where picture files lie: a directory, or a zip archive that is read in place."""

from __future__ import annotations

import os
import stat
import threading
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from jtl.errors import UserError, suggest

PICTURE_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm",
)  # fmt: skip

_JUNK_FOLDERS = ("__MACOSX",)
_ENCRYPTED = 0x1  # bit of a zip member's flags


class Picture(NamedTuple):
    """One picture file, not opened.

    Attributes:
        parts: Its path below the data folder, always printable.
        source: What the store finds it by.
        size: Bytes on disk, or unpacked; -1 if unknown.
        stamp: Modification time in ns on disk, CRC-32 in an archive.
    """

    parts: tuple[str, ...]
    source: str | zipfile.ZipInfo
    size: int
    stamp: int

    @property
    def name(self) -> str:
        """The path as one string."""
        return "/".join(self.parts)


class Tree(NamedTuple):
    """The pictures of a store, sorted by path, and all folders (those without pictures too)."""

    pictures: list[Picture]
    folders: set[tuple[str, ...]]

    def children(self, folder: tuple[str, ...]) -> list[str]:
        """The sorted names of the folders directly in `folder`."""
        depth = len(folder)
        return sorted(
            path[-1] for path in self.folders if len(path) == depth + 1 and path[:depth] == folder
        )


class Store(Protocol):
    """A place that holds picture files; all methods may be called from several threads."""

    def tree(self) -> Tree:
        """List the place. Raises `UserError` if that is impossible or unsafe."""
        ...

    def read(self, picture: Picture, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, or all of it."""
        ...


def open_store(path: Path) -> Store:
    """The store for a directory or a zip archive.

    Raises:
        UserError: If there is no such path, it is neither, or the archive cannot be opened.
    """
    try:
        if path.is_dir():
            return FolderStore(path)
        if not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(
                f"There is no file or folder {path}.{suggest(path.name, siblings)} "
                "Give a folder of class folders, or a zip of one."
            )
        if path.suffix.lower() != ".zip" and not zipfile.is_zipfile(path):
            raise UserError(
                f"{path} is neither a folder nor a zip archive. "
                "Give a folder of class folders, or a zip of one."
            )
        return ZipStore(path)
    except OSError as error:
        raise _unreadable_place(path, error) from error


class FolderStore:
    """The picture files below a directory. Symbolic links are followed, loops left out.

    Args:
        root: The directory.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def tree(self) -> Tree:
        """List the directory. Raises `UserError` if a folder in it cannot be read."""
        pictures: list[Picture] = []
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
                raise _unreadable_place(path, error) from error
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                continue  # a link to a folder that this one lies in
            folders.add(parts)
            for entry in entries:
                entry_parts = (*parts, _printable(entry.name))
                if _ignored(entry_parts):
                    continue
                if entry.is_dir():
                    pending.append((entry.path, entry_parts, above | {identity}))
                elif _is_picture(entry_parts[-1]):
                    pictures += _file(entry, entry_parts)
        return Tree(sorted(pictures, key=lambda picture: picture.parts), folders)

    def read(self, picture: Picture, limit: int = -1) -> bytes:
        """The first `limit` bytes of a file, or all of it."""
        assert isinstance(picture.source, str)
        with open(picture.source, "rb") as file:
            return file.read(limit)


class ZipStore:
    """The picture files in a zip archive, without unpacking it.

    Args:
        path: The archive.

    Raises:
        UserError: If it is damaged, or has members that are encrypted or would lie outside.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            self._zip = zipfile.ZipFile(path)
        # What damage in an archive's table of contents provokes, by its kind.
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise UserError(
                f"{path} is not a readable zip archive ({error}). "
                "It may be damaged or incomplete: copy or download it again."
            ) from error

    def tree(self) -> Tree:
        """List the archive. Raises `UserError` for encrypted members and unsafe paths."""
        found: dict[tuple[str, ...], Picture] = {}
        folders: set[tuple[str, ...]] = {()}
        unsafe, encrypted = [], []
        for info in self._zip.infolist():
            # Some Windows tools write backslashes, against the format's rules.
            path = info.filename.replace("\\", "/")
            parts = tuple(_printable(part) for part in path.split("/") if part not in ("", "."))
            if path.startswith("/") or ".." in parts or path[1:2] == ":":
                unsafe.append(info.filename)
            if not parts or _ignored(parts):
                continue
            folder = parts if info.is_dir() or path.endswith("/") else parts[:-1]
            while folder not in folders:
                folders.add(folder)
                folder = folder[:-1]
            if path.endswith("/") or not _is_picture(parts[-1]):
                continue
            if info.flag_bits & _ENCRYPTED:
                encrypted.append(info.filename)
            # Of two members with one name the last wins, as when unpacking.
            found[parts] = Picture(parts, info, info.file_size, info.CRC)
        self._refuse(unsafe, "paths that lead out of it", "Pack the folder again.")
        self._refuse(encrypted, "encrypted members", "Pack the folder again without a password.")
        return Tree([found[parts] for parts in sorted(found)], folders)

    def read(self, picture: Picture, limit: int = -1) -> bytes:
        """The first `limit` bytes of a member, or all of it with its checksum verified."""
        # `ZipFile` guards reading itself against other threads, but not its count of open
        # members, which opening and closing change.
        with self._lock:
            member = self._zip.open(picture.source)
        try:
            return member.read(limit)
        finally:
            with self._lock:
                member.close()

    def _refuse(self, members: list[str], what: str, remedy: str) -> None:
        if members:
            raise UserError(
                f"{self._path} has {what} ({len(members)}, for example {members[0]!r}). {remedy}"
            )


def _file(entry: os.DirEntry[str], parts: tuple[str, ...]) -> Iterator[Picture]:
    try:
        status = entry.stat()
    except OSError:
        # A broken link: kept, so that reading reports it instead of silently having less data.
        yield Picture(parts, entry.path, -1, 0)
        return
    if stat.S_ISREG(status.st_mode):  # Opening a pipe would wait for ever.
        yield Picture(parts, entry.path, status.st_size, status.st_mtime_ns)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURE_EXTENSIONS)


def _ignored(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part in _JUNK_FOLDERS for part in parts)


def _printable(name: str) -> str:
    """A file name as valid, composed Unicode: equal names of macOS and Linux compare equal."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def _unreadable_place(path: Path | str, error: OSError) -> UserError:
    return UserError(
        f"Cannot read {path}: {error.strerror or error}. Check that it exists and that you may "
        "read it."
    )
