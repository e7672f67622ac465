"""Training longer than planned, and starting from a run of one's own."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from jtl.runs.checkpoints import reading
from support import commands
from support.run_folders import arguments, assert_same, figures, run, stopped

pytestmark = [pytest.mark.slow, pytest.mark.process]

PLANNED, LONGER = 3, 5
PLANNED_STEPS = 4 * PLANNED


@pytest.fixture(scope="module")
def planned(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("longer") / "planned"
    words = arguments(tiny_data, folder, "--ema=0.5", epochs=PLANNED)
    assert commands.main("train", *words) == 0
    return folder


@pytest.fixture(scope="module")
def longer(planned: Path) -> Path:
    """The finished run, gone on with."""
    folder = planned.with_name("longer")
    shutil.copytree(planned, folder)
    words = ["--resume", f"--run-dir={folder}", f"--epochs={LONGER}"]
    assert commands.main("train", *words) == 0
    return folder


def test_a_finished_run_goes_on(planned, longer):
    lines, before = figures(longer), figures(planned)
    assert lines[:PLANNED] == before
    assert [line.get("extended", False) for line in lines] == [False] * 3 + [True] * 2
    summary = json.loads((longer / "summary.json").read_text())
    assert summary["epochs"] == LONGER
    assert [phase["epochs"] for phase in summary["phases"]] == [PLANNED, LONGER - PLANNED]
    stored = json.loads((longer / "config.json").read_text())
    assert stored["train"]["extended"] == [2]
    # The schedule starts again, and the optimizer goes on.
    assert lines[PLANNED]["learning_rate"] > before[-1]["learning_rate"]
    [ours, theirs] = (reading.restore(x, "latest") for x in (longer, planned))
    assert (ours.epoch, theirs.epoch) == (LONGER, PLANNED)


@pytest.mark.parametrize("step", [6, 13, 18])
def test_it_ends_the_same_whenever_epochs_are_added(longer, tiny_data, tmp_path, step, capsys):
    folder, resume = tmp_path / "run", [f"--epochs={LONGER}", "--resume"]
    first = arguments(tiny_data, folder, "--ema=0.5", epochs=PLANNED)
    # In an epoch of the plan; or at its end, and in an epoch that was added.
    if step < PLANNED_STEPS:
        assert stopped(first, step) == 128 + signal.SIGTERM
    else:
        assert commands.main("train", *first) == 0
        code = stopped([f"--run-dir={folder}", *resume], step - PLANNED_STEPS)
        assert code == 128 + signal.SIGTERM
        assert "Adding 2 epochs" in capsys.readouterr().err
    # Another process goes on with it.
    code, _, err = run([f"--run-dir={folder}", *resume])
    assert code == 0, err
    assert_same(folder, longer)
    # Once more is no more.
    assert commands.main("train", f"--run-dir={folder}", *resume) == 0
    assert len(figures(folder)) == LONGER


def test_fewer_epochs_are_refused(planned, longer, capsys):
    words = ["--resume", f"--run-dir={longer}", "--epochs=4"]
    assert commands.main("train", *words) == 2
    assert "has 5 epochs. Use a larger number" in capsys.readouterr().err.replace("\n", " ")
    # What it was started with, as a requeue says it again.
    assert commands.main("train", *words[:2], f"--epochs={PLANNED}") == 0


def test_patience_counts_from_the_added_epochs_whenever_they_are_added(tiny_data, tmp_path):
    # No accuracy grows by that much: patience ends the plan of six with its third epoch.
    often = ("--patience=2", "--min-delta=0.9", "--warmup=0")
    ends = {}
    for when in (2, None):
        folder = tmp_path / f"after-{when}"
        words = arguments(tiny_data, folder, *often)
        code = stopped(words, 4 * when + 1) if when else commands.main("train", *words)
        assert code == (128 + signal.SIGTERM if when else 0)
        # Epochs that are left out of the plan are trained first.
        assert len(figures(folder)) == (when or 3)
        longer = [f"--run-dir={folder}", "--resume", "--epochs=12"]
        assert commands.main("train", *longer) == 0
        # And a requeue adds nothing.
        assert commands.main("train", *longer) == 0
        ends[when] = folder
    assert len(figures(ends[None])) == 6 + 2
    assert_same(ends[2], ends[None])


def test_a_run_starts_from_another_ones_model(longer, tiny_data, tmp_path):
    folder = tmp_path / "run"
    words = arguments(tiny_data, folder, f"--weights={longer}", mask="head_only", epochs=1)
    assert commands.main("train", *words) == 0
    ours, theirs = (reading.restore(x).variables["params"] for x in (folder, longer))
    for tree in (ours, theirs):
        tree.pop("head")
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    weights = json.loads((folder / "summary.json").read_text())["weights"]
    epoch = reading.restore(longer).epoch
    assert weights["name"] == f"run longer, epoch {epoch}"
    assert len(weights["sha256"]) == 64


@pytest.mark.usefixtures("tiny_model")
def test_a_run_of_another_model_is_refused(longer, tiny_data, tmp_path, capsys):
    words = [f"--weights={longer}", "--model=resnet18", f"--data=folder:{tiny_data}"]
    assert commands.main("train", *words, f"--run-dir={tmp_path / 'run'}") == 2
    told = capsys.readouterr().err.replace("\n", " ")
    assert "is a run of tiny, but the model is resnet18" in told
