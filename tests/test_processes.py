"""Many processes on this machine: one model as by one of them, and a clear end if one is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny

from jtl import checkpoint, process, validation
from jtl.config import Config, RunConfig, TrainConfig
from jtl.devices import processes
from jtl.errors import UserError
from jtl.freeze.split import leaf_paths, lookup

SCRIPT = Path(__file__).with_name("tiny_train.py")
ROOM_SCRIPT = SCRIPT.with_name("tiny_train_room.py")
ROUNDING = 5e-6
"""Of float32 over a few dozen steps, relative to the largest value of an array."""
BOUND = 60.0
"""Seconds in which processes end once another one is lost."""


@pytest.fixture(scope="module")
def data(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    del tiny_model
    folder = tmp_path_factory.mktemp("processes")
    tiny.write_weights(folder / "weights")
    # 39 train and 21 val pictures, which four processes do not divide.
    return tiny.write_folder(folder / "data", train=13, val=7)


def options(data: Path, run_dir: Path, epochs: int = 3) -> list[str]:
    """Features first, then pictures: both ways in which processes divide their work."""
    told = {
        "model": "tiny",
        "weights": data.parent / "weights",
        "data": f"folder:{data}",
        "batch-size": 8,
        "lr": 0.05,
        "phases": f"{epochs},head_only;{epochs},full",
        "augment": "light",
        "cache-views": 2,
        "ema": 0.9,
        "run-dir": run_dir,
    }
    return [f"--{key}={value}" for key, value in told.items()]


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


class Together:
    """The same command in several processes, each with its own cache as on hosts of their own."""

    def __init__(
        self,
        arguments: list[list[str]],
        folder: Path,
        script: Path = SCRIPT,
        **variables: list[int],
    ):
        port, count = free_port(), len(arguments)
        self.running = []
        for number, own in enumerate(arguments):
            cache = folder / f"cache-{number}"
            each = {name: str(values[number]) for name, values in variables.items()}
            cluster = [f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}"]
            self.running.append(
                subprocess.Popen(
                    [sys.executable, script, *own, *cluster, f"--process-id={number}"],
                    env={**os.environ, "JTL_CACHE": str(cache), "PYTHONWARNINGS": "error", **each},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def ended(self, timeout: float = 180) -> list[tuple[int, str, str]]:
        """(exit code, stdout, stderr) of each."""
        until = time.monotonic() + timeout
        try:
            told = [p.communicate(timeout=max(until - time.monotonic(), 1)) for p in self.running]
        finally:
            for running in self.running:
                running.kill()
        return [(p.returncode, *text) for p, text in zip(self.running, told, strict=True)]


def alone(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, "JTL_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def outcome(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    variables = checkpoint.restore(run_dir, "latest").variables
    leaves = {"/".join(path): lookup(variables, path) for path in leaf_paths(variables)}
    return lines, leaves, json.loads((run_dir / "summary.json").read_text())


def assert_same(run_dir: Path, other: Path) -> None:
    (lines, leaves, summary), (theirs, expected, told) = outcome(run_dir), outcome(other)
    assert len(lines) == len(theirs)
    for line, one in zip(lines, theirs, strict=True):
        assert line["epoch"] == one["epoch"]
        for key in ("train_loss", "val_loss"):
            assert line[key] == pytest.approx(one[key], rel=ROUNDING)
        for key in ("train_accuracy", "val_accuracy", "cached_prefix"):
            assert line[key] == one[key]
    assert leaves.keys() == expected.keys()
    for path, leaf in expected.items():
        assert np.abs(leaves[path] - leaf).max() <= ROUNDING * np.abs(leaf).max(), path
    for key in ("val_accuracy", "val_macro_f1", "best_epoch", "trainable_params"):
        assert summary[key] == told[key]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    done = alone(options(data, folder / "run"), folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_the_model_of_one(data, whole, tmp_path, count):
    ended = Together([options(data, tmp_path / "run")] * count, tmp_path).ended()
    assert [code for code, _, _ in ended] == [0] * count, ended
    assert_same(tmp_path / "run", whole)
    # One speaks for all.
    assert f"{count} devices of {count} processes" in ended[0][2]
    assert "val accuracy" in ended[0][1]
    assert all(stdout == "" for _, stdout, _ in ended[1:])
    assert not any("epochs" in stderr for _, _, stderr in ended[1:])
    # Each kept the features of its own pictures.
    rows = [
        json.loads(path.read_text())["shape"][0]
        for path in tmp_path.glob("cache-*/features/**/*.json")
    ]
    assert rows
    assert max(rows) < 39


def test_processes_agree_on_a_batch_size(data, whole, tmp_path):
    """One has room for steps of 8 pictures, the other for many more."""
    given = options(data, tmp_path / "run")
    arguments = [word.replace("batch-size=8", "batch-size=auto") for word in given]
    ended = Together([arguments] * 2, tmp_path, ROOM_SCRIPT, TINY_ROOM=[100, 8]).ended()
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert "--batch-size auto: 8 pictures in each step (at most 39 of 39)" in ended[0][2]
    assert_same(tmp_path / "run", whole)


@pytest.mark.parametrize("lost", [0, 1])
def test_the_others_stop_when_one_is_killed(data, tmp_path, lost):
    arguments = options(data, tmp_path / "run", epochs=3000)
    together = Together([arguments] * 2, tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    together.running[lost].send_signal(signal.SIGKILL)
    began = time.monotonic()
    ended = together.ended(BOUND)
    assert time.monotonic() - began < BOUND
    code, _, stderr = ended[1 - lost]
    assert code not in (0, None)
    assert "another process of this run" in stderr or "another task died" in stderr
    assert "Traceback" not in stderr


def test_a_killed_run_goes_on_with_another_number_of_processes(data, whole, tmp_path):
    arguments = options(data, tmp_path / "run")
    together = Together([arguments] * 2, tmp_path)
    first = tmp_path / "run" / "checkpoints" / "3"
    until = time.monotonic() + 120
    while not first.is_dir():
        assert time.monotonic() < until
        assert together.running[0].poll() is None, together.ended()
        time.sleep(0.02)
    together.running[1].send_signal(signal.SIGKILL)
    together.ended(BOUND)
    resume = ["--resume", f"--run-dir={tmp_path / 'run'}"]
    if (tmp_path / "run" / "summary.json").is_file():
        pytest.fail("the run ended before it could be killed")
    ended = Together([resume] * 4, tmp_path).ended()
    assert [code for code, _, _ in ended] == [0] * 4, ended
    assert_same(tmp_path / "run", whole)


def test_a_signal_to_one_stops_all(data, tmp_path):
    together = Together([options(data, tmp_path / "run", epochs=3000)] * 2, tmp_path)
    metrics = tmp_path / "run" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not metrics.is_file():
        assert time.monotonic() < until
        time.sleep(0.05)
    together.running[1].send_signal(signal.SIGTERM)
    ended = together.ended(BOUND)
    assert [code for code, _, _ in ended] == [143, 143], ended
    assert "--resume" in ended[0][2]
    assert any(p.name.isdecimal() for p in (tmp_path / "run" / "checkpoints").iterdir())


def test_what_fails_in_one_process_ends_all(data, tmp_path):
    there = options(data, tmp_path / "run")
    missing = options(tmp_path / "missing" / "data", tmp_path / "run")
    ended = Together([there, missing], tmp_path).ended(BOUND)
    assert [code for code, _, _ in ended] == [2, 2], ended
    assert "process 1 of 2 cannot go on" in ended[0][2]
    assert "does not exist" in ended[1][2] or "missing" in ended[1][2]
    assert all("Traceback" not in stderr for _, _, stderr in ended)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"coordinator": "host:1"}, "--num-processes and --process-id missing"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
        ({"coordinator": "host:0", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
        ({"coordinator": "host:1", "num_processes": 0, "process_id": 0}, "--num-processes"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "--process-id"),
    ],
)
def test_options_of_processes(given, words):
    with pytest.raises(UserError, match=words):
        validation.check_processes(RunConfig(**given))


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "host:1"}, True),
        ({"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "2"}, False),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://1", "OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
    ],
)
def test_the_environment_tells_of_others(environment, told):
    assert processes.expected(environment) is told


@pytest.mark.parametrize("options", [{"dry_run": True}, {"find_lr": True}, {"seeds": 2}, {}])
def test_what_one_process_does_alone(monkeypatch, options):
    monkeypatch.setattr(processes, "join", lambda *cluster: None)
    monkeypatch.setattr(process, "_keep_stdout", lambda: None)
    monkeypatch.setattr(processes, "several", lambda: True)
    train = TrainConfig() if options else TrainConfig(solver="lbfgs")
    with pytest.raises(UserError, match="in a single process"):
        process.join(Config(train=train, run=RunConfig(**options)))
    monkeypatch.setattr(processes, "several", lambda: False)
    process.join(Config(train=train, run=RunConfig(**options)))


def test_many_processes_keep_no_converted_weights(tiny_model, tmp_path, monkeypatch):
    """Orbax would leave the writing to the first process; each converts for itself."""
    assert tiny_model == "tiny"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="by a single process"):
        tiny.write_weights(tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []
