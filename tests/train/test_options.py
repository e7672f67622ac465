"""Options of training in whole runs: what they change, what is kept, and going on after a kill."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.config.options import Config, StepsConfig, TrainConfig
from jtl.evaluate.evaluation import evaluate_run
from jtl.predict import classifier
from jtl.runs.checkpoints import reading
from jtl.train import trainer
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import prepare_setup
from support import tiny

pytestmark = pytest.mark.slow

TIMES = ("seconds", "images_per_second", "elapsed")


def configured(data, folder, steps=None, **train) -> Config:
    config = tiny.config(data, folder, **train)
    return dataclasses.replace(config, steps=StepsConfig(**(steps or {})))


def latest(run) -> list[np.ndarray]:
    return jax.tree.leaves(reading.restore(run.folder, "latest").variables)


def same(left, right) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(left, right, strict=True))


EVERYTHING = dict(
    steps=dict(ema=0.9, accumulate=2, clip_norm=0.5, label_smoothing=0.1, warmup=0.2),
    optimizer="lion",
    lr=1e-3,
    weight_decay=0.1,
    layer_decay=0.8,
    epochs=None,
)
# Options, and the epochs after which the run is cut off: of four.
RESUMED = {
    "all at once, at a phase's end and in it": (
        dict(EVERYTHING, schedule="one_cycle", phases="2,head_only;2,last_stage"),
        (2, 3),
    ),
    "plateau": (
        dict(steps=dict(plateau_patience=1), schedule="plateau", epochs=4, mask="full"),
        (2,),
    ),
    "sgd in steps": (
        dict(steps=dict(momentum=0.8), optimizer="sgd", schedule="step", epochs=4),
        (1,),
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_resumed_runs_end_as_the_whole_one(tiny_data, tmp_path, monkeypatch, name):
    options, epochs = RESUMED[name]
    whole = fit(configured(tiny_data, tmp_path / "whole", **options), tiny.quiet())
    assert len(whole.history) == 4
    for epoch in epochs:
        folder = tmp_path / str(epoch)
        tiny.fit_until(epoch, configured(tiny_data, folder, **options), monkeypatch)
        resumed = fit(tiny.resumed(folder), tiny.quiet())
        assert same(latest(resumed), latest(whole)), epoch
        for ours, theirs in zip(resumed.history, whole.history, strict=True):
            assert {k: v for k, v in ours.items() if k not in TIMES} == {
                k: v for k, v in theirs.items() if k not in TIMES
            }


@pytest.mark.parametrize(
    "change",
    [
        {"steps": {"label_smoothing": 0.2}},
        {"steps": {"clip_norm": 1e-3}},
        {"steps": {"accumulate": 2}},
        {"steps": {"ema": 0.5}},
        {"steps": {"warmup": 0.5}},
        {"optimizer": "lion"},
        {"weight_decay": 0.5},
        {"schedule": "one_cycle"},
    ],
    ids=str,
)
def test_every_option_reaches_cached_heads(tiny_run, tiny_data, tmp_path, change):
    run = fit(configured(tiny_data, tmp_path / "run", **change), tiny.quiet())
    assert run.summary["cached_prefix"] is True
    assert run.summary["frozen_unchanged"] is True
    assert not same(latest(run), latest(tiny_run))
    # What is saved is what was evaluated, averages too.
    scores = evaluate_run(classifier.load(run.folder), None, tiny.quiet()).scores
    assert scores["val_loss"] == run.summary["val_loss"]


def test_the_average_is_evaluated_and_the_last_step_goes_on(tiny_data, tmp_path):
    """With a decay of nearly 1 the average lags; without it, training is the same."""
    runs = [
        fit(
            configured(tiny_data, tmp_path / str(ema), steps={"ema": ema}, mask="full", epochs=3),
            tiny.quiet(),
        )
        for ema in (0.0, 0.99)
    ]
    plain, averaged = ([line["train_loss"] for line in run.history] for run in runs)
    assert plain == pytest.approx(averaged, rel=1e-5)  # Two programs may round differently.
    assert [line["val_loss"] for line in runs[0].history] != [
        line["val_loss"] for line in runs[1].history
    ]


def test_bfloat16_trains_float32_params(tiny_data, tmp_path):
    config = configured(tiny_data, tmp_path / "run", {"ema": 0.9}, mask="full", lr=1e-3)
    half = dataclasses.replace(config.model, dtype="bfloat16")
    run = fit(dataclasses.replace(config, model=half), tiny.quiet())
    elsewhere = dataclasses.replace(config.run, run_dir=tmp_path / "full")
    full = fit(dataclasses.replace(config, run=elsewhere), tiny.quiet())
    assert {leaf.dtype for leaf in latest(run)} == {np.dtype(np.float32)}
    assert not same(latest(run), latest(full))
    # 8 bits of mantissa: losses agree to a few percent.
    assert run.summary["val_loss"] == pytest.approx(full.summary["val_loss"], rel=0.1)


def test_the_rate_falls_on_a_plateau(tiny_data, tmp_path, monkeypatch):
    losses = iter([1.0, 0.9, 0.9, 0.9, 0.9, 0.9])
    monkeypatch.setattr(
        trainer.Trainer, "evaluate", lambda _: ({"accuracy": 0.5, "loss": next(losses)}, None)
    )
    steps = dict(plateau_patience=2, decay_rate=0.5)
    options = dict(schedule="plateau", epochs=6, lr=0.04)
    run = fit(configured(tiny_data, tmp_path / "run", steps, **options), tiny.quiet())
    rates = [line["learning_rate"] for line in run.history]
    assert rates == pytest.approx([0.04] * 4 + [0.02] * 2)


@pytest.mark.parametrize(("min_delta", "epochs"), [(0.0, 6), (0.05, 4), (0.3, 3)])
def test_a_gain_below_the_minimum_is_none(tiny_data, tmp_path, monkeypatch, min_delta, epochs):
    accuracies = iter([0.1, 0.3, 0.32, 0.34, 0.36, 0.38])
    monkeypatch.setattr(
        trainer.Trainer, "evaluate", lambda _: ({"accuracy": next(accuracies), "loss": 1.0}, None)
    )
    options = dict(patience=2, min_delta=min_delta, epochs=6)
    run = fit(configured(tiny_data, tmp_path / "run", **options), tiny.quiet())
    # The last epoch is the best one all the same.
    assert (run.summary["epochs"], run.summary["best_epoch"]) == (epochs, epochs)


def test_a_loss_that_is_not_finite_tells_its_step(tiny_data, tmp_path, monkeypatch):
    """Four steps in an epoch; the params are spoilt before the second step of the third."""
    spoilt = trainer.steps.train_step
    # A program, as steps may bring no value from the host.
    spoil = jax.jit(lambda params: jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params))
    calls = 0

    def step(state, *args, **options):
        nonlocal calls
        calls += 1
        if calls == 10:
            state = dataclasses.replace(state, params=spoil(state.params))
        return spoilt(state, *args, **options)

    monkeypatch.setattr(trainer.steps, "train_step", step)
    folder = tmp_path / "run"
    with pytest.raises(UserError) as raised:
        fit(configured(tiny_data, folder, mask="full", epochs=4), tiny.quiet())
    told = str(raised.value)
    assert "NaN or infinite in step 10 (epoch 3, step 2 of 4 in it)" in told
    assert "--lr" in told
    kept = reading.restore(folder, "latest")
    assert f"epoch {kept.epoch}, is saved" in told
    assert 1 <= kept.epoch <= 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.variables))


REFUSED = [
    ({"momentum": 1.0}, {"optimizer": "sgd"}, "--momentum must be at least 0 and below 1, not 1.0"),
    ({"momentum": 0.5}, {}, "--momentum: no effect without --optimizer sgd"),
    ({"warmup": 1.0}, {}, "--warmup must be at least 0 and below 1"),
    ({"decay_at": (0.5, 1.0)}, {"schedule": "step"}, "--decay-at takes fractions"),
    ({"decay_at": ()}, {"schedule": "step"}, "--decay-at needs at least one fraction"),
    ({}, {"l2_sp": 0.1}, "--l2-sp: no effect with --mask head_only"),
    ({}, {"layer_decay": 0.7}, "--layer-decay: no effect with --mask head_only"),
    ({"decay_at": (0.5,)}, {}, "--decay-at: no effect without --schedule step"),
    ({"decay_rate": 1.0}, {"schedule": "step"}, "--decay-rate must be above 0 and below 1"),
    ({"decay_rate": 0.5}, {}, "--decay-rate: no effect without --schedule step or plateau"),
    ({"plateau_patience": 0}, {}, "--plateau-patience must be at least 1"),
    ({"plateau_patience": 3}, {}, "--plateau-patience: no effect without --schedule plateau"),
    ({"clip_norm": -1.0}, {}, "--clip-norm must be at least 0"),
    ({"clip_norm": float("nan")}, {}, "--clip-norm must be at least 0"),
    ({"accumulate": 0}, {}, "--accumulate must be at least 1"),
    ({"label_smoothing": 1.0}, {}, "--label-smoothing must be at least 0 and below 1"),
    ({"ema": 1.0}, {}, "--ema must be at least 0 and below 1"),
    ({"ema": 0.9}, {"solver": "lbfgs"}, "--ema: no effect with --solver lbfgs"),
    ({}, {"min_delta": 0.1}, "--min-delta: no effect without --patience"),
    ({}, {"min_delta": -0.1, "patience": 1}, "--min-delta must be at least 0"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "train", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals(steps, train, message):
    with pytest.raises(UserError) as raised:
        checked(Config(train=TrainConfig(**train), steps=StepsConfig(**steps)))
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("steps", "train", "message"),
    [
        ({"accumulate": 5}, {}, "needs 20 images per update, but there are only 18"),
        ({}, {"schedule": "plateau", "epochs": 10}, "waits 10 epochs .* would never fall"),
    ],
)
def test_what_the_data_do_not_allow(tiny_data, tmp_path, steps, train, message):
    with pytest.raises(UserError, match=message):
        fit(configured(tiny_data, tmp_path / "run", steps, **train), tiny.quiet())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["frozen", "train"])
def test_a_mode_for_batch_norm_needs_one(tiny_data, tmp_path, mode):
    config = tiny.config(tiny_data, tmp_path / "run", weights="random", bn=mode)
    without = dataclasses.replace(config.model, model="squeezenet1_1")
    with pytest.raises(UserError, match=f"--bn {mode} has no effect: neither squeezenet1_1 nor"):
        prepare_setup(dataclasses.replace(config, model=without), tiny.quiet())
    normalized = dataclasses.replace(without, head="bn")
    setup = prepare_setup(dataclasses.replace(config, model=normalized), tiny.quiet())
    assert ("head" in setup.plans[0].cut.stats_units) is True
