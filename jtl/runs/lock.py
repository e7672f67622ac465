"""One writer at a time for a run's folder."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import filelock

from jtl.common.errors import UserError
from jtl.common.locks import FileLock, unsupported

LOCK = ".lock"
"""In a run's folder while a process writes it: the host and the process id of that process."""
_ATTEMPTS = 20
_PATIENCE = 0.2  # Seconds.


@contextlib.contextmanager
def locked(folder: Path, message: Callable[[str], None]) -> Iterator[None]:
    """Makes this process the only writer of a folder, which is made if it is missing.

    The lock is the system's (`flock`; NFS passes it on to the server): it ends with the process,
    however that ends, and with the machine. What the file says is for people. A copy of the folder
    is not locked.

    Args:
        folder: The run's folder.
        message: Told where the file system has no locks.

    Raises:
        UserError: Another process writes the folder, or its lock file cannot be used.
        OSError: The folder cannot be written.
    """
    path, lock = folder / LOCK, None
    for attempt in range(_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        _check_usable(path)
        lock = FileLock(path)
        try:
            # Readers hold it too, for as long as it takes to see whether it is free.
            lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 10)
            break
        except filelock.Timeout:
            raise UserError(_held(folder, path)) from None
        except FileNotFoundError:
            # Who had it has removed the folder, as there was nothing to keep.
            if attempt == _ATTEMPTS - 1:
                raise
        except OSError as error:
            if not unsupported(error):
                if isinstance(error, PermissionError) and path.exists():
                    raise _unusable(path, error.strerror or str(error)) from error
                raise
            with contextlib.suppress(OSError):
                if not path.stat().st_size:
                    path.unlink()
            message(
                f"note: the file system of '{folder}' does not support locks ({error.strerror}). "
                "Make sure that only one training at a time writes to this folder."
            )
            lock = None
            break
    try:
        if lock is not None:
            path.write_text(json.dumps(_owner()) + "\n", encoding="utf-8")
        yield
    finally:
        if lock is not None:
            # While it is held: who waits for it notices that it is gone, and makes a new one.
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()


def is_written_by_another(folder: Path) -> bool:
    """Whether another process writes a folder; where the system cannot tell, what the lock says."""
    try:
        with _opened(folder / LOCK) as file:
            try:
                owner = json.load(file)
                if (owner["host"], owner["pid"]) == (socket.gethostname(), os.getpid()):
                    return False
            except (ValueError, LookupError, TypeError):
                pass
            try:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except (ImportError, OSError):  # It is held, or there are no locks.
                return True
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _opened(path: Path) -> TextIO:
    """A lock file to read, and nothing else: a pipe of that name would never answer.

    Raises:
        OSError: It cannot be read, or is no plain file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    file = open(os.open(path, flags), encoding="utf-8")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no plain file")
    return file


def _check_usable(path: Path) -> None:
    """Makes sure that nothing but a lock is written.

    Raises:
        UserError: It is something else.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise _unusable(path, "it is no plain file")
    if found.st_nlink > 1:
        raise _unusable(path, "it is a second name of another file, which would be overwritten")


def _unusable(path: Path, reason: str) -> UserError:
    return UserError(
        f"the lock file '{path}' cannot be used: {reason}. Delete it, or choose another folder "
        "with --run-dir."
    )


def _owner() -> dict[str, str | int]:
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": started}


def _held(folder: Path, path: Path) -> str:
    try:
        with _opened(path) as file:
            owner = json.load(file)
        who = f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, LookupError, TypeError):
        who = "another process"
    return (
        f"{who} is training in '{folder}'. Wait until it has ended, stop it, or choose another "
        "folder with --run-dir."
    )
