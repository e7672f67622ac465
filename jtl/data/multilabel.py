"""Labels as arrays, be they one class for each image or several.

One class for each image: int32 [N]. Several: uint8 [N, K], 1 where an image is of a class; a row of
zeros is an image of none of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import numpy as np

DIVIDER = "|"
"""Between the classes of an image, in tables and messages."""


def joined(class_names: Sequence[str]) -> str:
    """The classes of an image in one cell of a table, as `csv:` reads it.

    A list as JSON writes it where a name has the divider, or looks like such a list.
    """
    if any(DIVIDER in name or name[:1] == "[" for name in class_names):
        return json.dumps(list(class_names), ensure_ascii=False)
    return DIVIDER.join(class_names)


def is_multilabel(labels: np.ndarray) -> bool:
    """Whether images may have several classes."""
    return labels.ndim == 2


def label_matrix(rows: Sequence[Collection[str]], class_names: Sequence[str]) -> np.ndarray:
    """The classes of every image as a matrix, uint8 [N, K].

    Args:
        rows: The names of each image's classes.
        class_names: Of the columns.
    """
    place = {name: column for column, name in enumerate(class_names)}
    labels = np.zeros((len(rows), len(class_names)), np.uint8)
    for row, names in enumerate(rows):
        labels[row, [place[name] for name in names]] = 1
    return labels


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The images of every class, int64 [num_classes]; an image of several counts in each."""
    if is_multilabel(labels):
        return labels.sum(0, dtype=np.int64)
    return np.bincount(labels, minlength=num_classes)


def members(labels: np.ndarray, label: int) -> np.ndarray:
    """The images of a class, in their order: integers [M]."""
    return np.flatnonzero(labels[:, label] if is_multilabel(labels) else labels == label)


def rows_by_class(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Every class that there is, and its images in their order; in one pass for all classes.

    Args:
        labels: One class for each image, int [N].
    """
    order = np.argsort(labels, kind="stable")
    classes, starts = np.unique(labels[order], return_index=True)
    return list(zip(classes.tolist(), np.split(order, starts)[1:], strict=True))


def pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every image with each of its classes: two arrays of integers.

    Images of none of K classes are of a class K of their own, so that they count, too.
    """
    if not is_multilabel(labels):
        return np.arange(len(labels)), labels
    none = (labels.sum(1) == 0)[:, None]
    images, classes = np.nonzero(np.concatenate([labels, none], 1))
    return images, classes


def classes_of(labels: np.ndarray, row: int) -> tuple[int, ...]:
    """The classes of an image."""
    if is_multilabel(labels):
        return tuple(np.flatnonzero(labels[row]).tolist())
    return (int(labels[row]),)


def class_text(classes: Collection[int], class_names: Sequence[str]) -> str:
    """The classes of an image for people."""
    return DIVIDER.join(class_names[label] for label in classes) or "none"
