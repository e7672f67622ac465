"""Which trials are begun, how long, and what becomes of them: by a clock that tests set."""

from __future__ import annotations

import io
import types
from typing import Any

import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.common.progress import Display, PlainConsole
from jtl.common.signals import Interrupted
from jtl.config.options import Config
from jtl.search import space, trial_loop
from jtl.search.clock import Budget
from jtl.search.cost import CostModel, Work
from jtl.search.space import Candidate
from jtl.search.trial_loop import Engine
from jtl.search.trials import Store

LABELS = np.array([0, 1] * 20, np.int32)
ACCURACY = {"head_only": 0.6, "last_stage": 0.7, "last_stages:2": 0.8, "full": 0.9}


class Clock:
    """Seconds that only trainings let pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Work1(CostModel):
    """Every epoch of `full` takes 10 s, others 1 s, everything else 1 s."""

    def epoch_seconds(self, work: Work) -> float:
        return work.epoch

    def _fixed(self, work: Work, *, alone: bool = False) -> float:
        return 1.0


class Counted:
    def of(self, options: dict[str, Any], *, alone: bool = False) -> tuple[Work, int]:
        mask = options.get("mask", "lp_ft")
        if mask == "head_only":
            return Work(0, 0), 0
        return Work(0, 10.0 if mask == "full" else 1.0), options.get("epochs", 10)

    def trained(self, options: dict[str, Any]) -> None:
        pass


class Trained:
    """Trains nothing: the clock goes on, `slower` times as fast as predicted."""

    def __init__(self, clock: Clock):
        self.clock, self.slower = clock, 1.0
        self.begun: list[tuple[str, int | None]] = []
        self.fail: dict[str, BaseException] = {}

    def __call__(self, config: Config, display: Any, *, background_plots: bool, observer: Any):
        mask, folder = config.train.phases or config.train.mask, config.run.run_dir
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        self.begun.append((mask, config.train.epochs))
        self.clock.now += 1.0
        if mask in self.fail:
            raise self.fail.pop(mask)
        work, epochs = Counted().of({"mask": mask, "epochs": config.train.epochs or 10})
        history = []
        for epoch in range(1, max(epochs, 1) + 1):
            self.clock.now += self.slower * work.epoch
            line = {
                "epoch": epoch,
                "val_accuracy": ACCURACY.get(mask, 0.5),
                "val_loss": 1.0 / epoch,
            }
            history.append({**line, "seconds": work.epoch, "elapsed": self.clock.now})
            if observer.after_epoch(history[-1]):
                break
        logits = np.zeros((len(LABELS), 2), np.float32)
        right = round(ACCURACY.get(mask, 0.5) * len(LABELS))
        logits[np.arange(len(LABELS)), np.where(np.arange(40) < right, LABELS, 1 - LABELS)] = 1
        observer.scored(logits)
        assert (observer.tests, observer.probes) == (False, False)
        summary = {"solver": "sgd" if epochs else "lbfgs", "feature_seconds": 0.0}
        return types.SimpleNamespace(history=history, summary=summary)


@pytest.fixture
def engine(tmp_path):
    clock = Clock()
    return Engine(
        folder=tmp_path,
        base=Config(),
        budget=Budget(100.0, clock),
        store=Store(tmp_path),
        workload=Counted(),
        cost=Work1(),
        labels=LABELS,
        display=Display(PlainConsole(file=io.StringIO(), width=200)),
        log=Display(PlainConsole(quiet=True)),
        train=Trained(clock),
    )


def plan(engine: Engine) -> list[tuple[str, str, int]]:
    engine.run([space.probe({})])
    engine.run(space.strategies())
    return [(t.name, t.state, t.epochs) for t in engine.store.read()]


def test_the_plan_is_trained_with_the_epochs_that_fit(engine):
    assert plan(engine) == [
        ("head_only", "done", 0),
        ("last_stage", "done", 10),
        ("last_stages:2", "done", 10),
        # 100 s without the reserve of 6 s and 23 s of the others; 90 % of that, with a margin.
        ("full", "done", 5),
    ]
    assert engine.train.begun[-1] == ("full", 5)
    assert engine.budget.spent <= 100
    done = engine.store.read()[-1]
    assert (done.metric, done.seconds, done.predicted) == (0.9, 51.0, 51.0)
    assert done.interval == pytest.approx((0.769, 0.960), abs=1e-3)


def test_what_is_predicted_to_be_too_slow_is_not_begun(engine):
    engine.budget.total = 20.0
    assert plan(engine)[0] == ("head_only", "done", 0)
    assert ("full", "not begun", 0) in plan(engine)
    assert "full" not in [mask for mask, _ in engine.train.begun]
    row = engine.store.read()[-1]
    assert row.message.startswith("predicted to take up to 24 s for 2 epochs, when there were ")
    assert engine.budget.spent <= 20


def test_the_rest_of_the_time_is_for_what_would_have_left_too_little(engine, monkeypatch):
    monkeypatch.setattr(space, "STRATEGIES", ("full",))
    engine.budget.total = 31.0
    assert plan(engine)[-1] == ("full", "not begun", 0)
    engine.run(space.strategies(whole=True))
    rows = [(t.name, t.state, t.epochs) for t in engine.store.read()]
    assert rows == [("head_only", "done", 0), ("full", "done", 2)]
    assert engine.budget.spent <= 31


def test_the_probe_is_there_however_short_the_time(engine):
    engine.budget.total = 0.5
    assert plan(engine)[0] == ("head_only", "done", 0)


def test_a_trial_that_overruns_ends_after_an_epoch(engine):
    engine.run([space.probe({}), *space.strategies()[:-1]])
    engine.train.slower = 3.0
    assert plan(engine)[-1] == ("full", "stopped", 2)  # Of 5.
    # Of one more epoch of 30 s there would have been no end in time.
    assert engine.budget.spent <= 100 + 10


def test_on_a_machine_that_becomes_slow_less_is_begun(engine):
    engine.train.slower = 3.0
    assert plan(engine)[-1][:2] == ("full", "not begun")
    assert engine.budget.spent <= 100


def test_a_failure_is_a_row_and_not_the_end(engine):
    engine.train.fail = {
        "last_stage": UserError("the loss became NaN"),
        "last_stages:2": RuntimeError("RESOURCE_EXHAUSTED: Out of memory while allocating"),
    }
    states = {name: state for name, state, _ in plan(engine)}
    assert states["last_stage"] == states["last_stages:2"] == "failed"
    assert states["full"] == "done"
    messages = [t.message for t in engine.store.read() if t.state == "failed"]
    assert messages[0] == "the loss became NaN"
    assert "memory" in messages[1]


def test_an_interrupted_trial_goes_on_and_finished_ones_are_not_repeated(engine):
    engine.train.fail = {"last_stages:2": KeyboardInterrupt()}
    with pytest.raises(Interrupted, match=r"Stopped in trial 3.*\n  jtl search --resume --out"):
        plan(engine)
    assert [t.state for t in engine.store.read()] == ["done", "done", "running"]
    engine.train.begun.clear()
    engine.run([space.probe({})])
    engine.resume()
    engine.run(space.strategies())
    assert [mask for mask, _ in engine.train.begun] == ["last_stages:2", "full"]
    assert [t.state for t in engine.store.read()] == ["done"] * 4


def test_what_another_process_trains_is_left_to_it(engine, monkeypatch):
    engine.train.fail = {"last_stage": KeyboardInterrupt()}
    with pytest.raises(Interrupted):
        plan(engine)
    monkeypatch.setattr("jtl.search.trials.is_written_by_another", lambda folder: True)
    engine.train.begun.clear()
    engine.resume()
    engine.run(space.strategies())
    assert [mask for mask, _ in engine.train.begun] == ["last_stages:2", "full"]


@pytest.mark.parametrize(
    ("budget", "first"),
    # Half of its ten epochs take 51 s, all of them 101 s, the two others 22 s.
    [(50.0, "last_stage"), (100.0, "full"), (160.0, "full"), (300.0, "last_stage")],
)
def test_the_whole_network_comes_first_where_it_would_not_fit_later(engine, budget, first):
    engine.budget.total = budget
    plan = space.strategies()
    ordered = engine.largest_first(plan)
    assert ordered[0].name == first
    assert sorted(c.name for c in ordered) == sorted(c.name for c in plan)


def test_what_other_processes_train_is_waited_for(engine, monkeypatch):
    monkeypatch.setattr(trial_loop, "_IDLE_SECONDS", 0.01)
    asked = []

    def busy(names=None):
        asked.append(names)
        if len(asked) == 3 and names is None:  # It has ended, and another one is begun.
            plan(engine)
        return len(asked) < 5

    monkeypatch.setattr(engine.store, "busy", busy)
    monkeypatch.setattr(trial_loop, "_POLL_SECONDS", 0.001)
    engine.settle([Candidate("full", "plan", {})])
    assert asked == [{"full"}] * 5
    asked.clear()
    assert engine.others_finish(0)
    assert len(asked) == 3
    assert not engine.others_finish(4)
    assert len(asked) > 4
    engine.budget.total = engine.budget.spent  # The time is over.
    asked.clear()
    engine.settle([Candidate("full", "plan", {})])
    assert not engine.others_finish(0)
    assert len(asked) == 1


@pytest.fixture
def sampler(engine):
    pytest.importorskip("optuna", reason="Optuna is not installed (pip install 'jtl[search]')")
    from jtl.search.sampling import Sampler

    return lambda sizes=(224,): Sampler(engine.folder, 0, sizes)


def test_variations_fill_the_time_next_to_the_best_first(engine, sampler):
    engine.budget.total = 280.0
    plan(engine)
    drawn = sampler()
    drawn.take([t for t in engine.store.read() if t.stage == "plan"])
    engine.vary(drawn)
    rows = [t for t in engine.store.read() if t.number > 4]
    assert rows[0].options == {"mask": "full", "epochs": 10, "augment": "light"}
    assert all(t.stage == "search" for t in rows)
    assert {"done", "pruned"} >= {t.state for t in rows}
    assert 200 < engine.budget.spent <= 280
    assert len({str(t.options) for t in rows}) == len(rows)

    # Another session knows them, and draws others.
    again = sampler()
    engine.budget.total = 340.0
    engine.vary(again)
    more = [t for t in engine.store.read() if t.number > 4]
    assert more[: len(rows)] == rows
    assert len({str(t.options) for t in more}) == len(more) > len(rows)


def test_a_study_keeps_its_sizes_and_takes_each_trial_of_the_plan_once(engine, sampler):
    plan(engine)
    rows = [t for t in engine.store.read() if t.stage == "plan"]
    first = sampler((224, 160))
    first.take(rows[:2])
    told = [t for t in first._study.trials if t.value is not None]
    assert [t.value for t in told] == [0.7, 0.8]
    # Another process, which began when no other size was better, and ends its trial later.
    second = sampler((224,))
    second.take(rows[:2])
    second.take(rows)
    told = [t for t in second._study.trials if t.value is not None]
    assert [t.value for t in told] == [0.7, 0.8, 0.9]
    assert {"160"} <= {str(second.ask()[0].options.get("image_size")) for _ in range(30)}


def test_variations_that_cannot_be_are_left_out(engine, sampler, monkeypatch):
    def of(options: dict[str, Any]) -> tuple[Work, int]:
        if options.get("phases") == "gradual" or options.get("epochs", 10) < 5:
            raise UserError("gradual needs at least 8 epochs, one per phase")
        return Counted().of(options)

    plan(engine)
    engine.budget.total = 300.0
    monkeypatch.setattr(engine.workload, "of", of)
    engine.vary(sampler())
    varied = [t for t in engine.store.read() if t.stage == "search"]
    assert varied
    assert all(t.options["epochs"] >= 5 and "gradual" not in t.name for t in varied)


def test_an_interrupted_variation_goes_on(engine, sampler):
    engine.budget.total = 400.0
    plan(engine)
    drawn = sampler()
    drawn.take([t for t in engine.store.read() if t.stage == "plan"])
    engine.train.fail = {"full": KeyboardInterrupt()}
    with pytest.raises(Interrupted):
        engine.vary(drawn)
    [row] = [t for t in engine.store.read() if t.state == "running"]
    engine.budget.total = engine.budget.spent + 120 + 40
    engine.vary(sampler())
    found = {t.number: t for t in engine.store.read()}
    assert found[row.number].state == "done"
    assert found[row.number].options == row.options
    study = sampler()._study
    assert study.trials[row.sampled].value == 0.9
