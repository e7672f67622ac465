"""Steps that do not fit in memory, and the batch size that does, under limits made for the test."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.config.options import Config, TrainConfig
from jtl.distributed.sharding import SINGLE
from jtl.runs.checkpoints import reading
from jtl.runs.files import read_json
from jtl.runs.resume import opened_run
from jtl.train import batch_size, memory_estimate
from jtl.train import step as steps
from jtl.train.checks import checked
from jtl.train.fit import fit
from support import tiny
from support.commands import main

pytestmark = pytest.mark.slow

EXHAUSTED = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."


class Refusing:
    """A compiled step on a device that has no memory for more than some examples."""

    def __init__(self, step: Any, most: int):
        self.step, self.most = step, most
        self.sizes: list[int] = []

    def __call__(self, *given: Any, **options: Any) -> Any:
        # The labels of a step, the batches of an epoch.
        size = (given[2].labels if len(given) == 3 else given[3]).shape[-1]
        self.sizes.append(size)
        if size > self.most:
            raise jax.errors.JaxRuntimeError(EXHAUSTED)
        return self.step(*given, **options)

    def lower(self, *given: Any, **options: Any) -> Any:
        return self.step.lower(*given, **options)


@pytest.mark.parametrize(
    ("count", "devices", "expected"),
    [
        *((0.9, 1, 0), (1, 1, 1), (2.9, 1, 2), (3, 1, 3), (5.5, 1, 4), (7, 1, 6), (200, 1, 192)),
        *((511, 1, 384), (512, 1, 512), (7, 8, 0), (23, 8, 16), (24, 8, 24), (50, 6, 48)),
    ],
)
def test_sizes_are_powers_of_two_and_those_between(count, devices, expected):
    assert memory_estimate.rounded(count, devices) == expected


@pytest.mark.parametrize("mask", ["full", "last_stage"])
def test_the_largest_batch_is_the_last_that_fits(mask, tiny_data):
    trainer = tiny.trainer_of(tiny.config(tiny_data, None, mask=mask))
    assert trainer.inputs.cached == (mask == "last_stage")
    room = memory_estimate.step_bytes(trainer, 48)
    assert room > memory_estimate.step_bytes(trainer, 32) > 0
    assert memory_estimate.largest_batch(trainer, room, 512) == 48
    assert memory_estimate.largest_batch(trainer, room - 1, 512) == 32
    assert memory_estimate.largest_batch(trainer, room, 40) == 32
    assert memory_estimate.largest_batch(trainer, 0, 512) == 0


def test_what_a_step_is_said_to_take_is_beside_the_state(tiny_data):
    """Twice the optimizer's state is no more memory for a step."""
    plain, heavy = (
        tiny.trainer_of(tiny.config(tiny_data, None, mask="full", optimizer=name))
        for name in ("sgd", "adamw")
    )
    assert heavy.optimizer_bytes > 1.9 * plain.optimizer_bytes
    one, other = (memory_estimate.step_bytes(trainer, 64) for trainer in (plain, heavy))
    assert abs(one - other) < 0.1 * one


def test_an_accelerators_own_memory_counts(monkeypatch):
    class Device:
        def memory_stats(self) -> dict[str, int]:
            return {"bytes_limit": 1000, "bytes_in_use": 200}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(), Device()])
    assert memory_estimate.free_for_steps() == 720
    assert memory_estimate.free_for_steps(kept=100) == 670


def auto(data, folder, **options: Any) -> Config:
    return tiny.config(data, folder, batch_size="auto", **options)


@pytest.fixture
def room(monkeypatch, tiny_data) -> int:
    """What the head needs for steps of 4 and not of 6; 18 images that may all be one batch."""
    trainer = tiny.trainer_of(tiny.config(tiny_data, None))
    needed = memory_estimate.step_bytes(trainer, 4)
    assert needed < memory_estimate.step_bytes(trainer, 6)
    monkeypatch.setattr(memory_estimate, "free_for_steps", lambda kept=0: needed)
    monkeypatch.setattr(batch_size, "BATCHES", 1)
    return needed


def leaves(folder) -> list[np.ndarray]:
    return jax.tree.leaves(reading.restore(folder, "latest").variables)


