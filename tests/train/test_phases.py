"""Phases: their epochs, what they carry over, and going on after being cut off."""

from __future__ import annotations

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.common.errors import UserError
from jtl.freeze.phase_plan import first_phase
from jtl.freeze.phases import Phase, parse
from jtl.optim import optimizers
from jtl.runs.checkpoints import reading
from jtl.runs.run import Run
from jtl.train import dry_run, step
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import prepare_setup
from jtl.train.trainer import Trainer
from support import tiny

pytestmark = pytest.mark.slow

UNITS = tiny.MODEL.units()


@pytest.mark.parametrize(
    ("text", "epochs", "expected"),
    [
        ("lp_ft", 9, [(3, "head_only"), (6, "full")]),
        ("lp_ft", None, [(3, "head_only"), (7, "full")]),
        ("freeze_unfreeze:2", 5, [(2, "head_only"), (3, "full")]),
        ("gradual", 7, [(2, "head_only"), (2, "last_stages:1"), (3, "full")]),
        ("1,head_only,0.5; 2,last_stage", None, [(1, "head_only"), (2, "last_stage")]),
    ],
)
def test_forms(text: str, epochs: int | None, expected: list):
    phases = parse(text, epochs, UNITS)
    assert [(phase.epochs, phase.mask) for phase in phases] == expected
    assert text[0] != "1" or phases[0].lr == 0.5


@pytest.mark.parametrize(
    ("text", "epochs", "message"),
    [
        ("lpft", None, "Did you mean 'lp_ft'?"),
        ("lp_ft", 1, "needs at least 2 epochs"),
        ("gradual", 2, "needs at least 3 epochs"),
        ("freeze_unfreeze:0", None, "EPOCHS must be a whole number, at least 1"),
        ("1,head_only", 5, "leave --epochs out"),
        ("0,head_only", None, "EPOCHS a whole number, at least 1, not '0'"),
        ("1,haed_only", None, "Did you mean 'head_only'?"),
        ("1,head_only,-2", None, "must be a positive number"),
        (
            "1,head_only;2,rules:stage2=train;.*=frozen",
            None,
            "name it, as in 3,head_only;7,rules:my-",
        ),
        ("2,rules:b{1,2}.*=train", None, "write them into a file"),
    ],
)
def test_refusals(text: str, epochs: int | None, message: str):
    with pytest.raises(UserError) as caught:
        parse(text, epochs, UNITS)
    assert message in str(caught.value)


def test_adam_is_carried_over_for_what_goes_on_and_fresh_for_what_joins():
    old_labels = {"head": {"k": "head@0"}, "stage": {"k": "frozen"}}
    new_labels = {"head": {"k": "head@0"}, "stage": {"k": "backbone@1"}}
    adam = optimizers.transform("adam", 1e-2, 0.0)
    first = optimizers.build(old_labels, {"head@0": adam})
    second = optimizers.build(new_labels, {"head@0": adam, "backbone@1": adam})
    params = {"head": {"k": jnp.ones(3)}, "stage": {"k": jnp.ones(2)}}
    grads = {"head": {"k": jnp.arange(3.0)}}
    state = first.init({"head": params["head"]})
    for _ in range(3):
        _, state = first.update(grads, state, {"head": params["head"]})
    carried = optimizers.carry(state, second.init(params), first_phase)

    # As if the head had had an optimizer of its own all along, and the stage a new one now.
    alone = optax.adam(1e-2)
    alone_state = alone.init(params["head"])
    for _ in range(3):
        _, alone_state = alone.update(grads["head"], alone_state)
    both = {"head": {"k": jnp.arange(3.0)}, "stage": {"k": jnp.asarray([2.0, -3.0])}}
    updates, _ = second.update(both, carried, params)
    expected, _ = alone.update(both["head"], alone_state)
    np.testing.assert_array_equal(updates["head"]["k"], expected["k"])
    fresh, _ = alone.update(both["stage"], alone.init(params["stage"]))
    np.testing.assert_array_equal(updates["stage"]["k"], fresh["k"])


def phased(data, folder, **train):
    config = tiny.config(
        data, folder, epochs=None, phases="2,head_only;2,last_stage;1,full", **train
    )
    return dataclasses.replace(config, train=dataclasses.replace(config.train, mask="head_only"))


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory) -> Run:
    return fit(phased(tiny_data, tmp_path_factory.mktemp("phases") / "run"), tiny.quiet())


def test_a_run_goes_through_its_phases(whole: Run):
    assert [line["mask"] for line in whole.history] == [
        *["head_only"] * 2,
        *["last_stage"] * 2,
        "full",
    ]
    assert [line["cut"] for line in whole.history] == ["head"] * 2 + ["stage2/block1"] * 2 + [
        "stem"
    ]
    assert [line["cached_prefix"] for line in whole.history] == [True] * 4 + [False]
    assert [p["mask"] for p in whole.summary["phases"]] == ["head_only", "last_stage", "full"]
    assert whole.summary["frozen_unchanged"] is True


def test_every_phase_compiles_its_step_once(tiny_data, tmp_path):
    # Distinct from every other run's steps by the batch size.
    before = step.train_step._cache_size(), step.train_epoch._cache_size()
    fit(phased(tiny_data, tmp_path / "run", batch_size=5), tiny.quiet())
    after = step.train_step._cache_size(), step.train_epoch._cache_size()
    # Features at the head go through whole epochs in one dispatch; the other two step by step.
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)


