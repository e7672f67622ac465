"""Images that nearly are the same in two splits, as frames of one video or shots of one object.

Two images are taken for near-duplicates if they are of one class, their perceptual hashes differ in
few bits and small grey copies of them correlate. The hash is the usual one of the low frequencies
of a cosine transform (Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions,
2010).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jtl.common.text import counted
from jtl.data.decoding import HostTransform

UNKNOWN = 0
"""The hash of an image with too few pixels or too little in it."""
SMALLEST = 32
"""Pixels of the shorter side: smaller images are not compared."""
_SIDE, _LOW = 32, 8  # pixels of the small grey copy; frequencies in each direction
_CONTRAST = 4.0  # standard deviation of the small copy, of 0..255
_BITS = 8  # that may differ, of 63; unrelated photographs differ in 20 and more
_CORRELATION = 0.95
_LOOKED_AT = 300  # candidates
_PAIRS = 2**31  # compared at the most; of more images some are drawn
_EXAMPLES = 3
_SHARE = 0.01
"""Of the validation images: near-duplicates of fewer are not worth a note before training."""

_COSINES = np.cos(
    np.pi / _SIDE * np.outer(np.arange(_LOW), np.arange(_SIDE) + 0.5), dtype=np.float32
)
_PLACES = (np.uint64(1) << np.arange(1, _LOW * _LOW, dtype=np.uint64)).astype(np.uint64)


class NearDuplicates(NamedTuple):
    """Images of one split with a near-duplicate in another.

    Attributes:
        count: How many; of more than `_LOOKED_AT` candidates estimated from as many.
        total: The images of the split.
        examples: (name, name in the other split) of some.
    """

    count: int
    total: int
    examples: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        told = "; ".join(f"{one} and {other}" for one, other in self.examples)
        return f"{self.count:,} of {counted(self.total, 'image')}, such as {told}"


def perceptual_hash(image: Image.Image) -> int:
    """63 bits that nearly equal images nearly share; `UNKNOWN` where it says nothing."""
    shorter = min(image.size)
    if shorter < SMALLEST:
        return UNKNOWN
    if (factor := shorter // (2 * _SIDE)) > 1:
        image = image.reduce(factor)
    small = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return int(_hashes(np.asarray(small, np.float32)[None])[0])


def array_hashes(images: np.ndarray) -> np.ndarray:
    """`perceptual_hash` of every image of an array, uint64 [N].

    Args:
        images: uint8 [N, H, W, 1 or 3].
    """
    if images.shape[1:3] != (_SIDE, _SIDE):
        grey = [image[..., 0] if image.shape[-1] == 1 else image for image in images]
        return np.array([perceptual_hash(Image.fromarray(image)) for image in grey], np.uint64)
    if images.shape[-1] == 1:
        return _hashes(images[..., 0].astype(np.float32))
    # As Pillow's "L", in integers.
    luma = images.astype(np.uint32) @ np.array([19595, 38470, 7471], np.uint32)
    return _hashes(((luma + 0x8000) >> 16).astype(np.float32))


def _hashes(small: np.ndarray) -> np.ndarray:
    """Of grey images, float32 [N, 32, 32]."""
    low = (_COSINES @ small @ _COSINES.T).reshape(len(small), -1)[:, 1:]
    bits = low > np.median(low, axis=1, keepdims=True)
    contrast = small.std((1, 2)) >= _CONTRAST
    return np.where(contrast, (bits * _PLACES).sum(1, dtype=np.uint64), np.uint64(UNKNOWN))


def hashes_of(split: Any) -> np.ndarray:
    """The hash of every image, uint64 [N]; `UNKNOWN` of those that are not known."""
    known = getattr(split, "hashes", None)
    return np.zeros(len(split), np.uint64) if known is None else known


def find(one: Any, other: Any) -> NearDuplicates | None:
    """Which images of a split have near-duplicates in another, or in itself.

    Args:
        one: A split, whose images were decoded before.
        other: Another; or the same, in which an image is no duplicate of itself.

    Returns:
        None where there are none.
    """
    ours, theirs = hashes_of(one), hashes_of(other)
    rows, columns = np.flatnonzero(ours), np.flatnonzero(theirs)
    if not len(rows) or not len(columns):
        return None
    total = len(rows)
    most = max(_PAIRS // len(columns), 1)
    if total > most:
        rows = rows[np.linspace(0, total - 1, most).round().astype(int)]
    pairs = _nearest(ours, theirs, rows, columns, itself=one is other)
    # Those of other classes look alike, and flatter no accuracy.
    same = one.labels[pairs[:, 0]] == other.labels[pairs[:, 1]]
    pairs = pairs[same if same.ndim == 1 else same.all(1)]
    if not len(pairs):
        return None
    looked_at = pairs[np.linspace(0, len(pairs) - 1, min(len(pairs), _LOOKED_AT)).astype(int)]
    alike = _correlate(_small(one, looked_at[:, 0]), _small(other, looked_at[:, 1]))
    near = looked_at[alike > _CORRELATION]
    if not len(near):
        return None
    count = len(near) / len(looked_at) * len(pairs) / len(rows) * total
    if one is other:  # Each pair once, not from both of its sides.
        near = near[np.unique(np.sort(near, 1), axis=0, return_index=True)[1]]
    examples = [(one.names[i], other.names[j]) for i, j in near[:_EXAMPLES].tolist()]
    return NearDuplicates(max(round(count), 1), len(one), tuple(examples))


def note(train: Any, val: Any) -> str | None:
    """What is to be said before training about near-duplicates across train and val."""
    found = find(val, train)
    if found is None or found.count < max(2, _SHARE * found.total):
        return None
    return (
        f"Some validation images are nearly the same as training images ({found}), so validation "
        "accuracy will look better than accuracy on new images. Put all images of one video, "
        "object or person into the same split."
    )


def _nearest(
    ours: np.ndarray, theirs: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, itself: bool
) -> np.ndarray:
    """(row, nearest column) of those within `_BITS`, int64 [M, 2]."""
    found = []
    chunk = max(2**22 // len(columns), 1)
    for start in range(0, len(rows), chunk):
        part = rows[start : start + chunk]
        differing = np.bitwise_count(ours[part][:, None] ^ theirs[columns].reshape(1, -1))
        if itself:
            differing[part[:, None] == columns.reshape(1, -1)] = 64
        nearest = differing.argmin(1)
        close = differing[np.arange(len(part)), nearest] <= _BITS
        found.append(np.stack([part[close], columns[nearest[close]]], 1))
    return np.concatenate(found)


def _small(split: Any, rows: np.ndarray) -> np.ndarray:
    """Grey copies, float32 [N, 256], of mean 0 and length 1."""
    pixels = split.read(rows, HostTransform(16, 1.0, "bilinear")).mean(-1, dtype=np.float32)
    flat = pixels.reshape(len(rows), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)


def _correlate(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(1)
