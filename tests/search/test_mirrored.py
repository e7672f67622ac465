"""What a search measures of the winner with each image's mirror image."""

from __future__ import annotations

import types

import numpy as np
import pytest

import jtl
from jtl.evaluate.evaluation import evaluate_run
from jtl.search import mirrored, selection
from jtl.search.clock import Budget
from support import tiny


def test_what_is_measured_is_what_evaluating_gives(tiny_run):
    classifier = jtl.load(tiny_run.folder)
    plain = evaluate_run(classifier, None, tiny.quiet())
    averaged = evaluate_run(classifier.with_tta("flip"), None, tiny.quiet())
    labels = plain.images.labels
    engine = types.SimpleNamespace(
        folder=tiny_run.folder.parent,
        store=types.SimpleNamespace(logits=lambda trial: plain.logits),
        budget=Budget(100.0, lambda: 0.0),
        cost=types.SimpleNamespace(forward_rate=1e9),
        base=tiny_run.config,
        labels=labels,
        log=tiny.quiet(),
    )
    winner = types.SimpleNamespace(folder=tiny_run.folder.name)
    found = mirrored.measure(engine, winner)
    assert found is not None
    before = plain.scores["val_accuracy"]
    assert found["val_metric"] == averaged.scores["val_accuracy"]
    assert found["difference"] == pytest.approx(found["val_metric"] - before)
    error = selection.paired_error("accuracy", averaged.logits, plain.logits, labels)
    assert found["standard_error"] == error
    assert found["kept"] == (found["difference"] > error)
    # Where all become right, it gains; the test of a difference is another one's.
    engine.store = types.SimpleNamespace(logits=lambda trial: -9 * np.eye(3)[labels])
    assert mirrored.measure(engine, winner)["kept"]
    # Two passes over the images must fit, and what is reserved stays.
    engine.cost.forward_rate = 1.0
    assert mirrored.measure(engine, winner) is None
    engine.cost.forward_rate = 1e9
    engine.budget = Budget(100.0, lambda: 0.0, closing=95.0)
    assert mirrored.measure(engine, winner) is None
