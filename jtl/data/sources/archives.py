"""Archives of image files, read in place: zip and tar."""

from __future__ import annotations

import lzma
import os
import posixpath
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from jtl.common.errors import UserError, suggest
from jtl.data.kinds import HEAD_BYTES, by_ending, kind_of
from jtl.data.sources import unread_labels
from jtl.data.sources.stores import (
    FolderStore,
    ImageFile,
    ImageStore,
    Tree,
    ignored,
    printable,
    same_in_unicode,
    sorted_tree,
    unreadable_place,
)
from jtl.data.sources.tar_headers import Member, plain_members

_ENCRYPTED = 0x1  # bit of a zip member's flags
_TAR_ENDINGS = (".tar", ".tgz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.xz")
_GIVE = "Give a folder of class folders, or a zip or tar archive of one."
_AGAIN = "It may be damaged or incomplete: copy or download it again."
_TAR_BLOCK = 512  # bytes; of headers, and of the end
_MEMORY_SHARE = 0.5
"""The share of free memory that the content of a compressed tar may take."""


def open_store(path: Path) -> ImageStore:
    """The store for a directory or an archive.

    Raises:
        UserError: If there is no such path, it is neither, or the archive cannot be opened.
    """
    try:
        if path.is_dir():
            return FolderStore(path)
        if not path.exists():
            siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise UserError(
                f"There is no file or folder {path}.{suggest(path.name, siblings)} {_GIVE}"
            )
        if path.suffix.lower() == ".zip":
            return ZipStore(path)
        if path.name.lower().endswith(_TAR_ENDINGS):
            return TarStore(path)
        if zipfile.is_zipfile(path):
            return ZipStore(path)
        if path.is_file() and tarfile.is_tarfile(path):
            return TarStore(path)
        raise UserError(
            f"{path} is neither a folder nor a zip or tar archive. "
            f"{unread_labels.way_out_of_file(path)}{_GIVE}"
        )
    except OSError as error:
        raise unreadable_place(path, error) from error


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar by its name or, if no image by its name, by its content."""
    if path.name.lower().endswith((".zip", *_TAR_ENDINGS)):
        return True
    try:
        return (
            not by_ending(path.name)
            and path.is_file()
            and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
        )
    except (OSError, ValueError):
        return False


class _Listing:
    """What an archive holds, as its members are gone through."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders: set[tuple[str, ...]] = {()}
        self._unsafe: list[str] = []
        self.encrypted: list[str] = []
        # Of two members with one name the last wins, as when unpacking.
        self.files: dict[tuple[str, ...], ImageFile] = {}
        self.special: list[ImageFile] = []
        self._hidden: set[str] = set()
        self._written: dict[tuple[str, ...], str] = {}

    def add(self, path: str, *, folder: bool) -> tuple[str, ...] | None:
        """Notes a member; its path in parts if it is a file that may count.

        Raises:
            UserError: Two folders have names that look the same.
        """
        written = [part for part in path.split("/") if part not in ("", ".")]
        parts = tuple(map(printable, written))
        if not path.isascii():
            for depth, part in enumerate(written if folder else written[:-1], 1):
                if self._written.setdefault(parts[:depth], part) != part:
                    raise same_in_unicode(self._path, parts[:depth])
        if _leads_out(path):
            self._unsafe.append(path)
        if parts and not folder and ignored(parts):
            self._hidden.add("/".join(parts))
        if not parts or ignored(parts):
            return None
        place = parts if folder else parts[:-1]
        while place not in self._folders:
            self._folders.add(place)
            place = place[:-1]
        return None if folder else parts

    def tree(self, head: Callable[[ImageFile], bytes]) -> Tree:
        """All that was noted, images told from other files by `head`, the first bytes.

        Raises:
            UserError: Members are encrypted, or have unsafe paths.
        """
        self._refuse(self._unsafe, "paths that lead out of it", "Pack the folder again.")
        self._refuse(self.encrypted, "encrypted members", "Pack it again without a password.")
        tree = Tree([], self._folders, [], list(self._hidden), self.special)
        for file in self.files.values():
            (tree.images if _is_image(file, head) else tree.others).append(file)
        return sorted_tree(tree)

    def _refuse(self, members: list[str], what: str, remedy: str) -> None:
        if members:
            raise UserError(
                f"{self._path} has {what} ({len(members)}, for example {members[0]!r}). {remedy}"
            )


def _is_image(file: ImageFile, head: Callable[[ImageFile], bytes]) -> bool:
    known = by_ending(file.parts[-1])
    if known is not None:
        return known
    try:
        return kind_of(head(file)) is not None
    except Exception:  # A damaged archive provokes many kinds.
        return False


def _leads_out(path: str) -> bool:
    return path.startswith("/") or ".." in path.split("/") or path[1:2] == ":"


