"""The one way to write and to remove: a file or a folder appears, or goes, as a whole.

What is written stands in a folder of its own beside its place, `.jtl-*.partial`, until it is
complete and on the disk; then it is renamed. So it has the permissions that the umask gives,
whatever the library that wrote it had in mind, and a link at its place is replaced, never followed.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from jtl.common.errors import UserError

LEFTOVER_SECONDS = 3600.0
"""After this time without a change, what an interrupted writer has left has no owner any more."""
_LONGEST_NAME = 200
"""Bytes of a name that leave room for what is added while its file is set aside."""


def replace_text(path: Path, text: str) -> None:
    """Writes a file as UTF-8, as `replace_bytes` does."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes a file that others see as the old one or the new one, never as a part.

    Args:
        path: The file, in a folder that exists.
        content: All of it.

    Raises:
        OSError: It cannot be written; the old one, if there was any, is left as it is.
    """
    with partial(path) as unfinished:
        unfinished.write_bytes(content)
        place(unfinished, path)


def append_text(path: Path, text: str) -> None:
    """Appends to a file that is this path's alone: what is linked elsewhere is copied first.

    Raises:
        OSError: It cannot be written.
    """
    if path.is_symlink() or (path.exists() and path.stat().st_nlink > 1):
        replace_bytes(path, path.read_bytes() if path.exists() else b"")
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


@contextlib.contextmanager
def replacing(path: Path, *, overwrite: bool = True) -> Iterator[Path]:
    """A place to write a file or a folder, which gets its name when the block ends without error.

    Args:
        path: Where it goes, in a folder that exists.
        overwrite: As of `place`.

    Yields:
        A path of the same name in an empty folder. Whatever else is written beside it is placed
        too, before it.

    Raises:
        OSError: As of `place`. Then, and if the block fails, nothing has changed.
    """
    with partial(path) as unfinished:
        yield unfinished
        for made in sorted(unfinished.parent.iterdir(), key=lambda made: made == unfinished):
            place(made, path.with_name(made.name), overwrite=overwrite)


@contextlib.contextmanager
def partial(path: Path) -> Iterator[Path]:
    """A path of the same name in an empty folder beside `path`; what is not placed is removed."""
    folder = path.with_name(f".jtl-{uuid.uuid4().hex}.partial")
    folder.mkdir()
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place(made: Path, path: Path, *, overwrite: bool = True) -> None:
    """Gives what stands complete at `made`, in the folder of `partial`, its place.

    Args:
        made: A file or a folder.
        path: Its place, on the same file system.
        overwrite: Whether what is there is replaced, be it a folder with all it holds. An empty
            folder always gives way to a folder.

    Raises:
        FileExistsError: There is a file, which is not to be replaced.
        OSError: It cannot be written, or there is a folder. What was there is there still.
    """
    _settle(made, made.parent.stat().st_mode & 0o777)
    if made.is_dir():
        _place_folder(made, path, overwrite)
    elif overwrite:
        os.replace(made, path)
    else:
        try:
            os.link(made, path)  # Which refuses where a rename would replace a latecomer's file.
        except FileExistsError:
            raise
        except OSError:  # File systems without hard links.
            os.rename(made, path)
    sync(path.parent)


def remove(path: Path) -> None:
    """Removes a file, a link or a folder: whoever looks meanwhile finds all of it or nothing.

    Raises:
        OSError: It cannot be moved out of the way.
    """
    aside = path.with_name(f".jtl-{uuid.uuid4().hex}.old")
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, aside)
        _delete(aside)


def remove_leftovers(folder: Path) -> None:
    """Clears up after writers that were killed in `folder`, once nobody can be at it still.

    A folder that was about to be replaced, and never was, gets its place back.
    """
    for pattern in (".jtl-*.partial", ".jtl-*.old"):
        for path in folder.glob(pattern):
            # Another process may be faster, or it belongs to somebody else.
            with contextlib.suppress(OSError):
                # A table may be written for hours.
                files = path.rglob("*") if path.suffix == ".partial" else ()
                last = [file.lstat().st_mtime for file in files if file.is_file()]
                newest = max([path.lstat().st_mtime, *last])
                if time.time() - newest <= LEFTOVER_SECONDS:
                    continue
                name = re.fullmatch(r"\.jtl-[0-9a-f]{32}\.(.+)\.old", path.name)
                if name and not os.path.lexists(folder / name[1]):
                    os.rename(path, folder / name[1])
                else:
                    _delete(path)


def check_folder(option: str, path: Path | None) -> None:
    """Refuses what is there and is no folder, before there is anything to write into it.

    Args:
        option: Its name, for the message.
        path: What was given; None passes.

    Raises:
        UserError: It is a file.
    """
    if path is not None and path.exists() and not path.is_dir():
        raise UserError(f"{option} '{path}' must be a folder, but it is a file.")


def refuse_link(folder: Path) -> None:
    """Refuses to write below a link in a run's folder: what it leads to is somebody else's.

    Raises:
        UserError: It is one.
    """
    if folder.is_symlink():
        raise UserError(
            f"'{folder}' is a link, and nothing is written through links in a run's folder. Put "
            "the folder itself there; the folder of the run as a whole may be a link."
        )


def _place_folder(made: Path, path: Path, overwrite: bool) -> None:
    aside = None
    if overwrite and path.is_dir() and not path.is_symlink():
        # Its name is kept in case this process is killed before the second rename.
        name = path.name if len(os.fsencode(path.name)) < _LONGEST_NAME else "x"
        aside = path.with_name(f".jtl-{uuid.uuid4().hex}.{name}.old")
        with contextlib.suppress(OSError):
            os.utime(path)  # As young as any leftover; after the rename may be too late.
        try:
            os.rename(path, aside)
        except FileNotFoundError:  # Another process is replacing it as well.
            aside = None
    try:
        os.rename(made, path)
    except OSError:
        if aside is not None and not path.exists():
            os.rename(aside, path)
            aside = None
        raise
    finally:
        if aside is not None:
            remove(aside)


def _settle(made: Path, mode: int) -> None:
    """Gives it the permissions that a new folder has, files without execution; waits for the disk.

    Some libraries write files that their owner alone may read.
    """
    for path in (made, *(made.rglob("*") if made.is_dir() else ())):
        if path.is_symlink():
            continue
        wanted = mode if path.is_dir() else mode & 0o666
        if path.stat().st_mode & 0o777 != wanted:
            with contextlib.suppress(OSError):  # File systems without permissions.
                path.chmod(wanted)
        sync(path)


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's entries, survive a power cut, where possible."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Folders cannot be opened everywhere, nor files without permission to read.
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # Some network file systems refuse; the rename is still atomic.
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()
