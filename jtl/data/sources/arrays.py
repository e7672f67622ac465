"""Images that are in memory as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jtl.common.errors import UserError
from jtl.common.optional import require
from jtl.data import near_duplicates
from jtl.data.batches import in_threads, read_batch
from jtl.data.decoding import HostTransform
from jtl.data.image_file import BadImage
from jtl.data.splits import Advance, Labelled, OpenedSource

_MOST_HASHED = 2**28
"""Pixels of a split: of more none are hashed, as that takes seconds in every run."""


class ArraySplit(Labelled):
    """Images in memory.

    Args:
        where: What messages call the split.
        images: uint8 [M, H, W, 3], or grey [M, H, W, 1].
        labels: int32 [N].
        names: A name for every image.
        rows: int64 [N], where each image is in `images`; default 0 to M - 1, all of them.
    """

    stored_bytes = 0
    deepest = 0  # Nothing in memory has 16 bits.

    def __init__(
        self,
        where: str,
        images: np.ndarray,
        labels: np.ndarray,
        names: Sequence[str],
        rows: np.ndarray | None = None,
    ) -> None:
        super().__init__(where, labels, names, rows)
        self._images = images
        self._hashes: np.ndarray | None = None

    @property
    def hashes(self) -> np.ndarray:
        """The perceptual hash of every image, uint64 [N]; see `jtl.data.near_duplicates`."""
        if self._hashes is None:
            self._hashes = np.full(len(self), near_duplicates.UNKNOWN, np.uint64)
            height, width = self._images.shape[1:3]
            large = min(height, width) >= near_duplicates.SMALLEST
            if large and len(self) * height * width <= _MOST_HASHED:
                for rows, values in in_threads(self._hash, len(self)):
                    self._hashes[rows.start : rows.stop] = values
        return self._hashes

    def _hash(self, rows: range) -> tuple[range, np.ndarray]:
        return rows, near_duplicates.array_hashes(self._images[self._rows[rows.start : rows.stop]])

    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) of the array."""
        return self._images.shape[1], self._images.shape[2]

    def check(self) -> list[str]:
        """Always empty: there is nothing to decode."""
        return []

    def faults(
        self, *, decode: bool, rows: Sequence[int] | None = None, advance: Advance | None = None
    ) -> dict[int, str]:
        """Always empty: there is nothing to decode."""
        del decode
        if advance is not None:
            advance(len(self) if rows is None else len(rows))
        return {}

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """Copy or resize images. See `jtl.data.splits.Split.read`."""
        if transform is None:
            return _rgb(self._images[self._rows[np.asarray(indices, dtype=np.int64)]])

        def load_one(index: int) -> np.ndarray:
            try:
                return transform(Image.fromarray(_rgb(self._images[self._rows[index]])))
            except BadImage as error:
                raise BadImage(f"{self._names[index]}: {error}") from error

        size = transform.size
        return read_batch(load_one, indices, names=self._names, size=size, where=self.where)

    def subset(self, indices: np.ndarray) -> ArraySplit:
        """The split that has only these images, in this order."""
        names = [self._names[index] for index in indices]
        rows = self._rows[indices]  # The array itself is shared, not copied.
        part = ArraySplit(self.where, self._images, self._labels[indices], names, rows)
        part._hashes = None if self._hashes is None else self._hashes[indices]
        return part

    def relabelled(self, labels: np.ndarray) -> ArraySplit:
        """The same images with other labels, int32 [N]."""
        other = ArraySplit(self.where, self._images, labels, self._names, self._rows)
        other._hashes = self._hashes
        return other


def _rgb(images: np.ndarray) -> np.ndarray:
    """[..., 1 or 3] -> [..., 3]."""
    return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)


def load_digits(rest: str) -> OpenedSource:
    """The UCI handwritten digits' test part (8 x 8 pixels of 0..16), as scikit-learn ships it.

    Raises:
        UserError: scikit-learn is not installed, or something follows the name.
    """
    if rest:
        raise UserError(f"The data set 'digits' takes nothing after its name, not '{rest}'.")
    purpose = "the data set 'digits', which comes with scikit-learn,"
    digits = require("sklearn.datasets", purpose, "jtl[demo]").load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    names = [str(index) for index in range(len(images))]
    split = ArraySplit("digits", images, digits.target.astype(np.int32), names)
    class_names = tuple(str(digit) for digit in range(10))
    digest = _array_hash(images, split.labels)
    return OpenedSource(class_names, {"train": split}, (), (), digest, "scikit-learn's targets")


def _array_hash(images: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.sha256(repr((images.shape, images.dtype.str)).encode())
    digest.update(images.tobytes())
    digest.update(labels.astype("<i4").tobytes())
    return digest.hexdigest()
