"""Scores and thresholds of images with several labels."""

from __future__ import annotations

import json
import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn import metrics as reference

from jtl.models.inference import score
from jtl.runs import metrics, multilabel


def drawn(count: int = 120, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(classes)
    labels = (random.random((count, classes)) < np.linspace(0.05, 0.6, classes)).astype(np.uint8)
    logits = random.normal(0, 1.5, (count, classes)) + 1.5 * labels - 0.5
    return np.round(logits, 1).astype(np.float32), labels  # With ties.


def test_the_metrics_are_those_of_scikit_learn():
    logits, labels = drawn()
    picked = logits > 0
    expected = {
        "map": reference.average_precision_score(labels, logits, average="macro"),
        "macro_f1": reference.f1_score(labels, picked, average="macro"),
        "micro_f1": reference.f1_score(labels, picked, average="micro"),
        "accuracy": reference.accuracy_score(labels, picked),
        "loss": -float(optax.sigmoid_binary_cross_entropy(logits, labels).mean()),
    }
    for metric, value in expected.items():
        found = metrics.measure(metric, logits, labels)  # pyright: ignore[reportArgumentType]
        assert found == pytest.approx(value, abs=1e-6), metric
    table = multilabel.by_class(logits, labels, "abcde")
    each = reference.average_precision_score(labels, logits, average=None)
    assert [row["average_precision"] for row in table.values()] == pytest.approx(list(each))
    recall = reference.recall_score(labels, picked, average=None)
    assert [row["accuracy"] for row in table.values()] == pytest.approx(list(recall))


def test_a_class_without_images_does_not_count():
    logits, labels = drawn()
    labels[:, 0] = 0
    kept = reference.average_precision_score(labels[:, 1:], logits[:, 1:], average="macro")
    assert metrics.measure("map", logits, labels) == pytest.approx(kept)
    assert multilabel.by_class(logits, labels, "abcde")["a"]["average_precision"] is None
    assert multilabel.fit_thresholds(logits, labels)[0] == 0.5


def test_no_other_threshold_has_a_higher_f1():
    logits, labels = drawn()
    fitted = multilabel.fit_thresholds(logits, labels)
    shares = multilabel.sigmoid(logits)
    found = multilabel.by_class(logits, labels, "abcde", fitted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for k, row in enumerate(found.values()):
            others = [
                reference.f1_score(labels[:, k], shares[:, k] > at)
                for at in np.unique([0, *shares[:, k]])
            ]
            assert row["f1"] == pytest.approx(max(others))
            assert 0 < fitted[k] < 1
    assert any(abs(at - 0.5) > 0.01 for at in fitted)


@pytest.mark.parametrize(
    ("shares", "labels", "expected"),
    [
        ((0.9, 0.7, 0.2, 0.1), (1, 1, 0, 0), 0.5),  # As good as any.
        ((0.9, 0.8, 0.7, 0.6), (1, 1, 0, 0), 0.75),
        ((0.4, 0.3, 0.2, 0.1), (1, 1, 0, 0), 0.25),
        ((0.8, 0.8, 0.2, 0.2), (1, 0, 1, 0), 0.1),  # All of them: 2/3; the upper two: 1/2.
        ((0.3, 0.3, 0.3, 0.3), (1, 0, 0, 0), 0.15),
    ],
)
def test_thresholds(shares, labels, expected: float):
    logits = np.log(np.array(shares) / (1 - np.array(shares)))[:, None]
    [found] = multilabel.fit_thresholds(logits, np.array(labels)[:, None])
    assert found == pytest.approx(expected, abs=1e-6)


def test_extreme_logits_have_probabilities():
    logits = np.array([[-1e4, 1e4, 0]], np.float32)
    np.testing.assert_allclose(multilabel.sigmoid(logits), [[0, 1, 0.5]], atol=1e-30)


def test_padding_does_not_count():
    logits, labels = drawn(6)
    padded = labels.astype(np.int32)
    padded[4:] = -1
    sums = score(jnp.asarray(logits), jnp.asarray(padded)).means()
    assert sums["loss"] == pytest.approx(-metrics.measure("loss", logits[:4], labels[:4]), rel=1e-6)
    assert sums["accuracy"] == metrics.measure("accuracy", logits[:4], labels[:4])


def test_a_threshold_between_neighbours_of_float32_takes_the_higher_one():
    logits = np.linspace(-1.001, -1, 4001, dtype=np.float32)
    shares = multilabel.sigmoid(logits)
    middles = (shares[:-1].astype(np.float64) + shares[1:]) / 2
    # Rounded to float32, the middle of these two would be the higher one.
    neighbours = np.nextafter(shares[:-1], np.float32(1)) == shares[1:]
    row = np.flatnonzero(neighbours & (middles.astype(np.float32) == shares[1:]))[0]
    pair = logits[row : row + 2, None]
    thresholds = multilabel.fit_thresholds(pair, np.array([[0], [1]]))
    np.testing.assert_array_equal(multilabel.chosen(pair, thresholds)[:, 0], [False, True])


def test_what_is_not_defined_is_null_in_json():
    logits, none = np.zeros((3, 2), np.float32), np.zeros((3, 2), np.uint8)
    told = multilabel.scores("test", logits, none, ("a", "b"), None)
    assert told["test_map"] is None
    json.dumps(told, allow_nan=False)
