"""SIGINT and SIGTERM in mid training: what is saved, what is said, and that the process ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from jtl import checkpoint
from jtl.interrupt import Interrupted, Stop, listening
from jtl.loop import fit
from jtl.trainer import Trainer


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("interrupt") / "data", 24, 2, size=32)


def start(pictures: Path, folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "jtl.train", "--data", f"folder:{pictures}"),
            *("--image-size", "32", "--batch-size", "4", "--run-dir", str(folder), *options),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_epochs(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    metrics = folder / "metrics.jsonl"
    for _ in range(3000):
        assert process.poll() is None, process.communicate()
        if metrics.exists() and len(metrics.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError("no epoch was finished in time")


# A trained part of the backbone, so that long programs are under way when the signal comes.
@pytest.mark.parametrize(
    ("number", "mask"), [(signal.SIGINT, "last_stage"), (signal.SIGTERM, "full")]
)
def test_a_signal_saves_the_run_and_ends_the_process(pictures, tmp_path, number, mask):
    folder = tmp_path / "a run"
    process = start(pictures, folder, "--mask", mask, "--epochs", "500")
    wait_for_epochs(process, folder, 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in out + err
    stopped = re.search(r"stopped after epoch (\d+) of 500, which is saved", err)
    assert stopped is not None, err
    assert f"python -m jtl.train --resume --run-dir '{folder}'" in err
    assert checkpoint.latest_epoch(folder) == int(stopped[1]) >= 2


def test_a_signal_before_the_first_epoch_leaves_nothing(pictures, tmp_path):
    folder = tmp_path / "run"
    process = start(pictures, folder, "--mask", "full", "--epochs", "500")
    while not folder.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not folder.exists()


@pytest.mark.parametrize(("after", "epoch"), [(4, 1), (5, 1), (6, 2), (8, 2)])
def test_a_stopped_run_ends_as_the_whole_one(tiny_data, tmp_path, monkeypatch, after, epoch):
    """Stopped in step `after`, of three in an epoch: in the midst of one or in its last step."""
    options = dict(mask="full", epochs=4, batch_size=6)
    whole = fit(tiny.config(tiny_data, tmp_path / "whole", **options), tiny.quiet())
    # As if epochs were long: each may be left at once, and is kept until it is saved.
    monkeypatch.setattr("jtl.loop.LONG_EPOCH_SECONDS", 0.0)
    steps, taken = Trainer._steps, 0

    def interrupted(self, number, train, batches, leave, scale):
        nonlocal taken
        before, taken = taken, taken + len(batches)
        numbers = iter(range(before + 1, taken + 1))

        def signalled() -> bool:
            if next(numbers) == after:
                os.kill(os.getpid(), signal.SIGINT)
            return leave()

        sums = steps(self, number, train, batches, signalled, scale)
        if after == taken:  # Nobody is asked after the last step.
            os.kill(os.getpid(), signal.SIGINT)
        return sums

    monkeypatch.setattr(Trainer, "_steps", interrupted)
    folder = tmp_path / "stopped"
    with pytest.raises(Interrupted, match=f"stopped after epoch {epoch} of 4") as raised:
        fit(tiny.config(tiny_data, folder, **options), tiny.quiet())
    assert raised.value.signal == signal.SIGINT
    assert checkpoint.latest_epoch(folder) == epoch
    monkeypatch.setattr(Trainer, "_steps", steps)
    resumed = fit(tiny.resumed(folder), tiny.quiet())
    got, want = (checkpoint.restore(run.folder, "latest") for run in (resumed, whole))
    jax.tree.map(np.testing.assert_array_equal, got.variables, want.variables)
    times = ("seconds", "images_per_second", "elapsed")
    lines = [
        [{key: value for key, value in line.items() if key not in times} for line in run.history]
        for run in (resumed, whole)
    ]
    assert lines[0] == lines[1]


def test_a_second_signal_stops_at_once():
    stop, told = Stop(), []
    with stop.deferred():
        stop.receive(signal.SIGINT, told.append)
        assert stop.signal == signal.SIGINT
        assert "once more stops at once" in told[0]
        with pytest.raises(Interrupted):
            stop.receive(signal.SIGINT, told.append)
    with pytest.raises(Interrupted):
        Stop().receive(signal.SIGTERM, told.append)


def test_signals_are_as_before_afterwards_and_left_alone_in_threads():
    before = signal.getsignal(signal.SIGINT)
    with listening(lambda text: None):
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    seen = []

    def in_a_thread():
        with listening(lambda text: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert seen == [before]
