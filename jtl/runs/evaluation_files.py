"""The files of an evaluation: what is confused, the mistakes, and whether confidence is right."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jtl.common.errors import UserError
from jtl.common.files import replace_bytes
from jtl.common.text import for_spreadsheet, percent, shortened, shortened_apart
from jtl.data.decoding import HostTransform
from jtl.data.multilabel import joined
from jtl.data.splits import image_name
from jtl.runs import evaluation_plots as plots
from jtl.runs import metrics, plot_worker, sheets
from jtl.runs.calibration import probabilities
from jtl.runs.console_text import SPLITS
from jtl.runs.console_text import measured as measured_by
from jtl.runs.files import TABLE
from jtl.runs.multilabel import chosen, names_of, sigmoid
from jtl.runs.plots import curves_title

if TYPE_CHECKING:
    from jtl.config.options import Config
    from jtl.data.input_plan import InputPlan
    from jtl.runs.evaluation import Evaluation

CONFUSION, RELIABILITY, MISTAKES = "confusion.png", "reliability.png", "mistakes.png"
CLASSES = "classes.png"
SHOWN = 24
"""Mistakes on the sheet; the table has all."""
_LAYOUT: dict[str, Any] = dict(columns=6, width=2.1, size=7)
_LONGEST_LINE, _LONGEST_CLASS = 30, 18


class Scored(Protocol):
    """What was scored: a classifier, a member of an ensemble, or a training at its end."""

    @property
    def class_names(self) -> Sequence[str]:
        """Of the logits, in order."""
        ...

    @property
    def config(self) -> Config:
        """The run's options."""
        ...

    @property
    def inputs(self) -> InputPlan:
        """How images become the network's input."""
        ...


class Draw(Protocol):
    """As `plot_worker.draw_now`, now or later."""

    def __call__(self, function: str, path: Path, **arguments: Any) -> None: ...


