"""Features of images with their names and labels, and what is similar among them."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import counted
from jtl.data.multilabel import class_text, classes_of
from jtl.embed import probes, writing
from jtl.embed.backbone import Backbone
from jtl.predict.inputs import Images, items
from jtl.predict.predictions import Unreadable, unreadable_lines


class Neighbour(NamedTuple):
    """An image that is similar to another.

    Attributes:
        name: Its name.
        label: Its class, or classes with `|` between them; None without labels.
        split: Its split.
        similarity: The cosine of the angle between both images' features, of which the mean of
            all images is subtracted first: 1 for the same, about 0 for unrelated ones.
    """

    name: str
    label: str | None
    split: str
    similarity: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Embeddings:
    """Images as features: what the network's head gets.

    Attributes:
        model: The run or the model whose backbone made them.
        source: Where the images are from.
        names: Of every image.
        splits: "train", "val" or "test" of every image, as a training divides them.
        labels: int32 [N], or uint8 [N, K] of images with several classes; None without labels.
        class_names: Of the labels.
        features: float32 [N, C].
        backbone: What made them, for further images.
        unreadable: Images that are not among them, and why.
    """

    model: str
    source: str
    names: tuple[str, ...]
    splits: tuple[str, ...]
    labels: np.ndarray | None
    class_names: tuple[str, ...]
    features: np.ndarray
    backbone: Backbone = dataclasses.field(compare=False)
    unreadable: tuple[Unreadable, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        count, (_, width) = counted(len(self), "image"), self.features.shape
        return f"jtl embeddings of {self.source} by {self.model}: {count}, {width} features each"

    def label(self, row: int) -> str | None:
        """The classes of an image for people; None without labels."""
        if self.labels is None:
            return None
        return class_text(classes_of(self.labels, row), self.class_names)

    @functools.cached_property
    def _mean(self) -> np.ndarray:
        return self.features.mean(0, keepdims=True)

    @functools.cached_property
    def _units(self) -> np.ndarray:
        return self._directions(self.features)

    def _directions(self, features: np.ndarray) -> np.ndarray:
        """Features without the mean of all images, of length 1: float32 [N, C]."""
        centred = features - self._mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    @functools.cached_property
    def probes(self) -> dict[str, Any] | None:
        """The accuracy of a k-nearest-neighbour and of a linear probe on these features.

        See `jtl.embed.probes.accuracies`; None where there is none.
        """
        if self.labels is None:
            return None
        given = (self._units, self.features, self.labels)
        return probes.accuracies(*given, self.splits, len(self.class_names))

    def nearest(self, images: Images, count: int = 10) -> list[list[Neighbour]]:
        """The training images most similar to each image; without labels, of all images.

        Args:
            images: As for `Classifier.predict`.
            count: How many of them.

        Raises:
            UserError: An image cannot be read.
        """
        return [near for _, near in self.named_nearest(images, count)]

    def named_nearest(self, images: Images, count: int = 10) -> list[tuple[str, list[Neighbour]]]:
        """As `nearest`, with the name of each image."""
        given = items(images)
        found = self.backbone.features(given)
        bad = [one for one in found if isinstance(one, Unreadable)]
        if bad:
            raise UserError(unreadable_lines(bad, len(found)))
        known = np.array([split == "train" for split in self.splits])
        rows = np.flatnonzero(known) if known.any() else np.arange(len(self))
        features = np.stack([one for one in found if not isinstance(one, Unreadable)])
        cosines = self._directions(features) @ self._units[rows].T
        best = probes.top(cosines, count)
        return [
            (item.name, [self._neighbour(int(rows[at]), float(values[at])) for at in order])
            for item, values, order in zip(given, cosines, best, strict=True)
        ]

    def _neighbour(self, row: int, cosine: float) -> Neighbour:
        return Neighbour(self.names[row], self.label(row), self.splits[row], min(cosine, 1.0))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes them to a file, whose ending selects the format: .npz or .parquet.

        Raises:
            UserError: The ending is another, a library is missing, or it cannot be written.
        """
        return writing.save(self, Path(path))


def as_rows(found: list[np.ndarray | Unreadable], keep: Callable[[int], Any]) -> np.ndarray:
    """The features of the images that could be read, float32 [N, C].

    Args:
        found: Of every image.
        keep: Told of each that is among them.

    Raises:
        UserError: None could be read.
    """
    rows = []
    for index, one in enumerate(found):
        if not isinstance(one, Unreadable):
            keep(index)
            rows.append(one)
    if not rows:
        bad = [one for one in found if isinstance(one, Unreadable)]
        raise UserError(unreadable_lines(bad, len(found)))
    return np.stack(rows)
