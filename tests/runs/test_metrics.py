"""What is said of each class, and the weights that make all count the same."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_recall_fscore_support

from jtl.runs.metrics import by_class, macro_f1, wilson_interval

NAMES = tuple("abcde")


def chosen(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of the first `classes` classes."""
    rng = np.random.default_rng(0)
    labels = rng.choice(classes, 400, p=np.arange(1, classes + 1) / sum(range(classes + 1)))
    return labels, np.where(rng.random(400) < 0.6, labels, rng.integers(0, classes, 400))


@pytest.mark.parametrize("classes", [5, 4])  # Of the last nothing is there.
def test_scores_are_scikit_learns(classes: int):
    labels, predicted = chosen(classes)
    scores = by_class(predicted, labels, NAMES)
    assert tuple(scores) == NAMES
    rows = list(scores.values())[:classes]
    keys = ("precision", "accuracy", "f1", "count")
    ours = [[row[key] for row in rows] for key in keys]
    expected = np.array(precision_recall_fscore_support(labels, predicted))
    np.testing.assert_allclose(ours, expected)
    assert macro_f1(scores) == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert macro_f1(scores) != pytest.approx((labels == predicted).mean(), abs=1e-3)


def test_thousands_of_classes_are_scored_in_no_time():
    labels = np.arange(50_000) % 5_000
    began = time.process_time()
    scores = by_class(labels[::-1], labels, [str(index) for index in range(5_000)])
    assert time.process_time() - began < 2  # A pass over all images for each class takes longer.
    assert len(scores) == 5_000


def test_a_share_of_nothing_is_no_number():
    scores = by_class(np.array([1, 1]), np.array([0, 1]), ("a", "b", "c"))
    assert scores["a"] == {"count": 1, "accuracy": 0.0, "precision": None, "f1": 0.0}
    assert scores["b"] == {"count": 1, "accuracy": 1.0, "precision": 0.5, "f1": 2 / 3}
    assert scores["c"] == {"count": 0, "accuracy": None, "precision": None, "f1": None}
    assert macro_f1(scores) == pytest.approx(1 / 3)


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (9, 10), (10, 10), (146, 170), (1, 1)])
def test_the_interval_of_an_accuracy_is_scipys(hits: int, count: int):
    peer = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    assert wilson_interval(hits / count, count) == pytest.approx((peer.low, peer.high), abs=1e-6)


def test_of_no_image_every_accuracy_is_possible():
    assert wilson_interval(0.0, 0) == (0.0, 1.0)
