"""A split whose images several networks look at: decoded once where they are prepared alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from jtl.data.decoding import HostTransform
from jtl.data.splits import Split


class DecodedOnce:
    """A split that keeps what was decoded for those who prepare images in the same way."""

    def __init__(self, split: Split, transforms: Iterable[HostTransform | None], room: int):
        """Takes a split.

        Args:
            split: The images.
            transforms: How each of those who will read all of it resizes.
            room: Bytes that decoded images may take; what does not fit is decoded again.
        """
        self.labels, self.names = split.labels, split.names
        self._split = split
        self._kept: dict[HostTransform, np.ndarray] = {}
        self._done: dict[HostTransform, np.ndarray] = {}
        for transform, times in Counter(transforms).most_common():
            needed = 0 if transform is None else 3 * transform.size**2 * len(split)
            if transform is not None and times > 1 and needed <= room:
                room -= needed
                shape = (len(split), transform.size, transform.size, 3)
                self._kept[transform] = np.empty(shape, np.uint8)
                self._done[transform] = np.zeros(len(split), bool)

    def __len__(self) -> int:
        return len(self._split)

    def native_size(self) -> tuple[int, int] | None:
        """As in `Split`."""
        return self._split.native_size()

    def check(self) -> list[str]:
        """As in `Split`."""
        return self._split.check()

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """As in `Split`."""
        if transform is None or transform not in self._kept:
            return self._split.read(indices, transform)
        kept, done = self._kept[transform], self._done[transform]
        rows = np.asarray(indices) % len(self)
        missing = np.unique(rows[~done[rows]])
        if missing.size:
            kept[missing] = self._split.read(missing, transform)
            done[missing] = True
        return kept[rows]
