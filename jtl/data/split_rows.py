"""Some images of a split, as a split."""

from __future__ import annotations

import numpy as np

from jtl.data.decoding import HostTransform
from jtl.data.splits import Split


class SplitRows:
    """Some of a split's images, wherever they are in it."""

    def __init__(self, split: Split, rows: np.ndarray):
        """Takes a split and indices into it, integers [n]."""
        self._split, self._rows = split, np.asarray(rows)
        self.labels = split.labels[self._rows]
        places: list[int] = self._rows.tolist()
        self.names = tuple(split.names[place] for place in places)

    def __len__(self) -> int:
        return len(self._rows)

    def native_size(self) -> tuple[int, int] | None:
        """As in `Split`, for the whole split."""
        return self._split.native_size()

    def check(self) -> list[str]:
        """As in `Split`, for the whole split."""
        return self._split.check()

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """As in `Split`, by indices into these."""
        return self._split.read(self._rows[np.asarray(indices)], transform)
