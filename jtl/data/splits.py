"""What every data source gives: labelled splits, and what is to be said about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from jtl.common.text import listed
from jtl.data.class_names import alike_classes
from jtl.data.decoding import HostTransform
from jtl.data.multilabel import class_counts, is_multilabel

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "dev"),
    "test": ("test", "testing"),
}
"""What splits are called, in lower case; folders, files and arrays are recognized by it."""

Advance = Callable[[int], Any]
"""Told how many more images are done."""


class Split(Protocol):
    """Labelled images that are decoded on demand."""

    @property
    def labels(self) -> np.ndarray:
        """The class index of every image, int32 [N]; see `jtl.data.multilabel` for several."""
        ...

    @property
    def names(self) -> Sequence[str]:
        """A name for every image: its path below the data folder, or its place in a file."""
        ...

    def __len__(self) -> int: ...

    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) in pixels that all images share, or None.

        Raises:
            UserError: If images cannot be read, so that it is not known.
        """
        ...

    def check(self) -> list[str]:
        """A line for each image whose header cannot be read."""
        ...

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """Decode some images, in a thread pool.

        Args:
            indices: Integers [n] into the split, in any order, repeated or not.
            transform: How to resize; None keeps the images' size, which must be the same.

        Returns:
            uint8 [n, H, W, 3], RGB, in the order of `indices`.

        Raises:
            UserError: Naming the unreadable images among these (the first 20 of them), or two
                of different size when there is no transform.
        """
        ...


class SplitSlice:
    """Some of a split's images, to be treated as they are among the others.

    Attributes:
        rows: Which.
    """

    def __init__(self, split: Split, rows: range):
        self.rows = rows
        self._split = split
        self._slice = slice(rows.start, rows.stop)

    @property
    def labels(self) -> np.ndarray:
        return self._split.labels[self._slice]

    @property
    def names(self) -> Sequence[str]:
        return self._split.names[self._slice]

    def __len__(self) -> int:
        return len(self.rows)

    def native_size(self) -> tuple[int, int] | None:
        """The size that all images of the whole split share, or None."""
        return self._split.native_size()

    def check(self) -> list[str]:
        """As in `Split`, for the whole split."""
        return self._split.check()

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """As in `Split`, by indices into this portion."""
        return self._split.read(np.asarray(indices) + self.rows.start, transform)


class StoredSplit(Split, Protocol):
    """A split as its source gives it, before anything is left out or held out."""

    @property
    def where(self) -> str:
        """What messages call it, such as "flowers.zip (train)"."""
        ...

    @property
    def stored_bytes(self) -> int:
        """The size of all encoded images; 0 where there is nothing to decode."""
        ...

    @property
    def deepest(self) -> int:
        """The largest value of the 16-bit grey images looked at; 0 where there are none."""
        ...

    def faults(
        self, *, decode: bool, rows: Sequence[int] | None = None, advance: Advance | None = None
    ) -> dict[int, str]:
        """Find the images that cannot be read, in a thread pool.

        Args:
            decode: Decode every image as a whole; else look at the headers alone.
            rows: Which images; default all.
            advance: Told of every few images that are done.

        Returns:
            {index: "name: reason"}.
        """
        ...

    def subset(self, indices: np.ndarray) -> Self:
        """The split that has only these images, in this order."""
        ...

    def relabelled(self, labels: np.ndarray) -> Self:
        """The same images with other labels, int32 [N]."""
        ...


class Labelled:
    """What all splits have in common: labels, names, and which of the stored images they are.

    Args:
        where: What messages call the split, such as "flowers.zip (train)".
        labels: int32 [N], the class of every image.
        names: A name for every image.
        rows: int64 [N], where each image is in what is stored; default 0 to N - 1.
    """

    def __init__(
        self, where: str, labels: np.ndarray, names: Sequence[str], rows: np.ndarray | None
    ) -> None:
        self.where = where
        self._labels = labels
        self._names = tuple(names)
        self._rows = np.arange(len(self._names)) if rows is None else rows

    @property
    def labels(self) -> np.ndarray:
        """The class index of every image, int32 [N]."""
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        """A name for every image."""
        return self._names

    def __len__(self) -> int:
        return len(self._names)


class UnreadableImage(NamedTuple):
    """An image that cannot be read.

    Attributes:
        split: "train", "val" or "test".
        name: Its name.
        classes: Its class index; of images with several classes, all of them.
        reason: "name: reason".
    """

    split: str
    name: str
    classes: tuple[int, ...]
    reason: str


UNLABELLED = "images without labels"