def write(
    evaluation: Evaluation,
    classifier: Scored,
    folder: Path,
    *,
    raw_csv: bool = False,
    draw: Draw = plot_worker.draw_now,
) -> list[str]:
    """Writes `confusion.png`, `reliability.png`, `mistakes.csv` and, if any, `mistakes.png`.

    `confusion.png` is left out if there are too many classes to read their names in it. Of several
    labels for each image, `classes.png` takes the place of it and of `reliability.png`.

    Args:
        evaluation: What is plotted.
        classifier: Of which it is; of an ensemble, a member.
        folder: Where to; made if it is missing.
        raw_csv: Whether the table holds names as they are, also such as spreadsheets would take
            for formulas.
        draw: What draws the plots.

    Returns:
        The files' names.

    Raises:
        UserError: The folder cannot be written.
    """
    scores = evaluation.scores
    split, names = scores["split"], list(classifier.class_names)
    measured, key = measured_by(evaluation.thresholds is not None)
    train = classifier.config.train
    mask = train.phases or train.mask
    if "members" in scores:
        mask = f"ensemble of {scores['members']}"
    value = scores[key.replace("val", split, 1)]  # None where no image has a class.
    title = curves_title(
        model=classifier.config.model.model,
        mask=mask,
        data=f"{scores['data']}, {scores['count']:,} {SPLITS[split]} images",
        accuracy="-" if value is None else metrics.rounded(value, scores["count"]),
        split=SPLITS[split],
        measured=measured,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = _plots(evaluation, names, folder, title, draw)
        table = mistakes_table(evaluation, names, raw=raw_csv)
        replace_bytes(folder / TABLE, table.encode("utf-8", "backslashreplace"))
        sheet = mistakes(evaluation, classifier)
        if sheet is None:
            (folder / MISTAKES).unlink(missing_ok=True)
            return [*written, TABLE]
        draw("draw_sheet", folder / MISTAKES, **sheet)
        return [*written, MISTAKES, TABLE]
    except OSError as error:
        raise UserError(
            f"cannot write plots to '{folder}': {error.strerror}. Choose another folder with --out."
        ) from error


def _plots(
    evaluation: Evaluation, names: list[str], folder: Path, title: str, draw: Draw
) -> list[str]:
    """Draws what is confused and whether confidence is right, or how each class is recognized."""
    scores, written = evaluation.scores, []
    split = scores["split"]
    if evaluation.thresholds is not None:
        draw("draw_classes", folder / CLASSES, scores=scores[f"{split}_classes"], title=title)
        return [CLASSES]
    labels, predicted = evaluation.images.labels, evaluation.logits.argmax(-1)
    calibrated = scores[f"{split}_calibration"]
    if len(names) <= plots.MOST_CLASSES:
        draw(
            "draw_confusion",
            folder / CONFUSION,
            counts=confusion(labels, predicted, len(names)).tolist(),
            class_names=names,
            title=title,
        )
        written.append(CONFUSION)
    draw(
        "draw_reliability",
        folder / RELIABILITY,
        bins=calibrated["bins"],
        error=calibrated["expected_calibration_error"],
        title=title,
    )
    return [*written, RELIABILITY]


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


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An image of which a class is wrong.

    Attributes:
        row: Its place.
        actual: The class that it has; of several labels, all of them.
        predicted: What it was taken for.
        of_actual: The probability of the first; of several labels, of the class that is most
            confidently wrong.
        of_predicted: The probability of the second; of several labels, the same class's threshold.
        what: Of several labels, that class.
    """

    row: int
    actual: str
    predicted: str
    of_actual: float
    of_predicted: float
    what: str = ""


def mistakes_of(evaluation: Evaluation, names: Sequence[str]) -> list[Mistake]:
    """All mistakes, the most confident first.

    Args:
        evaluation: What was predicted.
        names: Of the classes.
    """
    logits, labels = evaluation.logits, evaluation.images.labels
    if evaluation.thresholds is not None:
        return _multilabel_mistakes(logits, labels, names, evaluation.thresholds)
    rows, found = most_confident_mistakes(logits, labels, evaluation.temperature), []
    shares = probabilities(logits[rows], evaluation.temperature)
    for row, share in zip(rows.tolist(), shares, strict=True):
        true, said = int(labels[row]), int(logits[row].argmax())
        told = names[true], names[said]
        found.append(Mistake(row, *told, float(share[true]), float(share[said])))
    return found


def _multilabel_mistakes(
    logits: np.ndarray, labels: np.ndarray, names: Sequence[str], thresholds: Sequence[float]
) -> list[Mistake]:
    shares, picked, truth = sigmoid(logits), chosen(logits, thresholds), labels > 0
    # How far a wrong class's probability is on the wrong side of its threshold.
    far = np.abs(shares - np.asarray(thresholds, np.float32).reshape(1, -1)) * (picked != truth)
    wrong = np.flatnonzero((picked != truth).any(1))
    rows = wrong[np.argsort(-far[wrong].max(1), kind="stable")].tolist()
    found = []
    for row in rows:
        worst = int(np.where(picked[row] != truth[row], far[row], -1).argmax())
        actual, predicted = (joined(names_of(of[row], names)) for of in (truth, picked))
        share, threshold = float(shares[row, worst]), float(thresholds[worst])
        found.append(Mistake(row, actual, predicted, share, threshold, names[worst]))
    return found


def mistakes(evaluation: Evaluation, classifier: Scored) -> dict[str, Any] | None:
    """A sheet of the most confident mistakes, as `draw_sheet` takes it; None without a mistake."""
    found = mistakes_of(evaluation, classifier.class_names)[:SHOWN]
    if not found:
        return None
    told = _captions(evaluation, found)
    inputs = classifier.inputs
    host = inputs.host_for(evaluation.images.native_size())
    if host is None:
        host = HostTransform(inputs.device.size, 1.0, "bilinear")
    images = evaluation.images.read(np.array([one.row for one in found]), host)
    return {"images": [sheets.packed(image) for image in images], "labels": told, **_LAYOUT}


def _captions(evaluation: Evaluation, found: Sequence[Mistake]) -> list[str]:
    """What is written above each image, in as many lines."""
    # Long names have lines of their own: in all labels, or images would not be level.
    told, each = [], [(one.predicted, one.actual) for one in found]
    own_lines = any(len(name) > _LONGEST_CLASS for pair in each for name in pair)
    for one, pair in zip(found, each, strict=True):
        lines = [shortened(image_name(evaluation.images.names[one.row]), _LONGEST_LINE)]
        if one.what:
            has = "missed" if one.of_actual <= one.of_predicted else "wrongly found"
            limit = f"threshold {percent(one.of_predicted)}"
            name = shortened(one.what, _LONGEST_LINE)
            lines += [name, f"{has}: {percent(one.of_actual)}, {limit}"]
        else:
            names = shortened_apart(pair, _LONGEST_LINE)
            shares = percent(one.of_predicted), percent(one.of_actual)
            for word, name, share in zip(("predicted", "actual"), names, shares, strict=True):
                lines += [f"{word} ({share}):", name] if own_lines else [f"{word} {name}: {share}"]
        told.append("\n".join(lines))
    return told


def mistakes_table(evaluation: Evaluation, class_names: Sequence[str], *, raw: bool = False) -> str:
    """All mistakes as CSV, the most confident first; a header alone where there is none.

    Args:
        evaluation: What was predicted.
        class_names: Of the logits.
        raw: Whether names stay as they are; see `write`.
    """
    content = io.StringIO()
    table = csv.writer(content, lineterminator="\n")
    several = evaluation.thresholds is not None
    table.writerow(MULTILABEL_COLUMNS if several else COLUMNS)
    for one in mistakes_of(evaluation, class_names):
        names = [evaluation.images.names[one.row], one.actual, one.predicted]
        names += [one.what] if several else []
        told = names if raw else [for_spreadsheet(name) for name in names]
        table.writerow([*told, f"{one.of_actual:.6g}", f"{one.of_predicted:.6g}"])
    return content.getvalue()


COLUMNS = ("file", "actual", "predicted", "probability_actual", "probability_predicted")
"""Of `mistakes.csv`."""
MULTILABEL_COLUMNS = ("file", "actual", "predicted", "class", "probability", "threshold")
"""The same of several labels; the class is the one that is most confidently wrong."""