@pytest.mark.usefixtures("room")
def test_auto_finds_it_and_trains_as_if_it_had_been_given(tiny_data, tmp_path, monkeypatch, capsys):
    folders = {name: tmp_path / name for name in ("auto", "four", "resumed")}
    run = fit(auto(tiny_data, folders["auto"]))
    assert "--batch-size auto: 4 images per step (at most 18 of 18)" in capsys.readouterr().err
    assert read_json(folders["auto"] / "config.json")["train"]["batch_size"] == 4
    assert run.config.train.batch_size == 4
    given = tiny.config(tiny_data, folders["four"], batch_size=4)
    fit(given, tiny.quiet())
    tiny.fit_until(1, auto(tiny_data, folders["resumed"]), monkeypatch)
    # With another room, as on another day: the number found at first is the run's.
    monkeypatch.setattr(memory_estimate, "free_for_steps", lambda kept=0: 10**12)
    again = tiny.resumed(folders["resumed"])
    again = dataclasses.replace(again, train=TrainConfig(batch_size="auto"))
    with opened_run(again, print) as resumed:
        assert resumed.config.train.batch_size == 4
    fit(again, tiny.quiet())
    for name in ("four", "resumed"):
        pairs = zip(leaves(folders["auto"]), leaves(folders[name]), strict=True)
        assert all(one.tobytes() == other.tobytes() for one, other in pairs)


def test_auto_takes_at_most_a_tenth_of_the_images_and_512():
    assert batch_size.largest_sensible(18, 1) == 1
    assert batch_size.largest_sensible(1000, 1) == 100
    assert batch_size.largest_sensible(1000, 4) == 25
    assert batch_size.largest_sensible(10**6, 1) == 512


@pytest.mark.usefixtures("room")
def test_auto_tries_one_step_and_goes_on_with_less(tiny_data, monkeypatch):
    refusing = Refusing(steps.train_step, most=3)
    monkeypatch.setattr(steps, "train_step", refusing)
    config = checked(auto(tiny_data, None))
    setup = batch_size.prepared(config, tiny.quiet())
    assert refusing.sizes == [4, 3]
    assert setup.config.train.batch == 3
    assert setup.sharding == SINGLE
    refusing.most = 0
    with pytest.raises(
        UserError, match=r"not even one image .* with mask head_only \(Out of memory"
    ):
        batch_size.prepared(config, tiny.quiet())


@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("mask", ["full", "head_only"])
def test_a_step_that_does_not_fit_is_told_with_the_size_that_does(
    mask, tiny_data, tmp_path, monkeypatch, capsys
):
    name = "train_step" if mask == "full" else "train_epoch"
    monkeypatch.setattr(steps, name, Refusing(getattr(steps, name), most=4))
    options = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--epochs", 1]
    options += ["--data", f"folder:{tiny_data}", "--mask", mask, "--batch-size", 12]
    assert main("train", *options, "--run-dir", tmp_path / "run") == 2
    told = capsys.readouterr().err
    assert "not enough memory for steps of 12 images: Out of memory allocating 9" in told
    if mask == "head_only":
        assert "try --batch-size 4 (with --accumulate 3 for the same updates), or" in told
    else:  # In the room of a head alone.
        assert "Not even one per device fits." in told
    assert not (tmp_path / "run").exists()


def test_other_errors_stay_what_they_are(tiny_data, tmp_path, monkeypatch):
    def broken(*given: Any, **options: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: of another kind")

    monkeypatch.setattr(steps, "train_step", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fit(tiny.config(tiny_data, tmp_path / "run", mask="full"), tiny.quiet())


@pytest.mark.usefixtures("room")
def test_the_command_takes_auto(tiny_data, capsys):
    options = ["--model", "tiny", "--weights", tiny_data.parent / "weights"]
    options += ["--data", f"folder:{tiny_data}", "--batch-size", "auto", "--dry-run", "--json"]
    assert main("train", *options) == 0
    assert json.loads(capsys.readouterr().out)["batch_size"] == 4


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (dict(batch_size="big"), r"^--batch-size must be a whole number or auto, not 'big'\.$"),
        (dict(batch_size="auto", solver="lbfgs"), r"^--batch-size auto: no effect with --solver"),
    ],
)
def test_refusals(train, message):
    with pytest.raises(UserError, match=message):
        checked(Config(train=TrainConfig(**train)))
