"""What a program that trains many times hears of each training, and decides in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np


def _go_on(line: dict[str, Any]) -> bool:
    del line
    return False


def _ignore(logits: np.ndarray) -> None:
    del logits


@dataclasses.dataclass(frozen=True)
class Observer:
    """Someone who watches a training; by default one who wants nothing.

    Attributes:
        after_epoch: Gets every epoch's line of `metrics.jsonl` once the epoch is saved as far as it
            has to be. True ends the training there, as early stopping does: the best epoch counts.
        scored: Gets the best epoch's logits of the validation images, float32 [N, num_classes],
            before the summary is written.
        tests: Whether the best epoch is scored on the test split, too.
        probes: Whether a fine-tuning is held against a linear probe at its end.
        reports: Whether the run gets `report.html`, the plots of its validation images and the
            features that new images are compared with.
    """

    after_epoch: Callable[[dict[str, Any]], bool] = _go_on
    scored: Callable[[np.ndarray], None] = _ignore
    tests: bool = True
    probes: bool = True
    reports: bool = True
