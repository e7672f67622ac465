"""Trainings of one process after another: who watches them, and what they share."""

from __future__ import annotations

import numpy as np

from jtl.runs.files import read_json
from jtl.train import phase_optimizer
from jtl.train.fit import fit
from jtl.train.observer import Observer
from support import tiny


def test_an_observer_may_end_a_training_after_an_epoch(tiny_data, tmp_path):
    epochs, scored = [], []

    def after_epoch(line):
        epochs.append(line["epoch"])
        return line["epoch"] == 2

    config = tiny.config(tiny_data, tmp_path / "run", mask="last_stage", epochs=4)
    run = fit(config, tiny.quiet(), observer=Observer(after_epoch, scored.append))
    assert epochs == [1, 2]
    assert run.summary["epochs"] == len(run.history) == 2
    # It is finished, and gets the logits that the summary is about.
    [logits] = scored
    labels = np.repeat(np.arange(3), 3)
    assert logits.shape == (9, 3)
    assert (logits.argmax(-1) == labels).mean() == run.summary["val_accuracy"]
    again = fit(tiny.resumed(tmp_path / "run"), tiny.quiet())
    assert again.summary == read_json(tmp_path / "run" / "summary.json")


def test_rates_alone_make_no_other_step(tiny_data, tmp_path):
    def step(**options):
        return tiny.trainer_of(tiny.config(tiny_data, tmp_path / "run", **options)).step

    one, two = step(mask="full", lr=0.05), step(mask="full", lr=0.01, head_lr_mult=3.0)
    assert one == two
    assert hash(one) == hash(two)
    for other in (
        {"mask": "full", "epochs": 3},
        {"mask": "full", "weight_decay": 0.5},
        {"mask": "full", "optimizer": "sgd"},
        {"mask": "full", "schedule": "constant"},
        {"mask": "full", "batch_size": 6},
        {"mask": "last_stage"},
    ):
        assert step(**other) != one, other


def test_a_shared_step_trains_as_one_of_its_own(tiny_data, tmp_path, monkeypatch):
    def losses(name, lr):
        config = tiny.config(tiny_data, tmp_path / name, mask="full", lr=lr)
        return [line["train_loss"] for line in fit(config, tiny.quiet()).history]

    monkeypatch.setattr(phase_optimizer, "_BUILT", {})
    alone = losses("alone", 0.01)
    monkeypatch.setattr(phase_optimizer, "_BUILT", {})
    other = losses("other", 0.05)
    assert losses("shared", 0.01) == alone != other
    assert len(phase_optimizer._BUILT) == 1
