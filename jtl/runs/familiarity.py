"""How unlike its training images an image is, by the network's own features.

A classifier chooses among its classes whatever it is shown, often with confidence. How far the
features of an image are from those of the training images says more: the distance to the fifth
nearest one, by directions alone (Sun et al. 2022, "Out-of-distribution detection with deep nearest
neighbors", arXiv 2204.06507). `docs/trust.md` has what was measured.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jtl.common.files import replace_bytes
from jtl.common.principal_axes import principal_axes

FILE = "training-features.npz"
NEAREST = 5
"""Which of the nearest training images the distance is to."""
DIMENSIONS = 64
"""Of the features that are stored; what lies outside these is counted as a length."""
MOST = 2000
"""Training images that are stored, as many of each class as there are."""
USUAL = 0.95
"""The share of the validation images that count as familiar."""
_BLOCK = 1024
"""Images whose distances are computed at once."""


@dataclasses.dataclass(frozen=True, eq=False)
class Familiarity:
    """The training images' features, in which new ones look for their nearest.

    Attributes:
        mean: Of the normalized features, float32 [D].
        axes: Their principal axes, float32 [D, d].
        rows: Each training image: its place along these, float32 [N, d].
        rest: Its distance from their space, float32 [N].
        limit: The score that 95 % of the validation images stay below.
        epoch: Of the network that gave the features.
    """

    mean: np.ndarray
    axes: np.ndarray
    rows: np.ndarray
    rest: np.ndarray
    limit: float
    epoch: int

    def scores(self, features: np.ndarray) -> np.ndarray:
        """The distance of images to their fifth nearest training image, float32 [N].

        Args:
            features: float [N, D], as the network pools them.

        Returns:
            From 0 to 2: distances between features of length 1.
        """
        rows, rest = _placed(features, self.mean, self.axes)
        nearest = min(NEAREST, len(self.rows)) - 1
        found = [
            np.partition(_squares(rows[i : i + _BLOCK], rest[i : i + _BLOCK], self), nearest, 1)
            for i in range(0, len(rows), _BLOCK)
        ]
        squares = np.concatenate([each[:, nearest] for each in found]) if found else np.zeros(0)
        return np.sqrt(np.maximum(squares, 0)).astype(np.float32)

    def save(self, folder: Path) -> None:
        """Writes it into the folder of its run."""
        content = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ("mean", "axes", "rows", "rest")}
        halves = {name: array.astype(np.float16) for name, array in arrays.items()}
        np.savez_compressed(
            content, **halves, limit=np.float64(self.limit), epoch=np.int64(self.epoch)
        )
        replace_bytes(folder / FILE, content.getvalue())


def load(folder: Path, epoch: int) -> Familiarity | None:
    """Reads that of a run; None where there is none, or of another epoch, or a damaged one."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as stored:
            if int(stored["epoch"]) != epoch:
                return None
            names = ("mean", "axes", "rows", "rest")
            arrays = {name: stored[name].astype(np.float32) for name in names}
            return Familiarity(**arrays, limit=float(stored["limit"]), epoch=epoch)
    except Exception:  # Of a damaged file, zipfile and NumPy raise many kinds.
        return None


def fitted(train: np.ndarray, validation: np.ndarray, epoch: int) -> Familiarity | None:
    """What is stored of a run.

    Args:
        train: Features of training images, float [N, D]; see `chosen`.
        validation: Of validation images, [M, D].
        epoch: Of the network.

    Returns:
        None of fewer training images than `NEAREST`, or without validation images.
    """
    if len(train) < NEAREST or not len(validation):
        return None
    unit = _normalized(train)
    mean = unit.mean(0)
    axes = principal_axes(unit - mean, DIMENSIONS)
    # As they will be read back.
    mean, axes = (each.astype(np.float16).astype(np.float32) for each in (mean, axes))
    rows, rest = _placed(train, mean, axes)
    rows, rest = (each.astype(np.float16).astype(np.float32) for each in (rows, rest))
    found = Familiarity(mean, axes, rows, rest, 0.0, epoch)
    limit = float(np.quantile(found.scores(validation), USUAL, method="higher"))
    return dataclasses.replace(found, limit=limit)


def chosen(members: Callable[[int], np.ndarray], classes: int, most: int = MOST) -> np.ndarray:
    """Which images stand for all: up to `most`, as many of each class as it has; integers.

    Args:
        members: The images of each class.
        classes: How many.
        most: In all.
    """
    each = [np.random.default_rng(0).permutation(members(label)) for label in range(classes)]
    turns = [rows[turn] for turn in range(most) for rows in each if turn < len(rows)][:most]
    return np.unique(np.asarray(turns, int))


def _normalized(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, np.float32)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)


def _placed(
    features: np.ndarray, mean: np.ndarray, axes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places along the axes, and distances from their space."""
    away = _normalized(features) - mean[None]
    rows = away @ axes
    return rows, np.sqrt(np.maximum((away**2).sum(1) - (rows**2).sum(1), 0))


def _squares(rows: np.ndarray, rest: np.ndarray, of: Familiarity) -> np.ndarray:
    """Squared distances to all training images; outside the axes' space at right angles."""
    both = (rows**2).sum(1)[:, None] + (of.rows**2).sum(1)[None] - 2 * rows @ of.rows.T
    return both + rest[:, None] ** 2 + of.rest[None] ** 2
