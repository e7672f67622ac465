"""What a run gets beside its results: plots, `report.html`, and features to compare images with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl.cache.pooled import pooled_features
from jtl.common.trees import ParamTree
from jtl.data.input_plan import InputPlan
from jtl.data.multilabel import members
from jtl.data.sources.registry import Dataset
from jtl.models import ImageClassifier
from jtl.runs import evaluation_files, familiarity, metrics_log
from jtl.runs.evaluation import Evaluation
from jtl.runs.evaluation_files import Draw, Scored
from jtl.runs.files import HTML_REPORT
from jtl.runs.html_report import content

MOST_ON_MAP = 800
"""Validation images on the map of the features."""


@dataclasses.dataclass(frozen=True)
class SomeFeatures:
    """Some training and validation images, and their pooled features.

    Attributes:
        rows: Which, integers, by `train` and `val`.
        values: float32 [n, C] of each; `train` may be missing where it is stored already.
    """

    rows: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]


def complete(
    folder: Path,
    evaluation: Evaluation,
    scored: Scored,
    summary: dict[str, Any],
    features: SomeFeatures | None,
    draw: Draw,
    epoch: int,
) -> None:
    """Writes the plots of the validation images, `report.html` and the stored features.

    Args:
        folder: The run's.
        evaluation: Of the validation images, by the best model.
        scored: What was scored.
        summary: As in `summary.json`.
        features: None where there are none, as among several processes.
        draw: What draws.
        epoch: The best one.
    """
    evaluation_files.write(evaluation, scored, folder, draw=draw)
    write_page(folder, evaluation, scored, summary, features, draw, epoch)


def write_page(
    folder: Path,
    evaluation: Evaluation,
    scored: Scored,
    summary: dict[str, Any],
    features: SomeFeatures | None,
    draw: Draw,
    epoch: int,
    *,
    neighbours: bool = False,
) -> None:
    """As `complete`, but without the plots, and with `feature_map.places`'s `neighbours`."""
    on_map = None
    if features is not None:
        on_map = features.rows["val"], features.values["val"]
        train = features.values.get("train")
        found = None if train is None else familiarity.fitted(train, on_map[1], epoch)
        if found is not None:
            found.save(folder)
    history = list(metrics_log.lines(folder))
    names = scored.class_names
    shown = content.gather(evaluation, names, summary, scored.config, history, on_map)
    draw("write_report", folder / HTML_REPORT, neighbours=neighbours, **shown)


def chosen_rows(dataset: Dataset) -> dict[str, np.ndarray]:
    """Which training and validation images have their features looked at."""
    classes = len(dataset.class_names)

    def of(labels: np.ndarray, most: int) -> np.ndarray:
        return familiarity.chosen(lambda label: members(labels, label), classes, most)

    return {
        "train": of(dataset.train.labels, familiarity.MOST),
        "val": of(dataset.val.labels, MOST_ON_MAP),
    }


def computed(
    dataset: Dataset,
    rows: Mapping[str, np.ndarray],
    *,
    model: ImageClassifier,
    variables: ParamTree,
    inputs: InputPlan,
) -> SomeFeatures:
    """The features of images, by a pass of the network over them."""
    how: dict[str, Any] = dict(model=model, variables=variables, inputs=inputs)
    values = {name: pooled_features(getattr(dataset, name), rows[name], **how) for name in rows}
    return SomeFeatures(rows, values)
