"""What a trial will take on this machine, predicted from what earlier ones took."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable
from typing import Any

FIRST_STEP_RATE = 0.8
"""Operations a second of training steps, as a share of those of a forward pass, until measured.

0.9 of most backbones, 0.4 of those with depthwise convolutions, at 224 pixels on a CPU
(`benchmarks/vs_pytorch.py`); more than 1 of small images, for which features take little but time
to start."""
FIRST_START = 12.0
"""Seconds in which the steps of a whole network are compiled, until measured."""
FIRST_OVERHEAD = 4.0
"""Seconds that a trial takes beside its epochs, until measured."""
FEATURES_START = 2.0
"""Seconds in which what computes features is compiled."""
EPOCH_OVERHEAD = 0.2
"""Seconds that an epoch takes however few images there are: checkpoints, plots, dispatch."""
MARGIN = 1.15
"""By how much a trial may take longer than predicted and is begun all the same."""
LARGEST_MARGIN = 2.0
"""The same where the trial before took much longer than predicted, as on a busy machine."""


@dataclasses.dataclass(frozen=True)
class Work:
    """What a trial computes.

    Attributes:
        features: Operations of the frozen layers, once, as far as they are not cached.
        epoch: Operations of an epoch's steps and of its evaluation; 0 for a head without steps.
        share: The share of the network's units that a step runs.
        cached: Whether steps begin with cached features.
        program: What trials have in common that share a compiled step.
    """

    features: float
    epoch: float
    share: float = 1.0
    cached: bool = False
    program: Hashable = None


@dataclasses.dataclass
class CostModel:
    """Seconds from operations.

    Attributes:
        forward_rate: Operations a second of inference; None until measured.
    """

    forward_rate: float | None = None

    def __post_init__(self) -> None:
        self._step_rates: dict[bool, float] = {}
        self._start: float | None = None  # Of the whole network's steps.
        self._overhead: dict[bool, float] = {}
        self._programs: set[Hashable] = set()  # Compiled in this process.
        self._seen: set[Hashable] = set()  # In any.
        self.margin = MARGIN

    def seconds(self, work: Work, epochs: int, *, alone: bool = False) -> float:
        """Seconds that a trial takes from its setup to its summary.

        Args:
            work: What it computes.
            epochs: That it trains.
            alone: Whether its step is compiled even if one of an earlier trial is the same.
        """
        return self._fixed(work, alone=alone) + epochs * self.epoch_seconds(work)

    def epochs_within(self, work: Work, seconds: float, most: int) -> int:
        """The most epochs that fit in a time; 0 if none do."""
        left = seconds / self.margin - self._fixed(work)
        each = self.epoch_seconds(work)
        if left <= 0:
            return 0
        return most if not each else min(most, math.floor(left / each))

    def fits(self, work: Work, epochs: int, seconds: float) -> bool:
        """Whether a trial fits in a time."""
        return self.margin * self.seconds(work, epochs) <= seconds

    def compare(self, predicted: float, seconds: float) -> None:
        """Takes what a whole trial was predicted to take and took: the next may err as much."""
        self.margin = min(max(MARGIN, seconds / max(predicted, 1.0)), LARGEST_MARGIN)

    def _fixed(self, work: Work, *, alone: bool = False) -> float:
        steps = work.epoch > 0
        seconds = self._overhead.get(steps, FIRST_OVERHEAD)
        if work.features and self.forward_rate:
            seconds += work.features / self.forward_rate
        if steps and (alone or work.program not in self._programs):
            start = FIRST_START if self._start is None else self._start
            seconds += start * _compiled(work)
        return seconds

    def epoch_seconds(self, work: Work) -> float:
        """Seconds of one epoch, the first one's compiling left out."""
        if not work.epoch:
            return 0.0
        rate = self._step_rates.get(work.cached) or self._step_rates.get(not work.cached)
        rate = rate or FIRST_STEP_RATE * (self.forward_rate or math.inf)
        return EPOCH_OVERHEAD + work.epoch / rate

    def observe(
        self,
        work: Work,
        history: list[dict[str, Any]],
        features: float,
        seconds: float,
        *,
        here: bool = True,
    ) -> None:
        """Learns from a trial.

        Args:
            work: What it computed.
            history: Its epochs, as in `metrics.jsonl`.
            features: Seconds that its features took; 0 if they were cached.
            seconds: All that it took.
            here: Whether this process trained it, and has its compiled step.
        """
        if not history:
            return
        if work.features and features > 1.0:
            self.forward_rate = work.features / max(features - FEATURES_START, features / 2)
        elapsed = [line["elapsed"] for line in history]
        steps = work.epoch > 0
        overhead = seconds - elapsed[-1] if steps else seconds - features
        self._overhead[steps] = max(overhead, 0.0)
        if not steps:
            return
        count = len(history)
        each = (elapsed[-1] - elapsed[0]) / (count - 1) if count > 1 else history[0]["seconds"]
        start = max(elapsed[0] - features - each, 0.0) if count > 1 else 0.0
        self._step_rates[work.cached] = work.epoch / max(each - EPOCH_OVERHEAD, 1e-3)
        if work.program not in self._seen and count > 1:
            self._start = start / _compiled(work)
        self._seen.add(work.program)
        if here:
            self._programs.add(work.program)


def _compiled(work: Work) -> float:
    """The share of a whole network's time to compile."""
    return 0.15 + 0.85 * work.share
