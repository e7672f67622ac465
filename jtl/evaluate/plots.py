"""The plots of an evaluation: what is confused, the worst mistakes, whether it knows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jtl.common.errors import UserError
from jtl.common.files import replace_bytes
from jtl.data.decoding import HostTransform
from jtl.predict.predictions import probabilities
from jtl.runs import plots
from jtl.train import preview

if TYPE_CHECKING:
    from jtl.evaluate.evaluation import Evaluation
    from jtl.predict.classifier import Classifier

MISTAKES = 24
"""On the sheet."""
_LONGEST_NAME = 14


def write(evaluation: Evaluation, classifier: Classifier, folder: Path) -> list[str]:
    """Writes `confusion.png`, `reliability.png` and, if there are any, `mistakes.png`.

    Without `confusion.png` where nothing could be told apart in it, of very many classes.

    Args:
        evaluation: What is plotted.
        classifier: Of which it is.
        folder: Where to; made if it is missing.

    Returns:
        The files' names.

    Raises:
        UserError: The folder cannot be written.
    """
    scores = evaluation.scores
    split, names = scores["split"], list(classifier.class_names)
    title = plots.curves_title(
        model=classifier.config.model.model,
        mask=classifier.config.train.phases or classifier.config.train.mask,
        data=f"{scores['data']}, {scores['count']:,} {split} images",
        accuracy=scores[f"{split}_accuracy"],
        split=split,
    )
    labels, predicted = evaluation.images.labels, evaluation.logits.argmax(-1)
    calibrated = scores[f"{split}_calibration"]
    written: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if len(names) <= plots.MOST_CLASSES:
            plots.draw_confusion(
                folder / "confusion.png",
                counts=confusion(labels, predicted, len(names)),
                class_names=names,
                title=title,
            )
            written.append("confusion.png")
        plots.draw_reliability(
            folder / "reliability.png",
            bins=calibrated["bins"],
            error=calibrated["expected_calibration_error"],
            title=title,
        )
        written.append("reliability.png")
        sheet = mistakes(evaluation, classifier)
        if sheet is None:
            (folder / "mistakes.png").unlink(missing_ok=True)
            return written
        replace_bytes(folder / "mistakes.png", sheet)
        return [*written, "mistakes.png"]
    except OSError as error:
        raise UserError(
            f"cannot write plots to '{folder}': {error.strerror}. Choose another folder with --out."
        ) from error


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Images by class and by prediction, int [K, K]."""
    pairs = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def most_confident_mistakes(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The images whose likeliest class is wrong, the most confident first: int [M]."""
    shares = probabilities(logits)
    wrong = np.flatnonzero(shares.argmax(-1) != labels)
    return wrong[np.argsort(-shares[wrong].max(-1), kind="stable")]


def mistakes(evaluation: Evaluation, classifier: Classifier) -> bytes | None:
    """A sheet of the most confident mistakes, a PNG; None where there is no mistake."""
    rows = most_confident_mistakes(evaluation.logits, evaluation.images.labels)[:MISTAKES]
    if not len(rows):
        return None
    shares = probabilities(evaluation.logits[rows])
    told = []
    for row, share in zip(rows, shares, strict=True):
        said, true = int(share.argmax()), int(evaluation.images.labels[row])
        names = [_short(classifier.class_names[index]) for index in (said, true)]
        told.append(
            f"predicted {names[0]} ({share[said]:.0%})\nactual {names[1]} ({share[true]:.0%})"
        )
    inputs = classifier.inputs
    host = inputs.host_for(evaluation.images.native_size())
    if host is None:
        host = HostTransform(inputs.device.size, 1.0, "bilinear")
    images = evaluation.images.read(rows, host)
    return preview.draw(images / 255.0, told)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 2] + ".."
