"""What scoring a model gave: figures, logits, and the images that they are of."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.data.sources.registry import Dataset
from jtl.data.splits import Split
from jtl.runs.console_text import SPLITS, accuracy_of


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Evaluation:
    """A run's model, scored.

    Attributes:
        scores: {"data", "split", "whole" (whether all images of the source, which has no splits),
            "count", "epoch"}, and beginning with the split's name "accuracy",
            "loss", "macro_f1", "classes" (see `jtl.runs.metrics.by_class`) and "calibration" (see
            `jtl.runs.calibration`); of several labels what `jtl.runs.multilabel.scores` has.
        logits: float32 [N, num_classes].
        images: What was looked at, its labels by the run's classes.
        temperature: What logits are divided by before they become probabilities.
        thresholds: Of every class, where images may have several labels; else None.
        dataset: What the images are a split of.
    """

    scores: dict[str, Any]
    logits: np.ndarray
    images: Split
    temperature: float = 1.0
    thresholds: Sequence[float] | None = None
    dataset: Dataset | None = None

    def __repr__(self) -> str:
        scores, split = self.scores, self.scores["split"]
        if self.thresholds is not None:
            mean = scores[f"{split}_map"]
            told = "-" if mean is None else f"{mean:.3f}"  # None where no image has a class.
            return (
                f"evaluation on {scores['data']} ({SPLITS[split]} images)\n"
                f"mAP {told}, loss {scores[f'{split}_loss']:.3f}, "
                f"macro-F1 {scores[f'{split}_macro_f1']:.3f}"
            )
        accuracy = accuracy_of(scores[f"{split}_accuracy"], scores["count"])
        return (
            f"evaluation on {scores['data']} ({SPLITS[split]} images)\n"
            f"accuracy {accuracy}\n"
            f"loss {scores[f'{split}_loss']:.3f}, macro-F1 {scores[f'{split}_macro_f1']:.3f}"
        )
