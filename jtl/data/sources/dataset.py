"""What a training works with: the splits of one data set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from jtl.data.description import Description, describe
from jtl.data.multilabel import is_multilabel
from jtl.data.splits import UNLABELLED, LeftOut, Split, UnreadableImage


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The splits of one data set.

    Attributes:
        spec: What it was loaded by.
        class_names: The name of every label.
        train: Images to learn from.
        val: Images to choose epochs and settings by.
        test: Images kept for the end, or None.
        notes: What a user should know about the data, in sentences.
        fingerprint: SHA-256 (hex) of the data; neither the seed nor the held-out fraction
            changes it. From the pixels of `digits`; from names, sizes and checksums of what is
            in a zip or an npz; from names, sizes and modification times of other files.
        labels_from: What the labels come from, in words.
        left_out: What the source holds and is not used.
        held_out: Whether val is a part of train.
        bit_depth: How many of the 16 bits of images are used; None where there are none.
        splits_from: The lists that divide the images, in words; empty where there are none.
        parts: What train is made of, one after the other, where it is all folds but val.
        groups: The group of every image by the image's name, where images belong together.
        unreadable: Images that were left out.
        titles: What classes are called that have numbers for names, by class.
    """

    spec: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split | None
    notes: tuple[str, ...]
    fingerprint: str
    labels_from: str = ""
    left_out: tuple[LeftOut, ...] = ()
    held_out: bool = False
    bit_depth: int | None = None
    splits_from: str = ""
    parts: tuple[Split, ...] = ()
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unreadable: tuple[UnreadableImage, ...] = ()
    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def multilabel(self) -> bool:
        """Whether images may have several labels."""
        return is_multilabel(self.train.labels)

    @property
    def whole(self) -> bool:
        """Whether train and val are the same images, all there are."""
        return self.train is self.val

    @property
    def unlabelled_folder(self) -> str | None:
        """The folder whose images have no labels, such as `test`; None unless there is one."""
        names = [name for left in self.left_out if left.what == UNLABELLED for name in left.names]
        kind, _, root = self.spec.partition(":")
        if kind != "folder" or not names:
            return None
        inner = os.path.commonpath([os.path.dirname(name) for name in names])
        folder = os.path.join(os.path.expanduser(root), inner)
        return folder if inner and os.path.isdir(folder) else None

    def describe(self) -> Description:
        """What was understood of the source."""
        splits: dict[str, Split | None] = {"train": self.train, "val": self.val, "test": self.test}
        if self.whole:
            splits = {"": self.train}
        return describe(
            self.class_names,
            splits,
            self.labels_from,
            self.left_out,
            held_out=self.held_out,
            splits_from=self.splits_from,
            titles=self.titles,
        )