class LeftOut(NamedTuple):
    """What a source holds and does not give.

    Attributes:
        what: What it is, in the plural, such as "hidden and system files".
        names: Of all of it.
    """

    what: str
    names: tuple[str, ...]


class TrainingProblem(str):
    """Why nothing can be trained on data whose images can be evaluated all the same."""

    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class OpenedSource:
    """What a source holds.

    Attributes:
        class_names: The name of every label.
        splits: Those of "train", "val" and "test" that there are; "train" always is.
        notes: What a user should know, in sentences.
        problems: Why it cannot be trained on, in sentences; empty if it can.
        fingerprint: SHA-256 (hex) of the data; see `jtl.data.sources.dataset.Dataset`.
        labels_from: What the labels come from, in words.
        left_out: What is not used.
        splits_from: The lists that divide the images, in words; empty where there are none.
        groups: The group of every image by the image's name, where images belong together.
        unreadable: Images that were left out.
        titles: What classes are called that have numbers for names, by class.
    """

    class_names: tuple[str, ...]
    splits: Mapping[str, Any]  # of StoredSplit; Any, as their types of `subset` differ
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    fingerprint: str
    labels_from: str = ""
    left_out: tuple[LeftOut, ...] = ()
    splits_from: str = ""
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unreadable: tuple[UnreadableImage, ...] = ()
    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def has_files(self) -> bool:
        """Whether there is anything to decode, that might be damaged."""
        return any(split.stored_bytes for split in self.splits.values())


def split_of(name: str) -> str | None:
    """The split that a name such as "Validation" stands for: "train", "val", "test" or None."""
    return next((split for split, words in SPLIT_NAMES.items() if name.lower() in words), None)


LONG_NAMES = {"train": "training", "val": "validation"}
"""Splits as people call them; others by their names."""


def image_name(name: str) -> str:
    """An image's name for people: what is a number in an array says what it counts."""
    return f"image {name}" if name.isdecimal() else name


def missing_classes(class_names: Sequence[str], **splits: Split | None) -> list[str]:
    """A sentence for every split that lacks images of some class."""
    notes = []
    for name, split in splits.items():
        if split is not None:
            missing = absent(class_names, split.labels)
            if missing:
                have = "has" if len(missing) == 1 else "have"
                notes.append(
                    f"{len(missing)} of {len(class_names)} classes {have} no "
                    f"{LONG_NAMES.get(name, name)} images: {listed(missing)}."
                )
    return notes


def absent(class_names: Sequence[str], labels: np.ndarray) -> list[str]:
    """The classes that no label names."""
    counts = class_counts(labels, len(class_names))
    return [name for name, count in zip(class_names, counts, strict=True) if not count]


def reordered(found: OpenedSource, class_names: Sequence[str]) -> OpenedSource:
    """The same data with its classes in another order."""
    if tuple(class_names) == found.class_names:
        return found
    place = {name: label for label, name in enumerate(class_names)}
    new = np.array([place[name] for name in found.class_names], np.int32)

    def moved(labels: np.ndarray) -> np.ndarray:
        if not is_multilabel(labels):
            return new[labels]
        wider = np.zeros((len(labels), len(class_names)), labels.dtype)
        wider[:, new] = labels
        return wider

    splits = {name: split.relabelled(moved(split.labels)) for name, split in found.splits.items()}
    return dataclasses.replace(found, class_names=tuple(class_names), splits=splits)


def class_problems(where: str, class_names: Sequence[str], splits: Mapping[str, Any]) -> list[str]:
    """What is wrong with the classes of labelled splits.

    Args:
        where: What the source is called.
        class_names: The name of every label.
        splits: By name; their labels index `class_names`.

    Returns:
        Sentences: too few classes, or classes of val and test that train does not have.
    """
    counts = class_counts(splits["train"].labels, len(class_names))
    known = [name for name, count in zip(class_names, counts, strict=True) if count]
    problems = alike_classes(where, known)
    if len(known) < 2:
        problems.append(
            TrainingProblem(
                f"{where} has training images of only {len(known)} class"
                f"{f', {known[0]!r}' if known else 'es'}; a classifier needs at least two."
            )
        )
    for name, split in splits.items():
        there = class_counts(split.labels, len(class_names))
        strange = [class_names[int(i)] for i in np.flatnonzero((there > 0) & (counts == 0))]
        if strange:
            problems.append(
                f"The {name} split of {where} has classes that train does not have: "
                f"{listed(strange)}. The classes of train are {listed(known)}. Add training images "
                "of them, or leave them out."
            )
    return problems
