"""Going on within an epoch: runs stopped or killed there end as the whole one, bit for bit."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest

from jtl.common import hashes
from jtl.common.errors import UserError
from jtl.common.signals import Interrupted, Stop
from jtl.config.options import AugmentConfig, Config, StepsConfig
from jtl.models.inference import Metrics
from jtl.runs.checkpoints import managers, reading, saving
from jtl.runs.checkpoints.contents import (
    FINGERPRINTS,
    FOLDER,
    TEMPORARY_FOLDER,
    EpochProgress,
    Snapshot,
    TemporaryCheckpoint,
)
from jtl.runs.checkpoints.saving import Checkpointer, CheckpointPolicy
from jtl.runs.run import Run
from jtl.train import loop
from jtl.train.fit import fit
from jtl.train.state import init_state
from jtl.train.trainer import Trainer
from support import tiny

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_starts")]

TIMES = ("seconds", "images_per_second", "elapsed")


class Killed(BaseException):
    """What nothing in the program sees to."""


class Steps:
    """Counts the steps that are dispatched one by one, and ends the run in some of them."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.taken, self._end = 0, None
        step = Trainer._step

        def counted(trainer: Trainer, *args: Any) -> Metrics:
            self.taken += 1
            metrics = step(trainer, *args)
            if self._end is not None and self._end[0] == self.taken:
                (_, how), self._end = self._end, None
                if how is Killed:
                    raise Killed
                os.kill(os.getpid(), how)
            return metrics

        patch.setattr(Trainer, "_step", counted)

    def fit(self, config: Config, after: int, how: Any = signal.SIGTERM) -> str:
        """Trains for so many steps; what the run says at its end."""
        self._end = (self.taken + after, how)
        with pytest.raises((Interrupted, Killed)) as ended:
            fit(config, tiny.quiet())
        return str(ended.value)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(monkeypatch)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves after every step that finds the save before it done."""
    policy = CheckpointPolicy(seconds=0.0, share=float("inf"))
    monkeypatch.setattr(saving, "DEFAULT_POLICY", policy)


def configured(data: Path, folder: Path, options: dict[str, Any]) -> Config:
    train = dict(options)
    groups = {
        "steps": StepsConfig(**train.pop("steps", {})),
        "augment": AugmentConfig(**train.pop("augment", {})),
    }
    views, head = train.pop("cache_views", None), train.pop("head", {})
    config = dataclasses.replace(tiny.config(data, folder, **train), **groups)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, cache_views=views),
        model=dataclasses.replace(config.model, **head),
    )


def figures(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in tiny.lines_of(run)]


def assert_same(run: Run, whole: Run) -> None:
    """The same epochs, and the same bits in the best and the latest checkpoint."""
    assert figures(run) == figures(whole)
    for which in ("latest", "best"):
        ours, theirs = (reading.restore(r.folder, which) for r in (run, whole))
        assert ours.epoch == theirs.epoch
        jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
    for key in ("val_loss", "val_classes", "best_epoch", "frozen_unchanged"):
        assert run.summary[key] == whole.summary[key]
    assert not (run.folder / TEMPORARY_FOLDER).exists()


ALL_AT_ONCE = dict(
    steps=dict(ema=0.9, accumulate=2, clip_norm=0.5, label_smoothing=0.1, warmup=0.2),
    optimizer="adamw",
    weight_decay=0.1,
    layer_decay=0.8,
    l2_sp=0.01,
    schedule="one_cycle",
    batch_size=3,
    phases="1,head_only;2,last_stage;1,full",
    epochs=None,
)
# Options, and after how many steps each session is ended. An epoch has 4 (or 6) of them.
STOPPED = {
    "phases, average and accumulated gradients": (ALL_AT_ONCE, (9, 5)),
    "plateau": (
        dict(steps=dict(plateau_patience=1), schedule="plateau", epochs=4, mask="full", lr=0.5),
        (9,),
    ),
    "augmentation and dropout": (
        dict(
            augment=dict(augment="light", mixup=0.2),
            head=dict(head="mlp", head_widths=(8,), head_dropout=0.5),
            mask="last_stage",
            epochs=3,
        ),
        (1,),
    ),
    "views": (
        dict(augment=dict(augment="light"), cache_views=2, mask="last_stage", epochs=3),
        (7,),
    ),
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_run_stopped_within_epochs_ends_as_the_whole_one(tiny_data, tmp_path, counted, name):
    options, ends = STOPPED[name]
    whole = fit(configured(tiny_data, tmp_path / "whole", options), tiny.quiet())
    total, counted.taken = counted.taken, 0
    # Of 18 images; a head on features takes an epoch in one dispatch.
    by_steps = [line for line in whole.history if line["mask"] != "head_only"]
    assert total == len(by_steps) * (18 // options.get("batch_size", 4))
    folder = tmp_path / "stopped"
    config, left = configured(tiny_data, folder, options), total
    for after in ends:
        told = counted.fit(config, after)
        assert "everything is saved" in told
        assert len(list((folder / TEMPORARY_FOLDER).iterdir())) == 1
        assert not (folder / "summary.json").exists()
        config, left = tiny.resumed(folder), left - after
    resumed = fit(config, tiny.quiet())
    # No step was taken twice.
    assert (counted.taken, left > 0) == (total, True)
    assert_same(resumed, whole)


# Killed


SHORT = dict(mask="full", epochs=3)


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("midway") / "whole"
    return fit(configured(tiny_data, folder, SHORT), tiny.quiet())


def places(folder: Path) -> list[str]:
    """The names in a run's folder of checkpoints within epochs."""
    return sorted(path.name for path in (folder / TEMPORARY_FOLDER).glob("*"))


