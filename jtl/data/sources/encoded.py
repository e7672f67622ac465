"""Images as encoded files or records, decoded on demand."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jtl.data.batches import in_threads, read_batch, unreadable
from jtl.data.decoding import BITS, HostTransform, decode, decode_measured, image_size, is_deep
from jtl.data.frames import has_more, may_have_more
from jtl.data.image_file import MOST_BYTES, BadImage
from jtl.data.near_duplicates import UNKNOWN, perceptual_hash
from jtl.data.sources.stores import ImageFile, ImageReader
from jtl.data.splits import Advance, Labelled

# Enough for the header of nearly every image; the others are read as a whole.
_HEAD_BYTES = 65536
_UNKNOWN = -1
_NOTED = 256
"""Images of a mixed split whose sizes are worth remembering: enough for its parts, too."""

_SAMPLED = 64
"""Images that tell the depth of those of a split that are not all decoded."""

Fetch = Callable[[int, int], bytes]
"""From a record's number and a limit to its first `limit` bytes, or (-1) to all of it."""
Sizes = tuple[list[int], list[list[int]]]
"""Images, and the (height, width) of each; or no images, and the one size of all."""


class EncodedSplit(Labelled):
    """Labelled encoded images. See `jtl.data.splits.StoredSplit` for what its members mean.

    Args:
        where: What messages call the split, such as "flowers.zip (train)".
        names: A name for every image.
        labels: int32 [N], the class of every image.
        fetch: What gives the encoded images; called from several threads at once.
        stored_bytes: The size of all encoded images.
        rows: int64 [N], the number by which `fetch` knows each image; default 0 to N - 1.
        bit_depth: How many of 16 bits are used.

    Attributes:
        deepest: The largest value of the 16-bit images that were decoded so far; 0 where
            there are none.
        hashes: The perceptual hash of every image that was decoded as a check, uint64 [N]; see
            `jtl.data.near_duplicates`.
        several: Which of these have frames or pages after the first, bool [N].
    """

    def __init__(
        self,
        where: str,
        names: Sequence[str],
        labels: np.ndarray,
        fetch: Fetch,
        *,
        stored_bytes: int,
        rows: np.ndarray | None = None,
        bit_depth: int = BITS,
    ) -> None:
        super().__init__(where, labels, names, rows)
        self.deepest, self._bit_depth, self._lock = 0, bit_depth, threading.Lock()
        self.hashes = np.full(len(self._names), UNKNOWN, np.uint64)
        self.several = np.zeros(len(self._names), bool)
        self.stored_bytes = stored_bytes
        self._fetch = fetch
        self._headers: _Headers | None = None

    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) that all images share, or None; read from the headers.

        Raises:
            UserError: If some header cannot be read while all others agree.
        """
        if self._headers is None:
            self._headers = self._scan(self._header_size, None, None, until_mixed=True)
        sizes = self._headers.distinct()
        if len(sizes) > 1:
            return None
        if self._headers.faults:
            raise unreadable(list(self._headers.faults.values()), len(self), self.where)
        return (int(sizes[0, 0]), int(sizes[0, 1])) if len(sizes) else None

    def known_sizes(self) -> Sizes | None:
        """What tells another time how large the images are, without opening them.

        Returns:
            Where all readable images have one size, ([], [it]); where they have several, some
            images spread over the split, and their sizes. None where not all were looked at.
        """
        if self._headers is None or not self._headers.complete:
            return None
        sizes = self._headers.sizes
        seen = np.flatnonzero(sizes[:, 0] != _UNKNOWN)
        if not len(seen):
            return None
        other = seen[(sizes[seen] != sizes[seen[0]]).any(1)]
        if not len(other):
            return [], [sizes[seen[0]].tolist()]
        spread = np.linspace(0, len(seen) - 1, min(_NOTED, len(seen))).astype(np.int64)
        # Of a split that is mixed two that differ are among them, whatever the spread has met.
        rows = np.union1d(seen[spread], [seen[0], other[0]])
        return rows.tolist(), sizes[rows].tolist()

    def assume_sizes(self, rows: Sequence[int], sizes: Sequence[Sequence[int]]) -> None:
        """Takes the word of an earlier look, as `known_sizes` gave it."""
        if self._headers is not None:
            return
        if rows:
            known = np.full((len(self), 2), _UNKNOWN, np.int32)
            known[np.asarray(rows)] = sizes
            self._headers = _Headers(known, {}, complete=False)
        else:
            [size] = sizes
            common = np.broadcast_to(np.asarray(size, np.int32), (len(self), 2))
            self._headers = _Headers(common, {}, complete=True)

    def digests(self) -> list[str]:
        """SHA-256 (hex) of every encoded image, in their order."""
        return [hashlib.sha256(self._fetch(int(row), -1)).hexdigest() for row in self._rows]

    def check(self) -> list[str]:
        """Read every header; a line for each image that is not readable."""
        return list(self.faults(decode=False).values())

    def faults(
        self, *, decode: bool, rows: Sequence[int] | None = None, advance: Advance | None = None
    ) -> dict[int, str]:
        """Find the images that cannot be read; remembers their sizes on the way."""
        measure = self._decoded_size if decode else self._header_size
        if rows is not None:
            return self._scan(measure, rows, advance).faults
        if decode or self._headers is None or not self._headers.complete:
            self._headers = self._scan(measure, None, advance)
        return dict(self._headers.faults)

    def encoded(self, index: int, limit: int = -1) -> bytes:
        """An image's bytes, or its first `limit`; raises `BadImage` if they cannot be had."""
        name = self._names[index]
        try:
            return self._fetch(int(self._rows[index]), limit)
        except Exception as error:  # A damaged archive provokes many kinds.
            reason = error.strerror if isinstance(error, OSError) else None
            raise BadImage(f"{name}: {reason or error or type(error).__name__}") from error

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """Decode images in threads. See `jtl.data.splits.Split.read`."""

        def load_one(index: int) -> np.ndarray:
            shorter = None if transform is None else transform.shorter_side
            image = decode(self.encoded(index), self._names[index], self._bit_depth, shorter)
            if transform is None:
                return np.asarray(image)
            try:
                return transform(image)
            except BadImage as error:
                raise BadImage(f"{self._names[index]}: {error}") from error

        size = None if transform is None else transform.size
        return read_batch(load_one, indices, names=self._names, size=size, where=self.where)

    def subset(self, indices: np.ndarray) -> EncodedSplit:
        """The split that has only these images, in this order."""
        part = EncodedSplit(
            self.where,
            [self._names[index] for index in indices],
            self._labels[indices],
            self._fetch,
            stored_bytes=self.stored_bytes * len(indices) // max(len(self), 1),
            rows=self._rows[indices],
            bit_depth=self._bit_depth,
        )
        part.deepest, part.hashes = self.deepest, self.hashes[indices]
        part.several = self.several[indices]
        if self._headers is not None:
            faults, complete = self._headers.faults, self._headers.complete
            kept = {row: faults[i] for row, i in enumerate(indices.tolist()) if i in faults}
            headers = _Headers(self._headers.sizes[indices], kept, complete)
            # Of a part of a mixed split that much may not be known.
            part._headers = headers if complete or len(headers.distinct()) > 1 else None
        return part

    def with_bit_depth(self, bit_depth: int) -> EncodedSplit:
        """The same images, of whose 16 bits so many are used."""
        other = self.subset(np.arange(len(self)))
        other._bit_depth = bit_depth
        return other

    def sample_pixels(self) -> None:
        """Looks at some images, spread over the split, for `deepest` and `several`."""
        rows = np.unique(np.linspace(0, len(self) - 1, _SAMPLED).round().astype(int)).tolist()

        def measure(index: int) -> tuple[int, int]:
            head = self.encoded(index, _HEAD_BYTES)
            if is_deep(head):
                return self._decoded_size(index)
            self.several[index] = may_have_more(head) and has_more(self.encoded(index))
            return _UNKNOWN, _UNKNOWN

        self._scan(measure, rows, None)

    def relabelled(self, labels: np.ndarray) -> EncodedSplit:
        """The same images with other labels, int32 [N]."""
        other = self.subset(np.arange(len(self)))
        other._labels = labels
        return other

    def _header_size(self, index: int) -> tuple[int, int]:
        name = self._names[index]
        head = self.encoded(index, _HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            return image_size(head, name)
        try:
            return image_size(head, name, whole=False)
        except BadImage:
            return image_size(self.encoded(index), name)

    def _decoded_size(self, index: int) -> tuple[int, int]:
        data = self.encoded(index)
        image, deepest = decode_measured(data, self._names[index])
        self.several[index] = has_more(data)
        self.hashes[index] = perceptual_hash(image)
        with self._lock:
            self.deepest = max(deepest, self.deepest)
        return image.height, image.width

    def _scan(
        self,
        measure: Callable[[int], tuple[int, int]],
        rows: Sequence[int] | None,
        advance: Advance | None,
        until_mixed: bool = False,
    ) -> _Headers:
        """Measures images in threads; `until_mixed` stops at the first that differs."""
        chosen: Sequence[int] = range(len(self)) if rows is None else rows
        sizes = np.full((len(self), 2), _UNKNOWN, np.int32)

        def work(places: range) -> tuple[int, dict[int, str]]:
            faults = {}
            for place in places:
                try:
                    sizes[chosen[place]] = measure(chosen[place])
                except BadImage as error:
                    faults[chosen[place]] = str(error)
            return len(places), faults

        faults: dict[int, str] = {}
        seen: set[tuple[int, int]] = set()
        done = 0
        parts = in_threads(work, len(chosen))
        for count, failed in parts:
            if until_mixed:
                seen |= set(map(tuple, sizes[done : done + count].tolist()))
            done += count
            faults |= failed
            if advance is not None:
                advance(count)
            if len(seen - {(_UNKNOWN, _UNKNOWN)}) > 1:
                parts.close()
                return _Headers(sizes, faults, complete=False)
        return _Headers(sizes, faults, complete=True)


def split_of_files(
    where: str,
    images: Sequence[ImageFile],
    labels: np.ndarray,
    store: ImageReader,
    names: Sequence[str] | None = None,
) -> EncodedSplit:
    """The split that consists of image files.

    Args:
        where: What messages call it.
        images: The files.
        labels: int32 [N], the class of every file.
        store: What reads them.
        names: Those of the files, where they are known.
    """

    def fetch(row: int, limit: int) -> bytes:
        image = images[row]
        if image.size > MOST_BYTES:
            raise BadImage(f"a file of {image.size:,} bytes is too large for an image")
        return store.read(image, limit)

    total = sum(max(image.size, 0) for image in images)
    names = [image.name for image in images] if names is None else names
    return EncodedSplit(where, names, labels, fetch, stored_bytes=total)


class _Headers(NamedTuple):
    """What is known of a split's images.

    `sizes` is int32 [N, 2], (height, width), `_UNKNOWN` where an image is unreadable or was
    not looked at.
    """

    sizes: np.ndarray
    faults: dict[int, str]
    complete: bool

    def distinct(self) -> np.ndarray:
        """The sizes that were seen, int32 [M, 2]."""
        return np.unique(self.sizes[self.sizes[:, 0] != _UNKNOWN], axis=0)
