"""What `report.html` shows, as JSON: gathered where the images are, drawn where nothing waits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.config.options import Config
from jtl.data.class_names import with_title
from jtl.data.decoding import HostTransform
from jtl.data.multilabel import classes_of, is_multilabel, members
from jtl.data.splits import Split, image_name
from jtl.runs import report_contents, selective, sheets
from jtl.runs.calibration import probabilities
from jtl.runs.evaluation import Evaluation
from jtl.runs.evaluation_files import confusion, mistakes_of
from jtl.runs.evaluation_plots import MOST_CLASSES
from jtl.runs.html_report.feature_map import LEAST, components
from jtl.runs.multilabel import chosen

SHOWN = 24
"""Of the worst mistakes, and of those that the model was least sure of."""
_IMAGES = 700
_BYTES = 3_200_000
"""That all images may take, as text."""
_SIDE, _QUALITY = 96, 72
_EXAMPLES, _OF_CLASS, _OF_CELL = 240, 6, 6
"""Examples of all classes, of a class, and of a cell of the confusion matrix."""
_READ = 64
"""Images that are decoded at once."""

Host = Callable[[tuple[int, int] | None], HostTransform | None]


def gather(
    evaluation: Evaluation,
    class_names: Sequence[str],
    summary: dict[str, Any],
    config: Config,
    history: Sequence[dict[str, Any]],
    features: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Any]:
    """All that the page shows.

    Args:
        evaluation: The validation images, scored by the best model.
        class_names: Of the logits.
        summary: As in `summary.json`.
        config: The run's options.
        history: A line for every epoch, as in `metrics.jsonl`.
        features: Which validation images are on the map, and their features [n, C].

    Returns:
        JSON, as `jtl.runs.html_report.page.write_report` takes it.
    """
    lines, told = report_contents.repeat(summary, config)
    header, rows = report_contents.result_rows(summary, config)
    heading, columns, classes = report_contents.class_rows(summary, most=1000)
    titles = [with_title(name, summary.get("class_titles", {})) for name in class_names]
    views = _views(evaluation, class_names)
    points = [] if features is None else features[0].tolist()
    wanted = [row for rows in views.values() for _, row in rows]
    images = _thumbnails(evaluation.images, dict.fromkeys([*wanted, *points]))
    return {
        "title": _parts(report_contents.title(summary)),
        "headline": report_contents.headline(summary),
        "task": summary.get("task", "single-label"),
        "results": {"header": header, "rows": rows},
        "texts": report_contents.result_texts(summary, config),
        "classes": {"heading": heading, "header": columns, "rows": classes},
        "training": [(name, _parts(told)) for name, told in report_contents.training_rows(
            summary, config)],
        "data": [(name, _parts(told)) for name, told in report_contents.data_rows(summary)],
        "notes": list(summary["notes"]),
        "repeat": {"lines": lines, "told": [_parts(each) for each in told]},
        "history": list(history),
        "best_epoch": summary["best_epoch"],
        "metric": config.train.metric,
        "names": titles,
        "calibration": summary["val_calibration"],
        **_selective(evaluation),
        "confusion": _counts(evaluation, len(class_names)),
        "views": {name: rows for name, rows in views.items() if rows},
        "images": _described(evaluation, class_names, images, [*wanted, *points]),
        "map": _on_map(evaluation, features),
    }  # fmt: skip


def _parts(parts: report_contents.Parts) -> list[Any]:
    return [part if isinstance(part, str) else dataclasses.asdict(part) for part in parts]


def _views(evaluation: Evaluation, class_names: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    """Which images each part of the page shows, with what: the most important part first."""
    labels = evaluation.images.labels
    wrong = [one.row for one in mistakes_of(evaluation, class_names)]
    shown = {
        "mistakes": [("", row) for row in wrong[:SHOWN]],
        "unsure": [("", row) for row in _least_sure(evaluation)[:SHOWN]],
        "examples": list(_examples(labels, len(class_names), set(wrong))),
    }
    if evaluation.thresholds is None and len(class_names) <= MOST_CLASSES:
        shown["cells"] = list(_of_cells(evaluation, wrong))
    return shown


def _least_sure(evaluation: Evaluation) -> list[int]:
    """Images by how near the next class is, or a class's threshold."""
    shares = _shares(evaluation)
    if evaluation.thresholds is not None:
        limits = np.asarray(evaluation.thresholds, np.float32).reshape(1, -1)
        margins = np.abs(shares - limits).min(1)
    else:
        two = np.sort(shares, -1)[:, -2:]
        margins = two[:, 1] - two[:, 0]
    return np.argsort(margins, kind="stable").tolist()


