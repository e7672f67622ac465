"""Images of a run by which a network is quantized, and its accuracy before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from jtl.common.errors import UserError
from jtl.common.progress import Display, PlainConsole
from jtl.data.multilabel import is_multilabel
from jtl.evaluate.images import opened_for
from jtl.export.how import How
from jtl.export.pixels import inputs

if TYPE_CHECKING:
    from jtl.data.splits import Split
    from jtl.predict.classifier import Classifier

CALIBRATION = 128
"""Training images by which the ranges of activations are measured."""
MOST_SCORED = 1000
"""Validation images on which accuracies are compared."""
_BATCH = 16


@dataclasses.dataclass(frozen=True)
class Images:
    """What activations are measured on, and what accuracies.

    Attributes:
        train: Training images as the graph takes them, [N, size, size, 3].
        val: Batches of validation images and their labels, the same way; read when asked for.
    """

    train: np.ndarray
    val: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


def images_of(classifier: Classifier, how: How) -> Images:
    """Images of a run, spread evenly over its training and its validation split.

    Args:
        classifier: A run's.
        how: What the graph takes.

    Raises:
        UserError: They are not there any more, or not as they were.
    """
    quiet = Display(PlainConsole(quiet=True))
    try:
        dataset, _ = opened_for(classifier, None, quiet, None, "val", None)
    except UserError as error:
        raise UserError(
            f"--precision int8 measures the network on the run's training images, and they cannot "
            f"be read: {error}"
        ) from error

    def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        rows = _spread(len(dataset.val), MOST_SCORED)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            yield inputs(classifier, _read(dataset.val, part), how), dataset.val.labels[part]

    train = _read(dataset.train, _spread(len(dataset.train), CALIBRATION))
    return Images(inputs(classifier, train, how), batches)


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _read(split: Split, rows: np.ndarray) -> list[np.ndarray]:
    return [split.read(rows[i : i + 1], None)[0] for i in range(len(rows))]


def scores(
    images: Images,
    before: Callable[[np.ndarray], np.ndarray],
    after: Callable[[np.ndarray], np.ndarray],
) -> dict[str, float]:
    """`accuracy_before` and `accuracy_after` of validation images; nothing of several labels each.

    Args:
        images: Of a run.
        before: From images to logits, with the numbers as they were.
        after: With the coarser ones.
    """
    hits, count = np.zeros(2), 0
    for pixels, labels in images.val():
        if is_multilabel(labels):
            return {}
        hits += [np.sum(run(pixels).argmax(-1) == labels) for run in (before, after)]
        count += len(labels)
    first, second = (hits / max(count, 1)).tolist()
    return {"accuracy_before": first, "accuracy_after": second}