@pytest.mark.parametrize("died_after", [1, 2, 3, 4])
def test_a_resumed_run_ends_as_the_whole_one(whole, tiny_data, tmp_path, monkeypatch, died_after):
    """Cut off after an epoch: in a phase, and just at the boundary; nothing is written after."""
    folder = tmp_path / "run"
    tiny.fit_until(died_after, phased(tiny_data, folder), monkeypatch)
    assert not (folder / "summary.json").exists()
    config = phased(tiny_data, folder)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, resume="auto"))
    resumed = fit(config, tiny.quiet())
    ignored = ("seconds", "images_per_second", "elapsed")
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert {k: v for k, v in ours.items() if k not in ignored} == {
            k: v for k, v in theirs.items() if k not in ignored
        }
    end, expected = (reading.restore(run.folder, "latest").variables for run in (resumed, whole))
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), end, expected)
    assert all(jax.tree.leaves(same))


def test_resuming_is_refused_where_it_would_be_wrong(whole, tiny_data, tmp_path):
    def resume(folder):
        config = phased(tiny_data, folder)
        run = dataclasses.replace(config.run, resume="must")
        return fit(dataclasses.replace(config, run=run), tiny.quiet())

    assert resume(whole.folder).summary == whole.summary
    with pytest.raises(UserError, match="is not a run"):
        resume(tmp_path / "nothing")
    copy = tmp_path / "copy"
    shutil.copytree(whole.folder, copy)
    (copy / "summary.json").unlink()
    stored = (copy / "config.json").read_text()
    (copy / "config.json").write_text(stored.replace('"ash"', '"oak"', 1))
    with pytest.raises(UserError, match=r"its data or weights have changed.\n  class_names"):
        resume(copy)


def test_l2_sp_pulls_towards_the_start():
    start = {"w": np.asarray([1.0, 2.0], np.float32), "frozen": np.zeros(3, np.float32)}
    tx = optimizers.l2_sp(0.5, start)
    now = {"w": jnp.asarray([3.0, 2.0])}
    # However far the params are when the optimizer begins.
    grads, _ = tx.update({"w": jnp.asarray([0.1, 0.1])}, tx.init(now), now)
    np.testing.assert_allclose(grads["w"], [0.1 + 0.5 * 2.0, 0.1])


def test_a_dry_run_counts_and_writes_nothing(tiny_data, tmp_path):
    config = checked(phased(tiny_data, tmp_path / "never"))
    setup = prepare_setup(config, tiny.quiet())
    figures = dry_run.dry_run(setup)
    keys = ["total_params", "trainable_params", "frozen_params", "optimizer_bytes", "cut", "groups"]
    assert set(keys) <= set(figures)
    assert not (tmp_path / "never").exists()
    assert [p["mask"] for p in figures["phases"]] == ["head_only", "last_stage", "full"]
    for phase in figures["phases"]:
        assert phase["trainable_params"] + phase["frozen_params"] == phase["total_params"]
        trained = [g for g in phase["groups"] if g["label"] != "frozen"]
        assert sum(g["params"] for g in trained) == phase["trainable_params"]
    first, second, third = figures["phases"]
    # Adam's two moments and a count for each group, float32 and int32.
    assert first["optimizer_bytes"] == 8 * first["trainable_params"] + 8
    assert first["step_flops"] < second["step_flops"] < third["step_flops"]
    assert first["cache_bytes"] > 0
    assert third["cache_bytes"] == 0
    assert {g["bn"] for g in third["groups"] if g["label"].startswith("backbone")} == {
        "running averages"
    }


def test_phase_defaults_come_from_their_masks(tiny_data, tmp_path):
    setup = prepare_setup(checked(phased(tiny_data, tmp_path / "x", lr=None)), tiny.quiet())
    assert [plan.phase.lr for plan in setup.plans] == [1e-3, 3e-4, 1e-4]
    assert setup.plans[1].learning_rates == pytest.approx({"head@0": 3e-3, "backbone@1": 3e-4})
    assert setup.plans[2].learning_rates == pytest.approx(
        {"head@0": 1e-3, "backbone@1": 1e-4, "backbone@2": 1e-4}
    )
    assert Phase(2, "last_stage", 3e-4) == setup.plans[1].phase


def test_l2_sp_remembers_the_weights_as_loaded(tiny_data, tmp_path):
    """Also for a stage that trains, is frozen, and trains again."""
    config = tiny.config(
        tiny_data, None, epochs=None, l2_sp=0.5, phases="1,last_stage;1,head_only;1,last_stage"
    )
    setup = prepare_setup(checked(config), tiny.quiet())
    moved = jax.tree.map(lambda leaf: leaf + 1, setup.variables)
    trainer = Trainer(setup, setup.plans[2], tiny.image_inputs(setup), moved)
    kernel = setup.variables["params"]["stage2"]["block1"]["conv"]["kernel"]
    slots = [x for x in jax.tree.leaves(trainer.state.opt_state) if x.shape == kernel.shape]
    # Adam's two moments, and the starting point.
    assert len(slots) == 3
    assert sum(np.array_equal(slot, kernel) for slot in slots) == 1
