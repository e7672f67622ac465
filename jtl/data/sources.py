"""Data sets by name: labelled pictures in train, validation and test splits."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from jtl.data.batches import read_batch
from jtl.data.folder import FileSplit, read_class_folders
from jtl.data.transforms import BadImage, HostTransform
from jtl.errors import UserError, suggest

_SOURCES = {
    "digits": "'digits' (1,797 handwritten digits, comes with scikit-learn)",
    "folder": "'folder:PATH' (a folder of class folders, or a zip of one)",
}


class Split(Protocol):
    """Labelled pictures that are decoded on demand."""

    @property
    def labels(self) -> np.ndarray:
        """The class index of every picture, int32 [N]."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """A name for every picture: its path below the data folder, or its index."""
        ...

    def __len__(self) -> int: ...

    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) in pixels that all pictures share, or None.

        Raises:
            UserError: If pictures cannot be read, so that it is not known.
        """
        ...

    def check(self) -> list[str]:
        """A line for each picture whose header cannot be read. See `verify_images`."""
        ...

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """Decode some pictures, in a thread pool.

        Args:
            indices: Integers [n] into the split, in any order, repeated or not.
            transform: How to resize; None keeps the pictures' size, which must be the same.

        Returns:
            uint8 [n, H, W, 3], RGB, in the order of `indices`.

        Raises:
            UserError: Naming the unreadable pictures among these (the first 20 of them), or two
                of different size when there is no transform.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The splits of one data set.

    Attributes:
        spec: What it was loaded by.
        class_names: The name of every label.
        train: Pictures to learn from.
        val: Pictures to choose epochs and settings by.
        test: Pictures kept for the end, or None.
        notes: What a user should know about the data, in sentences.
        fingerprint: SHA-256 (hex) of the data; neither the seed nor the held-out fraction
            changes it. From the pixels of `digits`; from names, sizes and modification times of
            a folder's files; from names, sizes and checksums of an archive's.
    """

    spec: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split | None
    notes: tuple[str, ...]
    fingerprint: str


class ArraySplit:
    """Pictures in memory.

    Args:
        where: What messages call the split.
        images: uint8 [N, H, W, 3].
        labels: int32 [N].
        names: A name for every picture.
    """

    def __init__(
        self, where: str, images: np.ndarray, labels: np.ndarray, names: Sequence[str]
    ) -> None:
        self._where = where
        self._images = images
        self._labels = labels
        self._names = tuple(names)

    @property
    def labels(self) -> np.ndarray:
        """The class index of every picture, int32 [N]."""
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        """A name for every picture."""
        return self._names

    def __len__(self) -> int:
        return len(self._images)

    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) of the array."""
        return self._images.shape[1], self._images.shape[2]

    def check(self) -> list[str]:
        """Always empty: there is nothing to decode."""
        return []

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """Copy or resize pictures. See `Split.read`."""
        if transform is None:
            return self._images[np.asarray(indices, dtype=np.int64)]

        def load_one(index: int) -> np.ndarray:
            try:
                return transform(Image.fromarray(self._images[index]))
            except BadImage as error:
                raise BadImage(f"{self._names[index]}: {error}") from error

        size = transform.size
        return read_batch(load_one, indices, names=self._names, size=size, where=self._where)

    def subset(self, indices: np.ndarray) -> ArraySplit:
        """The split that has only these pictures, in this order."""
        names = [self._names[index] for index in indices]
        return ArraySplit(self._where, self._images[indices], self._labels[indices], names)


_Stored = TypeVar("_Stored", FileSplit, ArraySplit)


def load(spec: str, *, seed: int = 0, val_fraction: float = 0.2) -> Dataset:
    """Open a data set. No picture of a folder is decoded yet.

    Without a validation split, a part of train becomes it: the same share of every class,
    chosen by the seed. Test pictures are never used for that.

    Args:
        spec: "digits", or "folder:PATH" with the path of a folder or a zip archive of class
            folders (see `jtl.data.folder.read_class_folders`).
        seed: Chooses the pictures to hold out, not negative.
        val_fraction: The share of train to hold out, between 0 and 1.

    Raises:
        UserError: If the source is unknown or not usable, with the reason.
    """
    if not 0 < val_fraction < 1:
        raise UserError(
            f"val_fraction {val_fraction} is not possible: give a share between 0 and 1."
        )
    if seed < 0:
        raise UserError(f"Seed {seed} is not possible: give 0 or a positive integer.")
    scheme, colon, path = spec.partition(":")
    if spec == "digits":
        images = _load_digits()
        class_names = tuple(str(digit) for digit in range(10))
        train, val, note = _hold_out(images, seed, val_fraction)
        notes = [note, *_missing_classes(class_names, val=val)]
        return Dataset(spec, class_names, train, val, None, tuple(notes), _array_hash(images))
    if scheme == "folder" and colon:
        return _load_folder(spec, path, seed, val_fraction)
    raise _unknown_source(spec)


def verify_images(split: Split) -> list[str]:
    """Check every picture's header, in threads, before a training relies on them.

    Finds empty files, other files named like pictures, damaged headers and pictures too large
    to decode. Damage further inside a file shows only when `Split.read` decodes it.

    Args:
        split: What to check.

    Returns:
        A line "name: reason" for each picture that cannot be read; empty if all are fine.
    """
    return split.check()


def _load_folder(spec: str, path: str, seed: int, val_fraction: float) -> Dataset:
    if not path:
        raise UserError(f"'{spec}' lacks a path. Write {_SOURCES['folder']}.")
    found = read_class_folders(Path(os.path.expanduser(path)))
    notes = list(found.notes)
    train, val, test = (found.splits.get(split) for split in ("train", "val", "test"))
    assert train is not None  # read_class_folders refuses data without it
    if val is None:
        train, val, note = _hold_out(train, seed, val_fraction)
        notes.append(note)
    notes += _missing_classes(found.class_names, val=val, test=test)
    return Dataset(spec, found.class_names, train, val, test, tuple(notes), found.fingerprint)


def _load_digits() -> ArraySplit:
    """The UCI handwritten digits' test part (8 x 8 pixels of 0..16), as scikit-learn ships it."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "The data set 'digits' comes with scikit-learn, which is not installed. "
            "Install it: pip install 'jtl[demo]'"
        ) from error
    digits: Any = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    names = [str(index) for index in range(len(images))]
    return ArraySplit("digits", images, digits.target.astype(np.int32), names)


