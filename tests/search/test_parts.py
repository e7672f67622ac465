"""The time, the cost of trials, their file, and what is tried."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import psutil
import pytest

from jtl.common.errors import UserError
from jtl.common.quantities import parse_seconds
from jtl.config import walk
from jtl.config.options import Config
from jtl.search import space
from jtl.search.clock import Budget
from jtl.search.cost import EPOCH_OVERHEAD, CostModel, Work
from jtl.search.options import Options
from jtl.search.trials import FILE, Store, Trial
from jtl.train.checks import checked


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1h 30m", 5400), ("1.5m", 90)]
)
def test_times_are_read(text, seconds):
    assert parse_seconds("--budget", text) == seconds


@pytest.mark.parametrize("text", ["", "10", "0s", "m", "-5m", "10m5h", "ten"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="--budget must be a time such as 90s"):
        parse_seconds("--budget", text)


def test_earlier_sessions_and_the_closing_work_count():
    budget = Budget(100.0, lambda: 20.0, before=30.0, closing=10.0)
    assert budget.spent == 50
    assert budget.left == 100 - 50 - 10 - 4 - 3
    assert Budget(10.0, lambda: 20.0).left == 0


def line(epoch: int, elapsed: float, seconds: float = 2.0) -> dict[str, float]:
    return {"epoch": epoch, "elapsed": elapsed, "seconds": seconds}


def test_what_is_measured_is_predicted():
    cost = CostModel(forward_rate=1e9)
    work = Work(features=4e9, epoch=8e9, share=1.0, program="a")
    # Features 4 s, compiling 10 s, epochs of 2 s, 1 s for the rest.
    history = [line(1, 4 + 10 + 2), line(2, 18), line(3, 20)]
    cost.observe(work, history, features=6.0, seconds=21.0)
    assert cost.forward_rate == 1e9  # Without the two seconds of compiling.
    known = Work(features=0, epoch=8e9, share=1.0, program="a")
    assert cost.seconds(known, 5) == pytest.approx(1 + 5 * 2)
    other = Work(features=0, epoch=8e9, share=1.0, program="b")
    assert cost.seconds(other, 5) > cost.seconds(known, 5) + 7
    assert cost.seconds(known, 5, alone=True) == cost.seconds(other, 5)
    half = Work(features=0, epoch=4e9, share=0.5, program="a")
    assert cost.epoch_seconds(half) == pytest.approx(0.9 + EPOCH_OVERHEAD)
    assert cost.epochs_within(known, 1.15 * 7.01, 10) == 3
    assert cost.epochs_within(known, 0.5, 10) == 0
    # Another process's steps are compiled again here, if they tell how fast this machine is.
    elsewhere = CostModel(forward_rate=1e9)
    elsewhere.observe(work, history, features=6.0, seconds=21.0, here=False)
    assert elsewhere.seconds(known, 5) == elsewhere.seconds(other, 5) == cost.seconds(other, 5)


def test_trials_survive_a_line_that_was_being_written(tmp_path):
    store = Store(tmp_path)
    first = store.claim(Trial(0, "full", "plan", {"mask": "full"}))
    assert first is not None
    assert (first.number, first.folder) == (1, "trials/001-full")
    store.write(Trial(0, "big", "plan", {"mask": "big"}, "not begun"))
    with (tmp_path / FILE).open("a") as file:
        file.write('{"number": 2, "na')
    assert [t.name for t in store.read()] == ["full", "big"]
    second = store.claim(Trial(0, "big", "plan", {"mask": "big"}))
    assert second is not None
    assert second.number == 2
    # What was begun after all is listed once.
    assert [(t.number, t.state) for t in store.read()] == [(1, "running"), (2, "running")]
    for text in (tmp_path / FILE).read_text().splitlines():
        json.loads(text)


def test_a_trial_belongs_to_the_process_that_has_begun_it(tmp_path, monkeypatch):
    store, trial = Store(tmp_path), Trial(0, "full", "plan", {"mask": "full"})
    own = store.claim(trial)
    assert own is not None
    # Its own is claimed again by the process itself, as after an interrupt in a notebook.
    assert store.claim(trial) == own
    # Another process that runs has it, but none that has ended.
    there = psutil.Process(os.getppid())
    for started, is_busy in ((there.create_time(), True), (there.create_time() - 60, False)):
        store.write(dataclasses.replace(own, owner=(own.owner[0], there.pid, started)))
        assert (store.claim(trial) is None) == is_busy


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / FILE).write_text("{}\n{}\n")
    with pytest.raises(UserError, match=r"trials.jsonl' is damaged in line 1"):
        Store(tmp_path).read()


def test_logits_come_back(tmp_path):
    store, trial = Store(tmp_path), Trial(3, "full, lr 0.1", "plan", {})
    (tmp_path / trial.folder).mkdir(parents=True)
    logits = np.arange(6, dtype=np.float32).reshape(3, 2)
    store.write_logits(trial, logits)
    assert (store.logits(trial) == logits).all()


def test_all_that_is_tried_can_be_trained():
    choices = space.choices((224, 160), space.HEADS)
    random = np.random.default_rng(0)
    drawn = [{n: v[random.integers(len(v))] for n, v in choices.items()} for _ in range(90)]
    plan = [
        *space.strategies(),
        *space.heads(),
        *space.sizes(space.probe({}), 224, 32),
        space.probe({"solver": "lbfgs"}),
        *space.backbones({"resnet18": space.probe({}), "vgg11": space.probe({})}),
    ]
    assert [(c.options["model"], c.share) for c in plan[-2:]] == [
        ("resnet18", 0.25),
        ("vgg11", 0.25),
    ]
    variations = [space.varied(each, 224) for each in drawn]
    options = [candidate.options for candidate in variations]
    assert {o.get("phases") or o["mask"] for o in options} == set(space.SEARCHED)
    assert {o.get("head") for o in options} == {None, "mlp"}
    for candidate in [*plan, *variations]:
        checked(walk.replace(Config(), candidate.options))


def test_neighbours_differ_from_the_best_in_one_thing():
    choices = space.choices((224,))
    best = space.parameters({"mask": "full", "epochs": 4}, 4, choices)
    assert (best["strategy"], best["epochs"], best["augment"]) == ("full", 3, "crops")
    for other in space.neighbours(best):
        assert sum(other[name] != best[name] for name in best) == 1
        assert all(other[name] in choices[name] for name in choices)


def test_sizes_are_multiples_of_32_that_the_network_takes():
    names = [c.options["image_size"] for c in space.sizes(space.probe({}), 224, 32)]
    assert names == [160, 288]
    assert [c.options["image_size"] for c in space.sizes(space.probe({}), 96, 75)] == [128]
    assert space.sizes(space.probe({}), 32, 32) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["a", "--data", "b"], "two sources are given"),
        (["a", "--no-test", "--test-split", "0.2"], "cannot be combined"),
        (["a", "--cache-views", "2"], "a search chooses it itself"),
        (["a", "--task", "multilabel"], "images with one class each"),
        (["a", "--models", "resnet18,vgg11", "--model", "vgg13"], "both given"),
        (["a", "--models", "resnet18,vgg11", "--weights", "x.pth"], "--weights is for one backb"),
        (["a", "--models", "resnet18,resnet81"], "resnet81"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, message):
    from jtl.cli import app

    options = app.parsed(Options, given, "jtl search")
    with pytest.raises(UserError, match=message):
        options.base()
