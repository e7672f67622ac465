"""The choice among trials, and what it claims."""

from __future__ import annotations

import numpy as np
import pytest

from jtl.search import selection
from jtl.search.selection import Scored

COUNT = 200
LABELS = np.random.default_rng(0).integers(0, 3, COUNT)


def trial(wrong: range, seconds: float) -> Scored:
    """One that is wrong about some of the images."""
    answers = LABELS.copy()
    answers[list(wrong)] = (answers[list(wrong)] + 1) % 3
    logits = 5.0 * np.eye(3)[answers]
    return Scored(logits, float((answers == LABELS).mean()), seconds)


def test_the_best_wins_where_the_difference_is_no_chance():
    choice = selection.choose("accuracy", [trial(range(30), 1), trial(range(10), 9)], LABELS)
    assert (choice.index, choice.best) == (1, 1)


def test_within_chance_the_cheaper_wins():
    # They are wrong about other images: the difference of one image is nothing.
    scored = [trial(range(100, 111), 1), trial(range(10), 9)]
    choice = selection.choose("accuracy", scored, LABELS)
    assert (choice.index, choice.best) == (0, 1)
    assert choice.difference == pytest.approx(1 / COUNT)
    assert choice.error == pytest.approx(np.sqrt(21 / COUNT - 1 / COUNT**2) / np.sqrt(COUNT))


def test_pairs_tell_more_than_their_accuracies():
    # Every mistake of the dear one is one of the cheap one, too: 8 images better, none worse.
    scored = [trial(range(18), 1), trial(range(10), 9)]
    assert selection.choose("accuracy", scored, LABELS).index == 1


def test_a_cheaper_one_must_be_noticeably_cheaper():
    scored = [trial(range(100, 111), 8), trial(range(10), 9)]
    assert selection.choose("accuracy", scored, LABELS).index == 1
    scored = [trial(range(100, 111), 5), trial(range(10), 9)]
    assert selection.choose("accuracy", scored, LABELS, least=3).index == 0
    assert selection.choose("accuracy", scored, LABELS, least=5).index == 1


def test_other_metrics_are_resampled():
    scored = [trial(range(40), 1), trial(range(10), 9)]
    for metric in ("macro_f1", "loss"):
        values = [selection.metrics.measure(metric, s.logits, LABELS) for s in scored]
        pair = [Scored(s.logits, v, s.seconds) for s, v in zip(scored, values, strict=True)]
        assert selection.choose(metric, pair, LABELS).index == 1
        low, high = selection.interval(metric, pair[0].logits, LABELS)
        assert low < values[0] < high


def test_the_best_of_many_by_chance_is_not_as_good_as_it_looks():
    claimed, corrected = [], []
    for seed in range(10):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 2, 60)
        guesses = [random.integers(0, 2, 60) for _ in range(40)]
        scored = [Scored(np.eye(2)[g], float((g == labels).mean()), 1.0) for g in guesses]
        found = selection.without_bias(scored, labels)
        assert found is not None
        mean, low, high = found
        assert low < mean < high
        claimed.append(max(s.metric for s in scored))
        corrected.append(mean)
    # All of them guess, so that half is right.
    assert np.mean(claimed) > 0.62
    assert abs(np.mean(corrected) - 0.5) < 0.05


def test_one_trial_has_no_bias():
    assert selection.without_bias([trial(range(10), 1)], LABELS) is None
