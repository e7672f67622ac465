"""The folder of kept features: found again, written by one process at a time, kept in bounds."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import numpy as np

from jtl.cache import sizes
from jtl.cache.entry import (
    CHECKSUMS,
    DESCRIPTION,
    VALUES,
    ArraySpec,
    DamagedEntry,
    Entry,
    EntryWriter,
)
from jtl.common.locks import FileLock, unsupported
from jtl.common.quantities import format_bytes

if TYPE_CHECKING:
    from jtl.cache.keys import Key

PARTIAL, LOCK, ASIDE = ".partial", ".lock", ".old"
PATIENCE_SECONDS = 120.0
"""How long another process may write nothing before this one computes for itself."""
LEFTOVER_SECONDS = 7 * 24 * 3600.0
"""After this time nobody will go on with what an interrupted process left."""
_LOOK_SECONDS = 0.2
_OURS = re.compile(r"[0-9a-f]{32}(\.partial|\.old)?")
"""Names of entries; what else lies in the folder is not touched."""


@dataclasses.dataclass(frozen=True)
class StoredEntry:
    """What lies in the store, as far as its files tell.

    Attributes:
        name: Of the folder.
        nbytes: Of all its files.
        used: When it was last used, seconds since the epoch.
        written: When its values were last written, likewise.
        partial: Whether it is unfinished.
    """

    name: str
    nbytes: int
    used: float
    written: float
    partial: bool


class FeatureStore:
    """Entries in a folder, by their keys."""

    def __init__(self, folder: Path, message: Callable[[str], None]):
        """Takes the folder, which need not exist, and where to say what goes wrong."""
        self.folder, self._message = folder, message
        self._mine: set[str] = set()
        self._said: set[str] = set()

    def find(self, key: Key) -> Entry | None:
        """The entry of a key, its values not looked at yet; a damaged one is removed."""
        try:
            return Entry.read(self.folder / key.name, key.digest)
        except DamagedEntry as damage:
            self._discard(key, damage)
            return None

    def load(self, key: Key, *, mapped: bool) -> tuple[Entry, np.ndarray] | None:
        """An entry with its values, checked; it counts as used now. See `Entry.load`."""
        entry = self.find(key)
        if entry is None:
            return None
        try:
            values = entry.load(mapped=mapped)
        except DamagedEntry as damage:
            self._discard(key, damage)
            return None
        self._mine.add(key.name)
        with contextlib.suppress(OSError):  # A folder that is read only.
            os.utime(entry.folder / DESCRIPTION)
        return entry, values

    def limit(self) -> int:
        """Bytes that all entries may take together."""
        return sizes.disk_limit(self.folder, sum(held.nbytes for held in self.entries()))

    @contextlib.contextmanager
    def claim(self, key: Key, spec: ArraySpec) -> Iterator[EntryClaim | None]:
        """The right to write an entry, if it can be had; waits for a process that has it.

        Yields:
            The claim; None if the entry is not to be kept (said why), or has appeared in the
            meantime. Leaving the block keeps unfinished rows for another time.
        """
        with contextlib.ExitStack() as stack:
            writer = None
            try:
                stack.enter_context(self._locked(key.name))
                if self.find(key) is None and self._make_room(spec.nbytes, key.name):
                    writer = self._writer(key.name, spec)
            except (OSError, _Busy) as error:
                self._refuse(error)
            if writer is None:
                yield None
                return
            self._mine.add(key.name)
            stack.callback(writer.close)
            yield EntryClaim(self, key, writer)

    def _writer(self, name: str, spec: ArraySpec) -> EntryWriter:
        partial = self.folder / (name + PARTIAL)
        try:
            return EntryWriter(partial, spec)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise

    def _refuse(self, error: Exception) -> None:
        reason = getattr(error, "strerror", None) or str(error)
        if unsupported(error):
            reason = f"the file system has no locks ({reason}). Set JTL_CACHE to a folder elsewhere"
        self._say(f"jtl cannot cache features in '{self.folder}': {reason}")

    def entries(self) -> list[StoredEntry]:
        """All entries, the longest unused first, unfinished ones among them."""
        found = []
        for folder in self._folders():
            # Removed by another process meanwhile, or no folder.
            with contextlib.suppress(OSError):
                files = {path.name: path.stat() for path in folder.iterdir()}
                stamps = [files[n].st_mtime for n in (DESCRIPTION, CHECKSUMS) if n in files]
                used = max(stamps, default=folder.stat().st_mtime)
                written = files[VALUES].st_mtime if VALUES in files else used
                nbytes = sum(status.st_size for status in files.values())
                partial = folder.name.endswith(PARTIAL)
                found.append(StoredEntry(folder.name, nbytes, used, written, partial))
        return sorted(found, key=lambda held: (held.used, held.name))

    def entry(self, name: str) -> Entry | None:
        """An entry by its folder's name; None if it is unfinished or damaged."""
        try:
            return Entry.read(self.folder / name)
        except DamagedEntry:
            return None

    def remove(self, name: str) -> int:
        """Removes an entry, unless a process is writing it; the bytes that were freed."""
        key = name.removesuffix(PARTIAL)
        nbytes = sum(held.nbytes for held in self.entries() if held.name == name)
        try:
            with self._lock(key).acquire(blocking=False):
                self._remove(name)
                self._tidy(key)
        except (OSError, filelock.Timeout):
            return 0
        return 0 if (self.folder / name).exists() else nbytes

    def _finish(self, writer: EntryWriter, key: Key) -> None:
        self._remove(key.name)  # A damaged one that could not be removed before.
        writer.finish(self.folder / key.name, key.digest, key.facts)

    def _folders(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if _OURS.fullmatch(path.name)]
        except OSError:
            return []

    def _make_room(self, needed: int, name: str) -> bool:
        """Removes the longest unused entries until a new one fits; False if it cannot."""
        held = self.entries()
        total = sum(h.nbytes for h in held if h.name != name + PARTIAL)
        limit = sizes.disk_limit(self.folder, sum(h.nbytes for h in held))
        if needed > limit:
            if limit:  # Else nothing is to be kept, as the user knows.
                self._too_large(f"they take {format_bytes(needed)}, more than the", limit)
            return False
        for old in held:
            owner = old.name.removesuffix(PARTIAL)
            if owner in self._mine or owner == name:
                continue
            left = old.partial and time.time() - old.used > LEFTOVER_SECONDS
            if left or old.name.endswith(ASIDE) or total + needed > limit:
                total -= self.remove(old.name)
        if total + needed > limit:
            self._too_large(f"{format_bytes(needed)} more would exceed the", limit)
            return False
        return True

    def _too_large(self, reason: str, limit: int) -> None:
        self._say(
            f"jtl does not cache these features: {reason} {format_bytes(limit)} allowed in "
            f"'{self.folder}'. {sizes.LIMIT} sets another limit."
        )

    def _discard(self, key: Key, damage: DamagedEntry) -> None:
        self._message(
            f"computing features again, because {key.name} in the cache is damaged: {damage}"
        )
        self.remove(key.name)

    def _remove(self, name: str) -> None:
        """Out of the way first: a process that looks meanwhile finds all of it or nothing."""
        aside = self.folder / f"{uuid.uuid4().hex}{ASIDE}"
        with contextlib.suppress(FileNotFoundError):
            (self.folder / name).rename(aside)
            if aside.is_dir():
                shutil.rmtree(aside, ignore_errors=True)
            else:  # Not of our making.
                aside.unlink()

    def _lock(self, name: str) -> FileLock:
        return FileLock(self.folder / (name + LOCK))

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Holds an entry's lock, which the system takes from a process that dies.

        Raises:
            _Busy: Another process holds it and makes no progress.
            OSError: There can be no lock.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = self._lock(name)
        waited, written = time.monotonic(), -1
        while True:
            try:
                lock.acquire(blocking=False)
                break
            except filelock.Timeout:
                self._say("waiting for another process that is computing the same features")
            progress = self._progress(name)
            if progress != written:
                waited, written = time.monotonic(), progress
            if time.monotonic() - waited > PATIENCE_SECONDS:
                raise _Busy(f"another process has held them for {PATIENCE_SECONDS:.0f} s")
            time.sleep(_LOOK_SECONDS)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._tidy(name)
            lock.release()

    def _tidy(self, name: str) -> None:
        """Removes a lock that is held, if nothing is left to go on with.

        As the last act: who waits for the lock sees that it is gone, and takes a new one.
        """
        if not (self.folder / (name + PARTIAL)).exists():
            (self.folder / (name + LOCK)).unlink(missing_ok=True)

    def _progress(self, name: str) -> int:
        try:
            return (self.folder / (name + PARTIAL) / CHECKSUMS).stat().st_size
        except OSError:
            return 0

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._message(text)


class EntryClaim:
    """An entry that this process alone writes. What the disk refuses ends it, and is said."""

    def __init__(self, store: FeatureStore, key: Key, writer: EntryWriter):
        self._store, self._key, self._writer = store, key, writer
        self.alive = True

    @property
    def rows(self) -> int:
        """How many rows are written, by this process or one before it."""
        return self._writer.rows

    def written(self) -> np.ndarray:
        """The rows so far."""
        return self._writer.written()

    def append(self, rows: np.ndarray) -> None:
        """Writes the next rows; see `EntryWriter.append`."""
        self._try(lambda: self._writer.append(rows))

    def finish(self) -> None:
        """Gives the entry its name, once it has all rows."""
        self._try(lambda: self._store._finish(self._writer, self._key))

    def _try(self, work: Callable[[], object]) -> None:
        if not self.alive:
            return
        try:
            work()
        except OSError as error:  # Such as a full disk, which gets its space back.
            self.alive = False
            self._store._refuse(error)
            self._writer.close()
            shutil.rmtree(self._writer.folder, ignore_errors=True)


class _Busy(Exception):
    """Another process holds an entry and makes no progress."""
