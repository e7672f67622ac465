"""What the cache folder holds, and how to get its space back."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jtl.cache.entry import Entry
from jtl.cache.store import FeatureStore, StoredEntry
from jtl.common import compilation_cache, files
from jtl.common.paths import CHECKED, FEATURES, MEASURED, PROGRAMS, REMOTE, WEIGHTS

DAY = 24 * 3600.0


@dataclasses.dataclass(frozen=True)
class Row:
    """Features of one split, on disk.

    Attributes:
        held: Key, size and last use.
        entry: What they are; None if they are unfinished or damaged.
        age: Seconds since they were computed.
        unused: Seconds since they were last used.
    """

    held: StoredEntry
    entry: Entry | None
    age: float
    unused: float

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON can hold it; sizes in bytes, times in seconds."""
        entry = self.entry
        facts = {} if entry is None else entry.facts
        return {
            "key": self.held.name,
            "finished": not self.held.partial,
            **{name: facts.get(name) for name in ("model", "cut", "data", "split", "view")},
            "shape": None if entry is None else list(entry.spec.shape),
            "dtype": None if entry is None else entry.spec.dtype,
            "bytes": self.held.nbytes,
            "age_seconds": round(self.age, 1),
            "unused_seconds": round(self.unused, 1),
        }


class Inventory:
    """The cache folder, looked at and tidied; nothing but what jtl has put there is touched."""

    def __init__(self, folder: Path, message: Callable[[str], None]):
        """Takes the cache folder, which need not exist, and where to say what goes wrong."""
        self.folder = folder
        self.store = FeatureStore(folder / FEATURES, message)

    def rows(self, keys: tuple[str, ...] = (), older_than: float = 0.0) -> list[Row]:
        """Kept features, the longest unused first.

        Args:
            keys: Beginnings of keys; none for all.
            older_than: Days since the last use, at least.
        """
        now, rows = time.time(), []
        for held in self.store.entries():
            if not held.name.startswith(keys or ("",)):
                continue
            entry = self.store.entry(held.name)
            row = Row(held, entry, max(now - held.written, 0.0), max(now - held.used, 0.0))
            if row.unused >= older_than * DAY:
                rows.append(row)
        return rows

    def sizes(self) -> dict[str, int]:
        """Bytes of each part: features, programs, weights, checks of images, copies, timings."""
        parts = {
            "features": FEATURES, "programs": PROGRAMS, "weights": WEIGHTS, "sizes": CHECKED,
            "remote": REMOTE, "measured": MEASURED,
        }  # fmt: skip
        return {part: _bytes(self.folder / name) for part, name in parts.items()}

    def clear(self, rows: list[Row]) -> int:
        """Removes features; the bytes that were freed."""
        return sum(self.store.remove(row.held.name) for row in rows)

    def clear_rest(self) -> int:
        """Removes all that is no feature; the bytes freed."""
        freed = 0
        for path in self._rest():
            nbytes = _bytes(path)
            with contextlib.suppress(OSError):
                files.remove(path)
                freed += nbytes
        return freed

    def _rest(self) -> Iterator[Path]:
        yield from compilation_cache.entries(self.folder / PROGRAMS)
        for part in (CHECKED, MEASURED):
            for path in (self.folder / part).glob("*.json"):
                if re.fullmatch("[0-9a-f]{32}", path.stem):
                    yield path
        for path in (self.folder / REMOTE).glob("*"):
            if re.fullmatch("[0-9a-f]{32}", path.name) and (path / "about.json").is_file():
                yield path
        for path in (self.folder / WEIGHTS).glob("*"):
            # Not what weights_convert was told to put there, whose name is the user's.
            converted = re.fullmatch(".+-[0-9a-f]{16}", path.name)
            if converted and (path / "weights.json").is_file() and not path.is_symlink():
                yield path


def _bytes(path: Path) -> int:
    """The size of a file, or of all files below a folder."""
    if not path.is_dir():
        return path.stat().st_size if path.is_file() else 0
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