def _examples(labels: np.ndarray, classes: int, wrong: set[int]) -> Iterable[tuple[str, int]]:
    """Images of each class, spread over those that are recognized, where there are any."""
    each = min(_OF_CLASS, max(_EXAMPLES // classes, 1))
    for label in range(classes):
        rows = members(labels, label)
        right = [row for row in rows.tolist() if row not in wrong] or rows.tolist()
        places = np.unique(np.linspace(0, len(right) - 1, min(each, len(right))).round())
        for place in places.astype(int).tolist() if right else ():
            yield str(label), right[place]


def _of_cells(evaluation: Evaluation, wrong: Sequence[int]) -> Iterable[tuple[str, int]]:
    """Images of each cell of the confusion matrix; of all cells one, then the next of each."""
    labels, predicted = evaluation.images.labels, evaluation.logits.argmax(-1)
    right = np.flatnonzero(labels == predicted).tolist()
    cells: dict[str, list[int]] = {}
    for row in [*wrong, *right]:
        cells.setdefault(f"{labels[row]}-{predicted[row]}", []).append(row)
    for turn in range(_OF_CELL):
        for cell, rows in cells.items():
            if turn < len(rows):
                yield cell, rows[turn]


def _thumbnails(split: Split, rows: Iterable[int]) -> dict[int, str]:
    """Small JPEGs of the first images that have room; unreadable ones are left out."""
    size = split.native_size()
    host = HostTransform(_SIDE, 1.0, "bilinear", scaled_jpeg=True)
    transform = None if size is not None and max(size) <= _SIDE else host
    rows, found, used = list(rows)[:_IMAGES], {}, 0
    for first in range(0, len(rows), _READ):
        for row, pixels in _read(split, rows[first : first + _READ], transform):
            image = sheets.packed(pixels, "JPEG", quality=_QUALITY, optimize=True)
            used += len(image)
            if used > _BYTES:
                return found
            found[row] = image
    return found


def _read(
    split: Split, rows: list[int], transform: HostTransform | None
) -> Iterable[tuple[int, np.ndarray]]:
    try:
        yield from zip(rows, split.read(np.array(rows), transform), strict=True)
    except UserError:  # Some are gone, or have been damaged since.
        if len(rows) > 1:
            for row in rows:
                yield from _read(split, [row], transform)


def _described(
    evaluation: Evaluation,
    class_names: Sequence[str],
    images: dict[int, str],
    rows: Iterable[int],
) -> dict[str, dict[str, Any]]:
    """What is said of each image, by its row."""
    shares = _shares(evaluation)
    labels, names = evaluation.images.labels, evaluation.images.names
    thresholds = evaluation.thresholds
    picked = None if thresholds is None else chosen(evaluation.logits, thresholds)
    found = {}
    for row in dict.fromkeys(rows):
        actual, best = classes_of(labels, row), int(evaluation.logits[row].argmax())
        said = class_names[best]
        if picked is not None:
            said = _named(np.flatnonzero(picked[row]).tolist(), class_names)
        found[str(row)] = {
            "name": image_name(names[row]),
            "actual": _named(actual, class_names),
            "predicted": said,
            "share": float(shares[row, best]),
            "right": bool((picked[row] == labels[row]).all())
            if picked is not None
            else best == int(labels[row]),
            "jpeg": images.get(row),
        }
    return found


def _named(labels: Iterable[int], class_names: Sequence[str]) -> str:
    return ", ".join(class_names[label] for label in labels) or "none"


def _selective(evaluation: Evaluation) -> dict[str, Any]:
    """Accuracy by coverage, of images that have one class each."""
    if evaluation.thresholds is not None:
        return {"selective": None}
    right = evaluation.logits.argmax(-1) == evaluation.images.labels
    return {"selective": selective.curve(_shares(evaluation).max(-1), right)}


def _counts(evaluation: Evaluation, classes: int) -> list[list[int]] | None:
    """The cells of the confusion matrix that have images: class, prediction, count."""
    if evaluation.thresholds is not None:
        return None
    counts = confusion(evaluation.images.labels, evaluation.logits.argmax(-1), classes)
    return [[int(r), int(c), int(counts[r, c])] for r, c in np.argwhere(counts)]


def _on_map(
    evaluation: Evaluation, features: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, Any] | None:
    """The images of the map, their colours' classes, and their features' main directions."""
    if features is None or len(features[0]) < LEAST:
        return None
    rows, values = features
    labels = evaluation.images.labels[rows]
    if is_multilabel(labels):  # Each in the colour of its first class.
        labels = np.where(labels.any(1), labels.argmax(1), -1)
    return {
        "rows": rows.tolist(),
        "labels": labels.tolist(),
        "features": np.round(components(values), 4).tolist(),
        "count": len(evaluation.images),
    }


def _shares(evaluation: Evaluation) -> np.ndarray:
    several = evaluation.thresholds is not None
    return probabilities(evaluation.logits, evaluation.temperature, several=several)
