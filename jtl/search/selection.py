"""Choosing among trials on validation images, and how much that flatters the chosen one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jtl.config.training import MetricName
from jtl.runs import metrics

RESAMPLES = 500
CHEAPER = 0.8
"""The share of the best one's seconds below which another one is noticeably cheaper."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """A trial among which is chosen.

    Attributes:
        logits: Of the validation images, float [N, num_classes].
        metric: What it reached.
        seconds: That it takes, started alone.
    """

    logits: np.ndarray
    metric: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        index: The chosen one.
        best: The one of the highest metric.
        difference: How much higher that is.
        error: The standard error of the difference, both being measured on the same images.
    """

    index: int
    best: int
    difference: float
    error: float


def interval(metric: MetricName, logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a metric: Wilson's for the accuracy, else by resampling the images."""
    if metric == "accuracy":
        return metrics.wilson_interval(metrics.measure(metric, logits, labels), len(labels))
    values = [metrics.measure(metric, logits[rows], labels[rows]) for rows in _draws(len(labels))]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)


def choose(
    metric: MetricName, scored: Sequence[Scored], labels: np.ndarray, least: float = 0.0
) -> Choice:
    """The best trial, or a noticeably cheaper one that is as good but for chance.

    As good: its metric is lower by no more than one standard error of the paired difference (the
    rule of Breiman et al., Classification and Regression Trees, 1984). Among those the cheapest is
    taken.

    Args:
        metric: What decides.
        scored: The trials.
        labels: Of the validation images, integers [N].
        least: Seconds that a cheaper one must save.
    """
    best = max(range(len(scored)), key=lambda i: (scored[i].metric, -scored[i].seconds))
    top, chosen = scored[best], Choice(best, best, 0.0, 0.0)
    order = sorted(range(len(scored)), key=lambda i: scored[i].seconds)
    for index in order:
        other = scored[index]
        if other.seconds >= min(CHEAPER * top.seconds, top.seconds - least):
            break
        difference = top.metric - other.metric
        error = paired_error(metric, top.logits, other.logits, labels)
        if difference <= error:
            return Choice(index, best, difference, error)
    return chosen


def paired_error(metric: MetricName, a: np.ndarray, b: np.ndarray, labels: np.ndarray) -> float:
    """The standard error of the difference of a metric between two models on the same images."""
    if metric == "accuracy":
        apart = _hits(a, labels) - _hits(b, labels)
        return float(apart.std() / np.sqrt(len(labels)))
    values = [
        metrics.measure(metric, a[rows], labels[rows])
        - metrics.measure(metric, b[rows], labels[rows])
        for rows in _draws(len(labels), 200)
    ]
    return float(np.nanstd(values))


def without_bias(scored: Sequence[Scored], labels: np.ndarray) -> tuple[float, float, float] | None:
    """The accuracy of the best of several trials, corrected for having been chosen on the images.

    Images are drawn with replacement again and again; the trial that is best on those that were
    drawn is scored on the others (Tsamardinos et al. 2018, doi:10.1007/s10994-018-5714-4).

    Returns:
        (the mean, lower and upper bound of a 95 % interval); None for fewer than two trials or
        very few images.
    """
    if len(scored) < 2 or len(labels) < metrics.FEW:
        return None
    hits = np.stack([_hits(each.logits, labels) for each in scored])
    found = []
    for rows in _draws(len(labels)):
        out = np.ones(len(labels), bool)
        out[rows] = False
        if out.any():
            found.append(hits[hits[:, rows].mean(1).argmax(), out].mean())
    low, high = np.percentile(found, (2.5, 97.5))
    return float(np.mean(found)), float(low), float(high)


def _hits(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (logits.argmax(-1) == labels).astype(np.float64)


def _draws(count: int, times: int = RESAMPLES) -> np.ndarray:
    """Indices drawn with replacement, [times, count]; the same at every call."""
    return np.random.default_rng(0).integers(0, count, (times, count))
