"""An ensemble of trials: their probabilities are averaged, the better ones count more often."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jtl.config.training import MetricName
from jtl.runs import metrics
from jtl.search import selection

MOST_PICKS = 20
"""Members of an ensemble, counting one that is picked twice as two."""
MOST_TRIALS = 20
"""The best trials, among which is picked."""
_FOLDS = 5
_LEAST = 1e-12


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """An ensemble, and what it is worth.

    Attributes:
        weights: Of each trial, adding up to 1; 0 for those that are no members.
        metric: What it reaches on the images that picked it, the higher the better.
        honest: What ensembles reach that were picked on other images (cross-fitted).
        difference: By how much that is higher than the winner's metric.
        error: The standard error of the difference.
    """

    weights: tuple[float, ...]
    metric: float
    honest: float
    difference: float
    error: float

    @property
    def gains(self) -> bool:
        """Whether it is better than the winner beyond chance."""
        return self.difference > self.error and sum(weight > 0 for weight in self.weights) > 1


def find(
    metric: MetricName, logits: Sequence[np.ndarray], labels: np.ndarray, winner: int
) -> Ensemble:
    """Picks an ensemble greedily, with replacement (Caruana et al. 2004).

    Picking goes by the validation images, which flatters the ensemble. So it is also picked on
    four fifths of them and scored on the fifth that is left, for each fifth.

    Args:
        metric: What is to be high.
        logits: Of the validation images, float [N, num_classes], for each trial.
        labels: Integers [N].
        winner: The trial that it has to beat.
    """
    shares = np.stack([_probabilities(each) for each in logits])
    weights = pick(metric, shares, labels)
    folds = np.random.default_rng(0).permutation(len(labels)) % _FOLDS
    mixed = np.empty_like(shares[0])
    for fold in range(_FOLDS):
        out = folds == fold
        chosen = pick(metric, shares[:, ~out], labels[~out])
        mixed[out] = np.tensordot(chosen, shares[:, out], 1)
    honest = _score(metric, mixed, labels)
    alone = shares[winner]
    error = selection.paired_error(metric, _logs(mixed), _logs(alone), labels)
    return Ensemble(
        tuple(weights.tolist()),
        _score(metric, np.tensordot(weights, shares, 1), labels),
        honest,
        honest - _score(metric, alone, labels),
        error,
    )


def pick(metric: MetricName, shares: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The weights of a greedy ensemble, float [trials], adding up to 1.

    Each pick is the trial with which the average of all picks so far is best: by the metric,
    among equals by the loss. The picks up to the best average count.

    Args:
        metric: What is to be high.
        shares: Probabilities, float [trials, N, num_classes].
        labels: Integers [N].
    """
    counts, total = np.zeros(len(shares)), np.zeros_like(shares[0])
    best, kept = (-np.inf, -np.inf), counts
    for number in range(1, MOST_PICKS + 1):
        scores = []
        for share in shares:
            mixed = (total + share) / number
            scores.append((_score(metric, mixed, labels), _score("loss", mixed, labels)))
        index = max(range(len(shares)), key=lambda at: scores[at])
        counts[index] += 1
        total = total + shares[index]
        if scores[index] > best:
            best, kept = scores[index], counts.copy()
    return kept / kept.sum()


def _score(metric: MetricName, shares: np.ndarray, labels: np.ndarray) -> float:
    return metrics.measure(metric, _logs(shares), labels)


def _logs(shares: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(shares, _LEAST))


def _probabilities(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(np.float64(logits) - np.max(logits, -1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
