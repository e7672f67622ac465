"""Classes of very different sizes: weights that make them count the same, and others."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common.errors import UserError, suggest
from jtl.common.quantities import number
from jtl.common.text import listed
from jtl.config.training import balance_of
from jtl.data.multilabel import is_multilabel

_LEAST, _MOST = 1e-6, 1e6
"""Of a weight that is given: others would be 0 or infinite in float32, or drown all else."""


def class_weights(text: str, labels: np.ndarray, class_names: Sequence[str]) -> np.ndarray | None:
    """How much each class counts in the loss.

    Args:
        text: As of `--class-weights`: none, balanced, balanced:STRENGTH, NAME=WEIGHT,... or a file.
        labels: Of the training images; see `jtl.data.multilabel`.
        class_names: The name of every class.

    Returns:
        float32 [K]; None for the same. Of one class for each image, the weights average 1 over the
        images, so that learning rates and penalties keep their meaning. Of several, they are the
        weights of having each class, as those of not having it are 1.

    Raises:
        UserError: A file cannot be read, or a name or weight in it is none.
    """
    if text == "none":
        return None
    several, strength = is_multilabel(labels), balance_of(text)
    if strength is not None:
        equal = positive_weights(labels) if several else balanced_weights(labels, len(class_names))
        # Classes without images stay at 0, which every power keeps.
        weights = equal if strength == 1 else equal ** np.float32(strength)
    else:
        stated = _stated(text, class_names)
        weights = np.array([stated.get(name, 1.0) for name in class_names], np.float32)
    if several or strength == 1:
        return weights
    return (weights / weights[labels].mean(dtype=np.float64)).astype(np.float32)


def _stated(text: str, class_names: Sequence[str]) -> dict[str, float]:
    """The weights of some classes, from `NAME=WEIGHT,...` or a file."""
    where = f"--class-weights {text}"
    place = Path(os.path.expanduser(text))
    if os.path.isfile(place) or "=" not in text:  # `Path.is_file` raises where text is long.
        given = _of_file(place, where)
    else:
        given = _of_text(text, where)
    unknown = [name for name in given if name not in class_names]
    if unknown:
        raise UserError(
            f"{where}: there is no class '{unknown[0]}'.{suggest(unknown[0], class_names)} The "
            f"classes are {listed(class_names, 10)}."
        )
    found: dict[str, float] = {}
    for name, weight in given.items():
        read = weight if isinstance(weight, (int, float)) else number(str(weight))
        if read is None or isinstance(weight, bool) or not _LEAST <= read <= _MOST:
            raise UserError(
                f"{where}: the weight of '{name}' must be a number from {_LEAST:g} to {_MOST:g}, "
                f"not {weight!r}."
            )
        found[name] = float(read)
    if not found:
        raise UserError(f"{where}: there are no weights in it.")
    return found


def _of_text(text: str, where: str) -> Mapping[str, Any]:
    found: dict[str, str] = {}
    for part in text.split(","):
        name, equals, weight = part.rpartition("=")
        if not equals or not name.strip():
            raise UserError(
                f"{where}: '{part}' is no NAME=WEIGHT. Write name=2,other=0.5; for names with "
                "commas use a file."
            )
        if name.strip() in found:
            raise UserError(f"{where}: '{name.strip()}' has two weights.")
        found[name.strip()] = weight.strip()
    return found


def _of_file(place: Path, where: str) -> Mapping[str, Any]:
    """A `.json` object, or a table of names and weights."""
    try:
        text = place.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"{where}: there is no such file. Give none, balanced, balanced:0.5, name=2,... or a "
            "file of names and weights."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: it cannot be read: {error}.") from error
    if place.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except ValueError as error:
            raise UserError(f"{where}: it is no JSON: {error}.") from error
        if not isinstance(content, dict):
            raise UserError(f'{where}: it must contain an object such as {{"ant": 2}}.')
        return content
    rows = [row for row in csv.reader(text.splitlines()) if any(cell.strip() for cell in row)]
    if rows and len(rows[0]) == 2 and number(rows[0][1].strip()) is None:
        rows = rows[1:]  # The names of the columns.
    wrong = next((row for row in rows if len(row) != 2), None)
    if wrong is not None:
        raise UserError(
            f"{where}: each row must be a class and its weight, such as 'ant,2', not "
            f"{','.join(wrong)!r}."
        )
    if len({name.strip() for name, _ in rows}) < len(rows):
        raise UserError(f"{where}: a class stands in several rows.")
    return {name.strip(): weight.strip() for name, weight in rows}


def positive_weights(labels: np.ndarray) -> np.ndarray:
    """The weight of having each class in the loss that makes it count as much as not having it.

    (N - n) / n for a class that n of the N images have, as for PyTorch's `pos_weight`; 1 for one
    that none has, or all.

    Args:
        labels: Of the training images, uint8 [N, K].

    Returns:
        float32 [K].
    """
    counts = labels.sum(0, dtype=np.int64)
    weights = (len(labels) - counts) / np.maximum(counts, 1)
    return np.where((counts > 0) & (counts < len(labels)), weights, 1).astype(np.float32)


def balanced_weights(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The weight of every class in the loss that makes all classes count the same.

    N / (K * n) for a class with n of the N images, as in scikit-learn; K counts the classes that
    have any, and the others weigh 0. Over all images the weights average 1, so that learning
    rates and penalties keep their meaning.

    Args:
        labels: Of the training images, integers [N].
        num_classes: Length of the result.

    Returns:
        float32 [num_classes].
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes, np.float32)
    weights[present] = len(labels) / (present.sum() * counts[present])
    return weights
