"""One trial of a search on its way: when it ends, and what is kept of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from jtl.config.training import MetricName
from jtl.runs import metrics
from jtl.search.clock import Budget
from jtl.search.trials import Store, Trial

CLOSING_SECONDS = 1.0
"""That a trial takes after its last epoch, at least."""


@dataclasses.dataclass
class Watched:
    """One trial on its way.

    Attributes:
        trial: Its row.
        epochs: That it is to train.
        expected: Seconds that an epoch was predicted to take.
        metric: What decides, as in `--metric`.
        budget: The search's time.
        store: Keeps the logits.
        note: Called after each epoch.
        prune: Takes an epoch and its metric, and says whether to end there.
        state: What becomes of it.
    """

    trial: Trial
    epochs: int
    expected: float
    metric: MetricName
    budget: Budget
    store: Store
    note: Callable[[], None]
    prune: Callable[[int, float], bool] | None = None
    state: str = "done"

    def __post_init__(self) -> None:
        self._last: float | None = None

    def after_epoch(self, line: dict[str, Any]) -> bool:
        """Whether to end the trial after an epoch: its time is over, or others are better."""
        self.note()  # Should the process be killed.
        if line["epoch"] >= self.epochs:
            return False
        now = self.budget.spent
        # The first one compiles, which the next one need not.
        each = self.expected if self._last is None else now - self._last
        self._last = now
        if self.prune is not None and self.prune(
            line["epoch"], metrics.score_of(line, self.metric)
        ):
            self.state = "pruned"
            return True
        if self.budget.left < each + CLOSING_SECONDS:
            self.state = "stopped"
            return True
        return False

    def scored(self, logits: np.ndarray) -> None:
        """Keeps the logits of the best epoch."""
        self.store.write_logits(self.trial, logits)
