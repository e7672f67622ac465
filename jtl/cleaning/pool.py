"""All images of a data set, whatever their split, with their features."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.data.decoding import HostTransform
from jtl.data.loader import Features, Joined
from jtl.data.multilabel import class_text, classes_of, is_multilabel
from jtl.train.setup import Setup, feature_cache


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """Images of all splits.

    Attributes:
        class_names: The name of every label.
        names: Of every image.
        splits: The split of every image, as the source says it: "train", "val" or "test".
        labels: See `jtl.data.multilabel`.
        features: float32 [N, C].
        groups: The group of every image, from 0 on; None where each is one by itself.
        parts: What reads the images, one after the other.
    """

    class_names: tuple[str, ...]
    names: list[str]
    splits: list[str]
    labels: np.ndarray
    features: np.ndarray
    groups: np.ndarray | None
    parts: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def multilabel(self) -> bool:
        """Whether images may have several labels."""
        return is_multilabel(self.labels)

    def label(self, row: int) -> str:
        """The classes of an image for people."""
        return class_text(classes_of(self.labels, row), self.class_names)

    def read(self, row: int, transform: HostTransform) -> np.ndarray:
        """An image, uint8 [H, W, 3]."""
        for part in self.parts:
            if row < len(part):
                return part.read(np.array([row]), transform)[0]
            row -= len(part)
        raise IndexError(row)


def pool_of(setup: Setup, display: Display) -> Pool:
    """The images of a training, with what its head would get of them.

    Features that the training has in the cache are taken from there, and those that are computed
    here are kept for it.

    Args:
        setup: A linear probe.
        display: Where progress goes.

    Raises:
        UserError: The features have no room.
    """
    dataset = setup.dataset
    found = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    splits = {name: split for name, split in found.items() if split is not None}
    inputs = feature_cache(setup, display).read("head", setup.variables, splits)
    features = []
    for name, split in splits.items():
        examples = inputs.examples[name]
        if not isinstance(examples, Features):
            raise UserError(
                "there is no room for the features of all images. Free memory, or use a smaller "
                "--image-size or fewer images."
            )
        values, count = examples.values, len(split)
        # Of several devices, rows are filled up.
        rows = values[np.arange(count)] if isinstance(values, Joined) else np.asarray(values)
        rows = np.asarray(rows[:count], np.float32)
        features.append(rows if rows.ndim == 2 else rows.mean((1, 2)))
    names = [name for split in splits.values() for name in split.names]
    groups = None
    if dataset.groups:
        _, groups = np.unique([dataset.groups[name] for name in names], return_inverse=True)
    own = {  # What was held out is called as before.
        "train": "train",
        "val": "train" if dataset.held_out else "val",
        "test": "train" if setup.config.data.test_split is not None else "test",
    }
    return Pool(
        dataset.class_names,
        names,
        [own[name] for name, split in splits.items() for _ in range(len(split))],
        np.concatenate([split.labels for split in splits.values()]),
        np.concatenate(features),
        groups,
        tuple(splits.values()),
    )
