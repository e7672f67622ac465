"""Data at an address: a file or a folder, copied into jtl's cache once, and again if it changed.

A copy is found by its address. It stands for the version (ETag, size, time of change) that its
`about.json` names, and appears as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jtl.common import files
from jtl.common.errors import UserError
from jtl.common.locks import FileLock
from jtl.common.paths import REMOTE, cache_dir
from jtl.common.progress import Display
from jtl.config import addresses
from jtl.data.sources.remote_places import Found, Place, Refused, place_of
from jtl.data.splits import OpenedSource

_T = TypeVar("_T")
_ABOUT, _DATA = "about.json", "data"
_DISK_SHARE = 0.8
"""The share of free disk space that a copy may take."""
_LOOK_SECONDS = 60.0
"""How long an answer may take before there is a message instead."""
_MB = 10**6


class Copy(NamedTuple):
    """A local copy.

    Attributes:
        path: The file or folder.
        note: What a user should know; empty where there is nothing.
    """

    path: Path
    note: str = ""


_copies: dict[str, Copy] = {}


def copy_of(address: str) -> Copy:
    """The local copy of what is at an address; made or renewed at the first call in a process.

    Args:
        address: As `jtl.config.addresses.without_secrets` shows it.

    Raises:
        UserError: There is nothing, it cannot be read, does not fit on the disk, or a package
            that reads such addresses is missing.
    """
    found = _copies.get(address)
    if found is None or not found.path.exists():
        found = _copies[address] = _copied(address)
    return found


def _copied(address: str) -> Copy:
    folder = cache_dir() / REMOTE / hashlib.sha256(address.encode()).hexdigest()[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    files.remove_leftovers(folder.parent)
    with FileLock(folder.with_suffix(".lock")):
        about = _about(folder)
        kept = folder / _DATA / str(about["name"]) if about else None
        try:
            if not addresses.is_whole(address):
                raise Refused(
                    "it was stored without its query, which may hold a password. Give the whole "
                    "address with --data."
                )
            place = place_of(address)
            found = _in_time(place.look)
        except Refused as error:
            if kept is None or not error.passing:
                raise UserError(f"{address} cannot be read: {error}") from error
            return Copy(kept, f"{address} could not be looked at: {error} The copy is used.")
        if kept is not None and about.get("version") == found.version:
            return Copy(kept)
        return Copy(_fetch(address, place, found, folder))


def _about(folder: Path) -> Mapping[str, Any]:
    """What is noted of a copy; empty where there is none."""
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        return about if (folder / _DATA / about["name"]).exists() else {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}


def _fetch(address: str, place: Place, found: Found, folder: Path) -> Path:
    """Copies all files; raises `UserError` where that fails, and leaves what there was."""
    room = int(shutil.disk_usage(folder.parent).free * _DISK_SHARE)
    _refuse_large(address, found.size or 0, room)
    display = Display()
    told = f"{found.size / _MB:,.0f} MB" if found.size else "of unknown size"
    display.message(f"Copying {address} ({told}) into {folder.parent}")
    left = room
    lock = threading.Lock()
    total = max(round((found.size or 0) / _MB), 1)
    with files.replacing(folder) as unfinished, display.track("copying", total, "MB") as advance:
        done = shown = 0

        def count(size: int) -> None:
            nonlocal done, shown, left
            with lock:
                done, left = done + size, left - size
                if left < 0:
                    _refuse_large(address, done, room)
                if done // _MB > shown and shown < total:
                    now = min(done // _MB, total)
                    advance(now - shown)
                    shown = now

        (unfinished / _DATA).mkdir(parents=True)
        target = unfinished / _DATA / found.name
        try:
            place.fetch(found, target, count)
        except Refused as error:
            raise UserError(f"{address} cannot be read: {error}") from error
        if shown < total:
            advance(total - shown)
        _settle(target, found.version)
        about = {"address": address, "name": found.name, "version": found.version}
        (unfinished / _ABOUT).write_text(json.dumps(about), encoding="utf-8")
    return folder / _DATA / found.name


def _refuse_large(address: str, size: int, room: int) -> None:
    if size > room:
        raise UserError(
            f"{address} has {size / 1e9:.1f} GB or more, and {room / 1e9:.1f} GB of the disk may "
            "be used for it. Free some space, or let JTL_CACHE name a folder on a larger disk."
        )


def _settle(target: Path, version: str) -> None:
    """Gives files the time of their version: a second copy of it counts as the same data."""
    time = int(hashlib.sha256(version.encode()).hexdigest()[:7], 16)
    for path in [target, *(target.rglob("*") if target.is_dir() else ())]:
        with contextlib.suppress(OSError):
            os.utime(path, (time, time))


def _in_time(look: Callable[[], _T]) -> _T:
    """What a call gives; raises `Refused` if it takes too long: libraries try again for hours."""
    answers: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(look())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(_LOOK_SECONDS)
    if errors:
        raise errors[0]
    if not answers:
        raise Refused(
            f"no answer within {_LOOK_SECONDS:.0f} seconds. Check the network and the address.",
            passing=True,
        )
    return answers[0]


def explained(error: UserError, address: str, copy: Copy) -> UserError:
    """An error about a copy, as one about the address."""
    return UserError(str(error).replace(str(copy.path), address))


def renamed(found: OpenedSource, address: str, copy: Copy) -> OpenedSource:
    """What is in a copy, called by the address; its note is added."""
    place = str(copy.path)
    for split in found.splits.values():
        split.where = split.where.replace(place, address)
    return dataclasses.replace(
        found,
        notes=tuple(note.replace(place, address) for note in (copy.note, *found.notes) if note),
        problems=tuple(type(one)(one.replace(place, address)) for one in found.problems),
    )