def _array_hash(split: ArraySplit) -> str:
    images = split.read(np.arange(len(split)), None)
    digest = hashlib.sha256(repr((images.shape, images.dtype.str)).encode())
    digest.update(images.tobytes())
    digest.update(split.labels.astype("<i4").tobytes())
    return digest.hexdigest()


def _hold_out(split: _Stored, seed: int, fraction: float) -> tuple[_Stored, _Stored, str]:
    """Train and validation parts of a split, and the sentence that says so."""
    random = np.random.default_rng(seed)
    held_out = np.zeros(len(split), dtype=bool)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        # Both parts get a picture of every class that has two; train comes first.
        count = min(max(math.floor(len(members) * fraction + 0.5), 1), len(members) - 1)
        held_out[random.permutation(members)[:count]] = True
    count = int(held_out.sum())
    if count == 0:
        raise UserError(
            "There is no validation split, and none can be held out of train: every class has "
            "a single picture. Add pictures, or a val/ folder."
        )
    note = (
        f"No validation split found: held out {count} of {len(split)} train pictures "
        f"({fraction * 100:g} %, stratified, seed {seed})."
    )
    train, val = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    return split.subset(train), split.subset(val), note


def _missing_classes(class_names: Sequence[str], **splits: Split | None) -> list[str]:
    notes = []
    for name, split in splits.items():
        if split is not None:
            present = set(split.labels.tolist())
            missing = [word for label, word in enumerate(class_names) if label not in present]
            if missing:
                notes.append(
                    f"{len(missing)} of {len(class_names)} classes have no {name} pictures: "
                    f"{', '.join(missing[:10])}{' ...' if len(missing) > 10 else ''}."
                )
    return notes


def _unknown_source(spec: str) -> UserError:
    allowed = f"Available: {' and '.join(_SOURCES.values())}."
    if spec and os.path.exists(os.path.expanduser(spec)):
        return UserError(f"'{spec}' is a path: write it as 'folder:{spec}'. {allowed}")
    word = spec.partition(":")[0]
    return UserError(f"Unknown data source '{spec}'.{suggest(word, _SOURCES)} {allowed}")