# Of four steps in each epoch.
@pytest.mark.parametrize("after", [3, 11])
def test_a_run_killed_within_an_epoch_ends_as_the_whole_one(
    whole, tiny_data, tmp_path, counted, often, after
):
    folder = tmp_path / "killed"
    counted.fit(configured(tiny_data, folder, SHORT), after, Killed)
    place = reading.find_temporary(folder, pytest.fail)
    epochs = reading.saved_epochs(folder)
    assert max(epochs, default=0) == after // 4
    # A slow disk may not have had the time for a save in the third epoch.
    assert place is not None or epochs
    done = 4 * max(epochs) if place is None else place.step
    assert 0 < done < after
    counted.taken = 0
    assert_same(fit(tiny.resumed(folder), tiny.quiet()), whole)
    assert counted.taken == 12 - done


def test_what_is_half_written_or_half_removed_is_nothing(
    whole, tiny_data, tmp_path, counted, monkeypatch
):
    folder = tmp_path / "killed"
    counted.fit(configured(tiny_data, folder, SHORT), 6)
    with monkeypatch.context() as patch:
        # As a kill leaves it: Orbax gives a checkpoint its name when it is whole.
        patch.setattr(managers, "write_fingerprints", lambda folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            counted.fit(tiny.resumed(folder), 1)
    assert [name.partition(".")[0] for name in places(folder)] == ["6", "7"]
    (folder / f"{TEMPORARY_FOLDER}.removed" / "5").mkdir(parents=True)
    counted.taken = 0
    assert_same(fit(tiny.resumed(folder), tiny.quiet()), whole)
    assert counted.taken == 12 - 6
    assert not (folder / f"{TEMPORARY_FOLDER}.removed").exists()


# Damaged


def largest(folder: Path) -> Path:
    files = [path for path in (folder / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def one_bit(folder: Path) -> None:
    content = bytearray(largest(folder).read_bytes())
    content[len(content) // 2] ^= 1
    largest(folder).write_bytes(content)


def truncated(folder: Path) -> None:
    os.truncate(largest(folder), largest(folder).stat().st_size // 2)


def unsigned(folder: Path) -> None:
    (folder / FINGERPRINTS).unlink()


def of_another_version(folder: Path) -> None:
    """Whole, but its place lacks what this version asks for."""
    [told] = [path for path in (folder / "place").iterdir() if b'"epoch"' in path.read_bytes()]
    told.write_bytes(told.read_bytes().replace(b'"epoch"', b'"round"'))
    unsigned(folder)
    files = {k: v for k, v in hashes.of_files(folder).items() if "/" in k}
    (folder / FINGERPRINTS).write_text(json.dumps(files))


@pytest.fixture(scope="module")
def stopped(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stopped after two epochs and two batches."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        Steps(patch).fit(configured(tiny_data, folder, SHORT), 10)
    return folder


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (one_bit, "has changed since it was written"),
        (truncated, "has changed since it was written"),
        (unsigned, "its files.json is missing or unreadable"),
        (of_another_version, "unexpected keyword argument 'round'"),
    ],
)
def test_damage_is_told(stopped, tmp_path, damage, reason):
    folder, told = tmp_path / "run", []
    shutil.copytree(stopped, folder)
    damage(folder / TEMPORARY_FOLDER / "10")
    assert reading.find_temporary(folder, told.append) is None
    assert f"'{folder / TEMPORARY_FOLDER / '10'}' cannot be used: " in told[0]
    assert reason in told[0]


def test_a_run_goes_on_from_its_last_epoch_where_the_rest_is_damaged(
    whole, stopped, tmp_path, counted
):
    folder, display = tmp_path / "run", tiny.quiet()
    shutil.copytree(stopped, folder)
    one_bit(folder / TEMPORARY_FOLDER / "10")
    resumed = fit(tiny.resumed(folder), display)
    shown: Any = display.console.file
    assert "has changed since it was written" in shown.getvalue().replace("\n", " ")
    assert counted.taken == 12 - 4 * reading.saved_epochs(stopped)[-1]
    assert_same(resumed, whole)


def test_a_place_needs_the_checkpoints_that_it_names(stopped, tmp_path):
    folder, told = tmp_path / "run", []
    shutil.copytree(stopped, folder)
    assert reading.find_temporary(folder, told.append) is not None
    latest = folder / FOLDER / str(reading.saved_epochs(folder)[-1])
    latest.rename(latest.with_name("3"))
    # Its epoch has a checkpoint itself: no more than outdated.
    assert (reading.find_temporary(folder, told.append), told) == (None, [])
    shutil.rmtree(latest.with_name("3"))
    assert reading.find_temporary(folder, told.append) is None
    assert "it belongs to other epoch checkpoints" in told[0]


def test_the_last_whole_one_of_two_is_found(stopped, tmp_path):
    folder, told = tmp_path / "run", []
    shutil.copytree(stopped, folder)
    shutil.copytree(folder / TEMPORARY_FOLDER / "10", folder / TEMPORARY_FOLDER / "11")
    one_bit(folder / TEMPORARY_FOLDER / "11")
    place = reading.find_temporary(folder, told.append)
    assert place is not None
    assert (place.step, len(told)) == (10, 1)


def test_a_damaged_later_one_keeps_none_from_being_saved(stopped, tmp_path, counted):
    folder = tmp_path / "run"
    shutil.copytree(stopped, folder)
    (folder / TEMPORARY_FOLDER / "10").rename(folder / TEMPORARY_FOLDER / "12")
    shutil.copytree(stopped / TEMPORARY_FOLDER / "10", folder / TEMPORARY_FOLDER / "10")
    unsigned(folder / TEMPORARY_FOLDER / "12")
    counted.fit(tiny.resumed(folder), 1)
    place = reading.find_temporary(folder, pytest.fail)
    assert place is not None
    assert (place.step, places(folder)) == (11, ["11"])


# When it is saved, and what is left


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_saves_are_spaced_by_what_they_cost(tmp_path, monkeypatch):
    clock, written = Clock(), managers.write_fingerprints

    def slow(folder: Path) -> None:
        clock.now += 3.0
        written(folder)

    monkeypatch.setattr(managers, "write_fingerprints", slow)
    parts = tiny.parts("full")
    state = init_state(parts.params, parts.live_stats, optax.sgd(0.1))
    at = TemporaryCheckpoint(1, 1, 1, 1.0, 1.0, ())
    with Checkpointer(Run(tmp_path, Config()), {}, stop=Stop(), clock=clock) as saver:
        assert not saver.temporary_due
        clock.now += 31.0
        assert saver.temporary_due
        saver.save_temporary(lambda: EpochProgress(at, state, Metrics.zero()))
        saver._opened_temporary().wait_until_finished()
        # Three seconds are two hundredths of 150.
        clock.now += 140.0
        assert not saver.temporary_due
        clock.now += 20.0
        assert saver.temporary_due
    assert reading.find_temporary(tmp_path, pytest.fail) == at


def test_saves_within_an_epoch_are_spaced_from_those_of_epochs(tmp_path):
    clock = Clock()
    line = {"epoch": 1, "val_accuracy": 0.5, "val_loss": 1.0}
    run = Run(tmp_path, Config(), history=[line])
    snapshot = Snapshot(1, tiny.variables(), {}, None)
    with Checkpointer(run, {}, stop=Stop(), clock=clock) as saver:
        clock.now += 20.0
        saver.save(1, lambda: snapshot)
        clock.now += 20.0
        assert not saver.temporary_due
        clock.now += 11.0
        assert saver.temporary_due


def test_a_checkpoint_goes_as_soon_as_its_epoch_has_one(tiny_data, tmp_path, counted, monkeypatch):
    removed, remove = [], managers.remove_temporary

    def noted(run_dir: Path) -> None:
        removed.append((counted.taken, places(run_dir), reading.saved_epochs(run_dir)))
        remove(run_dir)

    class Waiting(Checkpointer):
        temporary_due = property(lambda self: counted.taken in (2, 3, 7))

        def save(self, *args: Any) -> None:
            super().save(*args)
            self.wait()

    monkeypatch.setattr(managers, "remove_temporary", noted)
    monkeypatch.setattr(saving, "DEFAULT_POLICY", CheckpointPolicy(seconds=0.0))
    monkeypatch.setattr(loop, "Checkpointer", Waiting)
    fit(configured(tiny_data, tmp_path / "run", SHORT), tiny.quiet())
    # In the first step of the next epoch.
    assert [(steps, places) for steps, places, _ in removed[:2]] == [(5, ["3"]), (9, ["7"])]
    assert [max(epochs) for *_, epochs in removed[:2]] == [1, 2]


def test_a_run_that_diverges_in_its_first_epoch_leaves_nothing(tiny_data, tmp_path, counted, often):
    folder = tmp_path / "run"
    options = dict(SHORT, optimizer="sgd", lr=1e30, steps=dict(warmup=0.9))
    with pytest.raises(UserError, match="nothing was saved"):
        fit(configured(tiny_data, folder, options), tiny.quiet())
    assert not folder.exists()


def test_a_run_stopped_in_its_first_epoch_has_no_model_yet(tiny_data, tmp_path, counted):
    folder = tmp_path / "run"
    counted.fit(configured(tiny_data, folder, SHORT), 2)
    assert reading.saved_epochs(folder) == []
    with pytest.raises(UserError, match=r"has no finished checkpoint\. Continue the run"):
        reading.restore(folder)
