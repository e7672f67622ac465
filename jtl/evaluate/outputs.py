"""The files of an evaluation: what is confused, the mistakes, and whether confidence is right."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jtl.common.errors import UserError
from jtl.common.files import replace_bytes
from jtl.common.text import for_spreadsheet, percent, shortened, shortened_apart
from jtl.data.decoding import HostTransform
from jtl.data.splits import image_name
from jtl.evaluate import plots
from jtl.predict.predictions import probabilities
from jtl.runs import metrics
from jtl.runs.messages import SPLITS
from jtl.runs.plots import curves_title
from jtl.train import preview

if TYPE_CHECKING:
    from jtl.evaluate.evaluation import Evaluation
    from jtl.predict.classifier import Classifier

CONFUSION, RELIABILITY, MISTAKES = "confusion.png", "reliability.png", "mistakes.png"
TABLE = "mistakes.csv"
SHOWN = 24
"""Mistakes on the sheet; the table has all."""
_COLUMNS, _WIDTH, _LONGEST_LINE, _LONGEST_CLASS = 6, 2.1, 30, 18


def write(
    evaluation: Evaluation, classifier: Classifier, folder: Path, *, raw_csv: bool = False
) -> list[str]:
    """Writes `confusion.png`, `reliability.png`, `mistakes.csv` and, if any, `mistakes.png`.

    `confusion.png` is left out if there are too many classes to read their names in it.

    Args:
        evaluation: What is plotted.
        classifier: Of which it is.
        folder: Where to; made if it is missing.
        raw_csv: Whether the table holds names as they are, also such as spreadsheets would take
            for formulas.

    Returns:
        The files' names.

    Raises:
        UserError: The folder cannot be written.
    """
    scores = evaluation.scores
    split, names = scores["split"], list(classifier.class_names)
    title = curves_title(
        model=classifier.config.model.model,
        mask=classifier.config.train.phases or classifier.config.train.mask,
        data=f"{scores['data']}, {scores['count']:,} {SPLITS[split]} images",
        accuracy=metrics.rounded(scores[f"{split}_accuracy"], scores["count"]),
        split=SPLITS[split],
    )
    labels, predicted = evaluation.images.labels, evaluation.logits.argmax(-1)
    calibrated = scores[f"{split}_calibration"]
    written: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if len(names) <= plots.MOST_CLASSES:
            plots.draw_confusion(
                folder / CONFUSION,
                counts=confusion(labels, predicted, len(names)),
                class_names=names,
                title=title,
            )
            written.append(CONFUSION)
        plots.draw_reliability(
            folder / RELIABILITY,
            bins=calibrated["bins"],
            error=calibrated["expected_calibration_error"],
            title=title,
        )
        written.append(RELIABILITY)
        table = mistakes_table(evaluation, names, raw=raw_csv)
        replace_bytes(folder / TABLE, table.encode("utf-8", "backslashreplace"))
        sheet = mistakes(evaluation, classifier)
        if sheet is None:
            (folder / MISTAKES).unlink(missing_ok=True)
            return [*written, TABLE]
        replace_bytes(folder / MISTAKES, sheet)
        return [*written, MISTAKES, TABLE]
    except OSError as error:
        raise UserError(
            f"cannot write plots to '{folder}': {error.strerror}. Choose another folder with --out."
        ) from error


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Images by class and by prediction, int [K, K]."""
    pairs = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return pairs.reshape(classes, classes)


def most_confident_mistakes(
    logits: np.ndarray, labels: np.ndarray, temperature: float = 1.0
) -> np.ndarray:
    """The images whose most likely class is wrong, the most confident first: int [M]."""
    shares = probabilities(logits, temperature)
    wrong = np.flatnonzero(logits.argmax(-1) != labels)
    return wrong[np.argsort(-shares[wrong].max(-1), kind="stable")]


def mistakes(evaluation: Evaluation, classifier: Classifier) -> bytes | None:
    """A sheet of the most confident mistakes, a PNG; None where there is no mistake."""
    temperature = evaluation.temperature
    rows = most_confident_mistakes(evaluation.logits, evaluation.images.labels, temperature)[:SHOWN]
    if not len(rows):
        return None
    shares = probabilities(evaluation.logits[rows], temperature)
    told, class_names = [], classifier.class_names
    classes = [(int(evaluation.logits[r].argmax()), int(evaluation.images.labels[r])) for r in rows]
    # Long names have lines of their own: in all labels, or images would not be level.
    own_lines = any(len(class_names[i]) > _LONGEST_CLASS for pair in classes for i in pair)
    for row, share, pair in zip(rows, shares, classes, strict=True):
        lines = [shortened(image_name(evaluation.images.names[int(row)]), _LONGEST_LINE)]
        names = shortened_apart([class_names[i] for i in pair], _LONGEST_LINE)
        for word, name, index in zip(("predicted", "actual"), names, pair, strict=True):
            one = percent(share[index])
            lines += [f"{word} ({one}):", name] if own_lines else [f"{word} {name}: {one}"]
        told.append("\n".join(lines))
    inputs = classifier.inputs
    host = inputs.host_for(evaluation.images.native_size())
    if host is None:
        host = HostTransform(inputs.device.size, 1.0, "bilinear")
    images = evaluation.images.read(rows, host)
    return preview.draw(images / 255.0, told, columns=_COLUMNS, width=_WIDTH, size=7)


def mistakes_table(evaluation: Evaluation, class_names: Sequence[str], *, raw: bool = False) -> str:
    """All mistakes as CSV, the most confident first; a header alone where there is none.

    Args:
        evaluation: What was predicted.
        class_names: Of the logits.
        raw: Whether names stay as they are; see `write`.
    """
    labels = evaluation.images.labels
    temperature = evaluation.temperature
    rows = most_confident_mistakes(evaluation.logits, labels, temperature)
    content = io.StringIO()
    table = csv.writer(content, lineterminator="\n")
    table.writerow(COLUMNS)
    shares = probabilities(evaluation.logits[rows], temperature)
    for row, share in zip(rows, shares, strict=True):
        true, said = int(labels[row]), int(evaluation.logits[row].argmax())
        names = (evaluation.images.names[int(row)], class_names[true], class_names[said])
        told = names if raw else [for_spreadsheet(name) for name in names]
        table.writerow([*told, f"{share[true]:.6g}", f"{share[said]:.6g}"])
    return content.getvalue()


COLUMNS = ("file", "actual", "predicted", "probability_actual", "probability_predicted")
"""Of `mistakes.csv`."""