class ZipStore:
    """The image files in a zip archive, without unpacking it.

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
            raise UserError(f"{path} is not a readable zip archive ({error}). {_AGAIN}") from error

    def tree(self) -> Tree:
        """List the archive. Raises `UserError` for encrypted members and unsafe paths."""
        listing = _Listing(self._path)
        for info in self._zip.infolist():
            # Some Windows tools write backslashes, against the format's rules.
            path = info.filename.replace("\\", "/")
            parts = listing.add(path, folder=info.is_dir() or path.endswith("/"))
            if parts is None:
                continue
            if info.flag_bits & _ENCRYPTED:
                listing.encrypted.append(info.filename)
            listing.files[parts] = ImageFile(parts, info, info.file_size, info.CRC)
        return listing.tree(lambda file: self.read(file, HEAD_BYTES))

    def read(self, image: ImageFile, limit: int = -1) -> bytes:
        """The first `limit` bytes of a member, or all of it with its checksum verified."""
        # `ZipFile` guards reading itself against other threads, but not its count of open
        # members, which opening and closing change.
        with self._lock:
            member = self._zip.open(image.source)
        try:
            return member.read(limit)
        finally:
            with self._lock:
                member.close()


class TarStore:
    """The image files in a tar archive.

    A plain one is read in place. A compressed one has no way to a member but through all those
    before it, so its images are unpacked into memory, once.

    Args:
        path: The archive.
        keep_open: Whether a plain one stays open; of many, each is opened for every image.
    """

    def __init__(self, path: Path, *, keep_open: bool = True) -> None:
        self._path, self._keep_open = path, keep_open
        # Found out before the table of contents: with "r:*" tarfile would not tell.
        with open(path, "rb") as file:
            self._compressed = not _is_plain_tar(file.read(_TAR_BLOCK))
        self._file: int | None = None
        self._unpacked: dict[tuple[str, ...], bytes] = {}

    def tree(self) -> Tree:
        """List the archive, and unpack it if it is compressed.

        Raises:
            UserError: If it is damaged, has unsafe paths, or is compressed and larger than half
                of the free memory.
        """
        if not self._compressed and self._file is None and self._keep_open:
            self._file = os.open(self._path, os.O_RDONLY)
        try:
            if not self._compressed and (members := plain_members(self._path)) is not None:
                return self._plain(members)
            with tarfile.open(self._path, "r:*" if self._compressed else "r:") as archive:
                tree = self._list(archive)
        # What damage in an archive and in what compresses it provokes, by its kind.
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise self._damaged(str(error) or type(error).__name__) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise self._damaged(str(error)) from error  # Of gzip and bz2, about their formats.
        return tree

    def read(self, image: ImageFile, limit: int = -1) -> bytes:
        """The first `limit` bytes of a member, or all of it."""
        if isinstance(image.source, str):
            raise ValueError(image.source)
        if self._compressed:
            data = self._unpacked[image.source]
            return data if limit < 0 else data[:limit]
        size = image.size if limit < 0 else min(limit, image.size)
        file = os.open(self._path, os.O_RDONLY) if self._file is None else self._file
        try:
            data = os.pread(file, size, image.source)
        finally:
            if file != self._file:
                os.close(file)
        if len(data) < size:
            raise ValueError("the archive ends within it")
        return data

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            os.close(self._file)  # pyright: ignore[reportArgumentType]

    def _plain(self, members: Iterable[Member]) -> Tree:
        listing, stamp = _Listing(self._path), self._path.stat().st_mtime_ns
        for name, folder, offset, size in members:
            if (parts := listing.add(name, folder=folder)) is not None:
                listing.files[parts] = ImageFile(parts, offset, size, stamp)
        return listing.tree(lambda file: self.read(file, HEAD_BYTES))

    def _list(self, archive: tarfile.TarFile) -> Tree:
        listing = _Listing(self._path)
        stamp = self._path.stat().st_mtime_ns
        most = int(psutil.virtual_memory().available * _MEMORY_SHARE)
        links: dict[tuple[str, ...], str] = {}
        files: dict[str, ImageFile] = {}
        for member in archive:
            parts = listing.add(member.name, folder=member.isdir())
            if parts is None:
                continue
            if member.issym():
                links[parts] = posixpath.join(posixpath.dirname(member.name), member.linkname)
            elif member.islnk():
                links[parts] = member.linkname
            elif member.issparse():
                listing.files[parts] = ImageFile(parts, "stored with holes", -1, stamp)
            elif not member.isreg():
                listing.special.append(ImageFile(parts, "a pipe or a device", -1, stamp))
            else:
                source = parts if self._compressed else member.offset_data
                image = ImageFile(parts, source, member.size, stamp)
                files[posixpath.normpath(member.name)] = listing.files[parts] = image
                if self._compressed:
                    most -= self._unpack(archive, member, parts, most)
        for parts, target in links.items():
            found = files.get(posixpath.normpath(target))
            listing.files[parts] = (
                ImageFile(parts, "a link to nothing in the archive", -1, stamp)
                if found is None
                else found._replace(parts=parts)
            )
        # tarfile takes what is no header for the end; zeros are (POSIX.1-2017, pax, "ustar").
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(_TAR_BLOCK) != bytes(_TAR_BLOCK):
            raise tarfile.ReadError("it is cut off, or a header in it is damaged")
        return listing.tree(lambda file: self.read(file, HEAD_BYTES))

    def _unpack(
        self, archive: tarfile.TarFile, member: tarfile.TarInfo, parts: tuple[str, ...], left: int
    ) -> int:
        """Keeps a member in memory, of other files than images and text the first bytes alone.

        Returns:
            How many bytes it takes of the `left` ones.
        """
        file = archive.extractfile(member)
        assert file is not None
        head = file.read(HEAD_BYTES)
        if by_ending(parts[-1]) is None and kind_of(head) is None:
            self._unpacked[parts] = head
            return len(head)
        if member.size > left:
            raise UserError(
                f"{self._path} is compressed, and its images do not fit into half of the free "
                "memory. Unpack it, or make it a plain .tar or a .zip, which are read in place; "
                "images hardly shrink by compressing them again."
            )
        self._unpacked[parts] = head + file.read()
        return member.size

    def _damaged(self, reason: str) -> UserError:
        return UserError(f"{self._path} is not a readable tar archive ({reason}). {_AGAIN}")


def _is_plain_tar(head: bytes) -> bool:
    """Whether a file begins with a tar's first header."""
    if len(head) < _TAR_BLOCK:
        return False
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
