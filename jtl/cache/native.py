"""The size that a split's pictures share, remembered: to learn it, every file is opened."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jtl.cache.keys import names_of
from jtl.data.sources import Dataset, Split
from jtl.data.transforms import HostTransform

FOLDER = "sizes"
"""Of remembered sizes below the cache folder."""
WORTH_SECONDS = 0.1
"""What is known sooner is not remembered."""

Size = tuple[int, int] | None


def remembered(dataset: Dataset, folder: Path) -> Dataset:
    """The same data, whose splits look into a folder for the size that their pictures share.

    Args:
        dataset: The pictures; their fingerprint stands for them.
        folder: Of remembered sizes; need not exist.
    """
    splits = {}
    for role in ("train", "val", "test"):
        if (split := getattr(dataset, role)) is not None:
            facts = (dataset.fingerprint, role, len(split), names_of(split))
            digest = hashlib.sha256(repr(facts).encode()).hexdigest()
            splits[role] = Remembering(split, folder / f"{digest[:32]}.json", digest)
    return dataclasses.replace(dataset, **splits)


class Remembering:
    """A split that remembers `native_size`; see `jtl.data.sources.Split` for the rest."""

    def __init__(self, split: Split, path: Path, digest: str):
        """Takes the split, the file to remember by, and what stands for the split in it."""
        self._split, self._path, self._digest = split, path, digest
        self._known: tuple[Size] | None = None

    @property
    def labels(self) -> np.ndarray:
        """The class index of every picture, int32 [N]."""
        return self._split.labels

    @property
    def names(self) -> Sequence[str]:
        """A name for every picture."""
        return self._split.names

    def __len__(self) -> int:
        return len(self._split)

    def native_size(self) -> Size:
        """The (height, width) that all pictures share, or None; see `Split.native_size`."""
        if self._known is None:
            self._known = self._recall()
        if self._known is None:
            began = time.perf_counter()
            self._known = (self._split.native_size(),)
            if time.perf_counter() - began > WORTH_SECONDS:
                self._note(self._known[0])
        return self._known[0]

    def check(self) -> list[str]:
        """A line for each picture whose header cannot be read."""
        return self._split.check()

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """Decode some pictures; see `Split.read`."""
        return self._split.read(indices, transform)

    def _recall(self) -> tuple[Size] | None:
        """What was noted; None where nothing is, or something is wrong with it."""
        try:
            stored = json.loads(self._path.read_bytes())
            size = None if stored["size"] is None else (stored["size"][0], stored["size"][1])
            return (size,) if stored["sha256"] == self._signed(size) else None
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return None

    def _note(self, size: Size) -> None:
        text = json.dumps({"size": size, "sha256": self._signed(size)})
        draft = self._path.with_name(f"{uuid.uuid4().hex}.tmp")
        with contextlib.suppress(OSError):  # Opening the files again is slower, nothing else.
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                draft.write_text(text + "\n", encoding="utf-8")
                os.replace(draft, self._path)
            finally:
                draft.unlink(missing_ok=True)

    def _signed(self, size: Size) -> str:
        return hashlib.sha256(f"{self._digest} {size}".encode()).hexdigest()
