"""One writer at a time for a run's folder."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from jtl.common.errors import UserError

LOCK = ".lock"
"""In a run's folder while a process writes it: the host and the process id of that process."""
_ATTEMPTS = 20
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


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
        UserError: Another process writes the folder.
        OSError: The folder cannot be written.
    """
    path, lock = folder / LOCK, None
    for attempt in range(_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path, thread_local=False)
        try:
            lock.acquire(blocking=False)
            break
        except filelock.Timeout:
            raise UserError(_held(folder, path)) from None
        except FileNotFoundError:
            # Who had it has removed the folder, as there was nothing to keep.
            if attempt == _ATTEMPTS - 1:
                raise
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            message(
                f"note: the file system of '{folder}' has no locks ({error.strerror}). Make sure "
                "that only one training at a time writes this folder."
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
    """Whether another process may be writing a folder; it may also have been killed."""
    try:
        owner = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        return (owner["host"], owner["pid"]) != (socket.gethostname(), os.getpid())
    except FileNotFoundError:
        return False
    except (OSError, ValueError, LookupError, TypeError):
        return True


def _owner() -> dict[str, str | int]:
    started = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "since": started}


def _held(folder: Path, path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        who = f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, LookupError, TypeError):
        who = "another process"
    return (
        f"{who} is training in '{folder}'. Wait until it has ended or stop it, or choose another "
        "folder with --run-dir."
    )
