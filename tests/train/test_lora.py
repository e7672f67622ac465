"""Trainings with adapters: what they save, how they go on, and the plain network they end as."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths, lookup
from jtl.config.training import StepsConfig
from jtl.evaluate.evaluation import evaluate_run
from jtl.freeze.lora import A, B
from jtl.models import ModelEntry, Unit, registry
from jtl.models.chain import unit
from jtl.models.layers.blocks import BatchNorm, Conv, relu
from jtl.models.norm_spec import NormSpec
from jtl.predict.classifier import load
from jtl.runs.checkpoints import reading
from jtl.runs.run import Run
from jtl.train.checks import checked
from jtl.train.dry_run import dry_run
from jtl.train.fit import fit
from jtl.train.setup import prepare_setup
from support import tiny

pytestmark = pytest.mark.slow


class Pointwise(nn.Module):
    """A 1x1 convolution of 16 channels."""

    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        return relu(BatchNorm(self.norm, name="bn")(Conv(16, 1, name="conv")(x), train=train))


@dataclasses.dataclass(frozen=True)
class PointNet:
    norm: NormSpec = tiny.NORM

    def units(self) -> tuple[Unit, ...]:
        return (
            unit("stem", tiny.Block, features=8, strides=2, norm=self.norm),
            unit("stage1/block1", Pointwise, norm=self.norm),
            unit("stage2/block1", Pointwise, norm=self.norm),
        )


ENTRY = ModelEntry("points", "tiny", PointNet, 18_604, "package:tiny", tiny.PREPROCESSING)
HEAD, ADAPTERS = 16 * 3 + 3, 2 * (8 + 16) + 2 * (16 + 16)


@pytest.fixture(scope="module", autouse=True)
def points():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ENTRIES, ENTRY.name, ENTRY)
        yield


def config(data: Path, folder: Path, **train):
    """Of random weights, whose running averages stay as they are."""
    train = {"mask": "lora:2", "bn": "frozen", "lora_alpha": 4.0, "epochs": 3, **train}
    found = tiny.config(data, folder, weights="random", **train)
    return dataclasses.replace(found, model=dataclasses.replace(found.model, model=ENTRY.name))


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("lora") / "run"
    return fit(config(tiny_data, folder, layer_decay=0.7), tiny.quiet())


def test_only_adapters_and_the_head_train(run: Run, tiny_data, tmp_path):
    summary = run.summary
    assert summary["mask"] == "lora:2"
    assert summary["frozen_unchanged"] is True
    assert summary["cut"] == "stage1/block1"
    assert summary["cached_prefix"] is True
    assert summary["trainable_params"] == HEAD + ADAPTERS
    assert 2 * 4 * (HEAD + ADAPTERS) <= summary["optimizer_bytes"] < 2.5 * 4 * (HEAD + ADAPTERS)
    told = dry_run(prepare_setup(checked(config(tiny_data, tmp_path / "dry")), tiny.quiet()))
    for key in ("total_params", "trainable_params", "frozen_params", "cut", "cached_prefix"):
        assert told[key] == summary[key]
    [group] = [row for row in told["groups"] if row["label"] == "lora"]
    assert (group["leaves"], group["params"]) == (4, ADAPTERS)
    assert told["step_flops"] > 0


def test_a_checkpoint_has_the_base_bit_for_bit_and_reads_as_a_plain_network(run, tiny_data):
    restored = reading.restore(run.folder)
    before = prepare_setup(checked(config(tiny_data, run.folder)), tiny.quiet()).variables
    names = leaf_paths(before)
    assert leaf_paths(restored.variables) == names
    assert [path for path in leaf_paths(restored.saved) if path[-1] not in (A, B)] == names
    for path in names:
        if path[:2] == ("params", "head"):
            continue
        base, plain = lookup(restored.saved, path), lookup(restored.variables, path)
        assert base.tobytes() == lookup(before, path).tobytes()
        layer = lookup(restored.saved, path[:-1])
        if path[-1] == "kernel" and B in layer:
            assert layer[B].any()
            added = 4.0 / 2 * layer[A].astype(float) @ layer[B]
            np.testing.assert_allclose(plain[0, 0], base[0, 0] + added, rtol=1e-5, atol=1e-6)
        else:
            assert plain.tobytes() == base.tobytes()


def test_evaluation_and_prediction_see_what_the_training_saw(run: Run):
    best = run.history[run.summary["best_epoch"] - 1]
    scores = evaluate_run(load(run.folder), None, tiny.quiet(), split="val")
    assert scores.scores["val_loss"] == pytest.approx(best["val_loss"], rel=1e-5)
    assert run.summary["val_loss"] == best["val_loss"]
    assert len({line["val_loss"] for line in run.history}) == 3


def test_a_resumed_run_ends_as_the_whole_one(run: Run, tiny_data, tmp_path, monkeypatch):
    asked = config(tiny_data, tmp_path / "run", layer_decay=0.7)
    tiny.fit_until(1, asked, monkeypatch)
    resumed = fit(tiny.resumed(tmp_path / "run"), tiny.quiet())
    assert [line["val_loss"] for line in resumed.history] == [x["val_loss"] for x in run.history]
    ours, theirs = (reading.restore(each.folder, "latest").saved for each in (resumed, run))
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), ours, theirs))
    # And with more epochs, under the same labels.
    longer = dataclasses.replace(asked, train=dataclasses.replace(asked.train, epochs=4))
    longer = dataclasses.replace(longer, run=dataclasses.replace(longer.run, resume="must"))
    assert len(fit(longer, tiny.quiet()).history) == 4


def test_phases_before_and_after(tiny_data, tmp_path, monkeypatch):
    """Other phases leave adapters alone, but compute with them; also cut off between them."""

    def asked(folder):
        phases = "1,head_only;1,lora:2;1,last_stage;1,head_only"
        found = config(tiny_data, folder, mask="head_only", phases=phases, epochs=None)
        return dataclasses.replace(found, steps=StepsConfig(ema=0.5))

    whole = fit(asked(tmp_path / "whole"), tiny.quiet())
    cuts = ["head", "stage1/block1", "stage2/block1", "head"]
    assert [line["cut"] for line in whole.history] == cuts
    assert all(line["cached_prefix"] for line in whole.history)
    assert whole.summary["frozen_unchanged"] is True
    loaded = load(whole.folder)
    scores = evaluate_run(loaded, None, tiny.quiet(), split="val")
    assert scores.scores["val_loss"] == pytest.approx(whole.summary["val_loss"], rel=1e-5)
    tiny.fit_until(2, asked(tmp_path / "run"), monkeypatch)
    resumed = fit(tiny.resumed(tmp_path / "run"), tiny.quiet())
    ours, theirs = (reading.restore(each.folder, "latest").saved for each in (resumed, whole))
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), ours, theirs))


def test_its_best_model_is_plain_weights_for_another_run(run: Run, tiny_data, tmp_path):
    found = config(tiny_data, tmp_path / "next", mask="head_only", lora_alpha=8.0)
    model = dataclasses.replace(found.model, weights=str(run.folder))
    setup = prepare_setup(checked(dataclasses.replace(found, model=model)), tiny.quiet())
    merged = reading.restore(run.folder).variables["params"]
    for path in leaf_paths(merged):
        if path[0] != "head":
            expected = lookup(merged, path)
            assert lookup(setup.variables["params"], path).tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"mask": "lora"}, "write it as lora:RANK"),
        ({"mask": "lora:none"}, "the rank must be a whole number"),
        ({"mask": "lora:16"}, "the rank must be below 16"),
        ({"mask": "full"}, "--lora-alpha: no effect without --mask lora:RANK"),
        ({"l2_sp": 0.1}, "--l2-sp pulls the backbone's own parameters"),
    ],
)
def test_what_does_not_go_together(tiny_data, tmp_path, train, message):
    with pytest.raises(UserError, match=message):
        prepare_setup(checked(config(tiny_data, tmp_path / "run", **train)), tiny.quiet())
