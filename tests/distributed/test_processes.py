"""Many processes on this machine: one model as by one of them, and a clear end if one is lost."""

from __future__ import annotations

import json
import os
import shutil
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

from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths, lookup
from jtl.config.options import Config, RunConfig, TrainConfig
from jtl.distributed import processes
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import TEMPORARY_FOLDER
from jtl.train import command
from support import commands, tiny, tiny_train
from support.paths import SUPPORT

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_starts")]

SCRIPT = SUPPORT / "tiny_train.py"
ROOM_SCRIPT = SUPPORT / "tiny_train_room.py"
ROUNDING = 5e-6
"""Of float32 over a few dozen steps, relative to the largest value of an array."""
BOUND = 180.0
"""Seconds in which processes end, those too that have lost one."""


@pytest.fixture(scope="module")
def data(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    del tiny_model
    folder = tmp_path_factory.mktemp("processes")
    tiny.write_weights(folder / "weights")
    # 39 train and 21 val images, which four processes do not divide.
    return tiny.write_folder(folder / "data", train=13, val=7)


def options(data: Path, run_dir: Path, epochs: int = 3) -> list[str]:
    """Features first, then images: both ways in which processes divide their work."""
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
        signals: dict[int, str] | None = None,
        script: Path = SCRIPT,
        **environment: str,
    ):
        """Starts a process for each of `arguments`; `signals` as `tiny_train` takes them."""
        port, count = free_port(), len(arguments)
        self.running = []
        for number, (first, *rest) in enumerate(arguments):
            cluster = [f"--coordinator=127.0.0.1:{port}", f"--num-processes={count}"]
            own = {"JTL_CACHE": str(folder / f"cache-{number}"), "PYTHONWARNINGS": "error"}
            if signals and number in signals:
                own["TINY_SIGNAL"] = signals[number]
            self.running.append(
                subprocess.Popen(
                    [sys.executable, script, first, *cluster, f"--process-id={number}", *rest],
                    env={**os.environ, **environment, **own},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def ended(self, timeout: float = BOUND) -> list[tuple[int, str, str]]:
        """(exit code, stdout, stderr) of each."""
        until = time.monotonic() + timeout
        try:
            told = [p.communicate(timeout=max(until - time.monotonic(), 1)) for p in self.running]
        finally:
            for running in self.running:
                running.kill()
        return [(p.returncode, *text) for p, text in zip(self.running, told, strict=True)]


def ended(
    arguments: list[str],
    count: int,
    folder: Path,
    signals: dict[int, str] | None = None,
    **environment: str,
) -> list[tuple[int, str, str]]:
    """What the same command in `count` processes ends with."""
    return Together([arguments] * count, folder, signals, **environment).ended()


def resume(run_dir: Path) -> list[str]:
    return ["--resume", f"--run-dir={run_dir}"]


def places(run_dir: Path) -> list[int]:
    """The steps after which there are checkpoints within an epoch."""
    return reading.numbers(run_dir / TEMPORARY_FOLDER)


def outcome(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, np.ndarray], dict[str, Any]]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    variables = reading.restore(run_dir, "latest").variables
    leaves = {"/".join(path): lookup(variables, path) for path in leaf_paths(variables)}
    return lines, leaves, json.loads((run_dir / "summary.json").read_text())


def assert_same(run_dir: Path, other: Path, rounding: float = ROUNDING) -> None:
    (lines, leaves, summary), (theirs, expected, told) = outcome(run_dir), outcome(other)
    assert len(lines) == len(theirs)
    for line, one in zip(lines, theirs, strict=True):
        assert line["epoch"] == one["epoch"]
        for key in ("train_loss", "val_loss"):
            assert line[key] == pytest.approx(one[key], rel=rounding, abs=0)
        for key in ("train_accuracy", "val_accuracy", "cached_prefix"):
            assert line[key] == one[key]
    assert leaves.keys() == expected.keys()
    for path, leaf in expected.items():
        assert np.abs(leaves[path] - leaf).max() <= rounding * np.abs(leaf).max(), path
    for key in ("val_accuracy", "val_macro_f1", "best_epoch", "trainable_params"):
        assert summary[key] == told[key]
    assert not (run_dir / TEMPORARY_FOLDER).exists()


def assert_stopped(ended: list[tuple[int, str, str]], lost: int) -> None:
    """Those that are left have ended with a message."""
    for number, (code, _, stderr) in enumerate(ended):
        if number == lost:
            assert code == -signal.SIGKILL
            continue
        assert code > 0 or code == -signal.SIGABRT
        assert "another process of this run" in stderr or "another task died" in stderr
        assert "Traceback" not in stderr


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("whole")
    assert commands.main("train", *options(data, folder / "run")) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def of_two(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of two."""
    folder = tmp_path_factory.mktemp("two")
    told = ended(options(data, folder / "run"), 2, folder)
    assert [code for code, _, _ in told] == [0, 0], told
    # One speaks for all.
    assert "2 devices of 2 processes" in told[0][2]
    assert "validation accuracy" in told[0][1]
    assert told[1][1] == ""
    assert "epochs" not in told[1][2]
    return folder / "run"


@pytest.mark.process
def test_two_processes_train_the_model_of_one(of_two, whole):
    assert_same(of_two, whole)


# Each of the last three epochs has four steps, the first of them being the thirteenth.


@pytest.mark.process
def test_two_processes_go_on_within_epochs_bit_for_bit(data, whole, of_two, tmp_path):
    run_dir = tmp_path / "run"
    told = ended(options(data, run_dir), 2, tmp_path, {1: f"2:{signal.SIGTERM}"})
    assert [code for code, _, _ in told] == [143, 143], told
    for _, _, stderr in told:
        assert "Stopped at epoch 4/6, batch 2/4; everything is saved" in stderr
        assert "--resume" in stderr
    assert places(run_dir) == [14]
    # One process goes on with it,
    shutil.copytree(run_dir, tmp_path / "one")
    assert commands.main("train", *resume(tmp_path / "one")) == 0
    assert_same(tmp_path / "one", whole)
    # and so do two, until the first one is killed, and two again.
    told = ended(resume(run_dir), 2, tmp_path, {0: f"5:{signal.SIGKILL}"}, TINY_SAVES="")
    assert_stopped(told, lost=0)
    assert places(run_dir) == [18]
    told = ended(resume(run_dir), 2, tmp_path)
    assert [code for code, _, _ in told] == [0, 0], told
    assert "Resuming from epoch 5, batch 2" in told[0][2]
    assert_same(run_dir, of_two, rounding=0.0)


@pytest.mark.process
def test_other_numbers_of_processes_go_on_within_epochs(data, whole, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    told = ended(options(data, run_dir), 4, tmp_path, {3: f"6:{signal.SIGINT}"})
    assert [code for code, _, _ in told] == [130] * 4, told
    assert "4 devices of 4 processes" in told[0][2]
    assert places(run_dir) == [18]
    # Each kept the features of its own images.
    rows = [
        json.loads(path.read_text())["shape"][0]
        for path in tmp_path.glob("cache-*/features/**/*.json")
    ]
    assert rows
    assert max(rows) < 39
    with monkeypatch.context() as patch:
        tiny_train.signal_itself(patch, 1, signal.SIGTERM)
        assert commands.main("train", *resume(run_dir)) == 143
    assert places(run_dir) == [19]
    told = ended(resume(run_dir), 2, tmp_path, {1: f"3:{signal.SIGKILL}"}, TINY_SAVES="")
    assert_stopped(told, lost=1)
    assert places(run_dir) == [21]
    assert commands.main("train", *resume(run_dir)) == 0
    assert_same(run_dir, whole)


@pytest.mark.process
def test_processes_agree_on_a_batch_size(data, tmp_path):
    """One has room for steps of 8 images, the other for many more."""
    given = [word.replace("batch-size=8", "batch-size=auto") for word in options(data, tmp_path)]
    both = [[*given, "--dry-run", "--json"]] * 2
    told = Together(both, tmp_path, script=ROOM_SCRIPT, TINY_ROOM="100,8").ended()
    assert [code for code, _, _ in told] == [0, 0], told
    assert json.loads(told[0][1])["batch_size"] == 8


@pytest.mark.process
def test_other_commands_of_two_processes(data, tmp_path, capsys):
    """A look ahead, a search for a rate, seeds; then what fails in one process ends both."""
    common = options(data, tmp_path / "run", epochs=1)
    asked = [["--dry-run", "--json"], ["--find-lr"], ["--seeds=2"]]
    names = ["dry", "found", "seeds"]

    def lines(folder: Path) -> list[list[str]]:
        told = zip(asked, names, strict=True)
        return [[*common[:-1], *flags, f"--run-dir={folder / name}"] for flags, name in told]

    missing = [word.replace(f"folder:{data}", "folder:missing") for word in common]
    both = [
        [word for line in [*lines(tmp_path), last] for word in (*line, "--then")][:-1]
        for last in (common, missing)
    ]
    told = Together(both, tmp_path).ended()
    assert [code for code, _, _ in told] == [2, 2], told
    assert "process 1 of 2 cannot continue" in told[0][2]
    assert "does not exist" in told[1][2] or "missing" in told[1][2]
    assert all("Traceback" not in stderr for _, _, stderr in told)
    assert not (tmp_path / "run").exists()
    assert told[1][1] == ""
    for line in lines(tmp_path / "alone"):
        assert commands.main("train", *line) == 0
    read = json.JSONDecoder().raw_decode
    ours, theirs = read(told[0][1])[0], read(capsys.readouterr().out)[0]
    for one, other in zip(ours["phases"], theirs["phases"], strict=True):
        for key in ("trainable_params", "optimizer_bytes", "cut", "cached_prefix"):
            assert one[key] == other[key]
        # Dividing takes a few operations of its own.
        assert one["step_flops"] == pytest.approx(other["step_flops"], rel=0.01)
    assert not (tmp_path / "dry").exists()
    ours, theirs = (
        json.loads((folder / "found" / "lr_finder.json").read_text())
        for folder in (tmp_path, tmp_path / "alone")
    )
    # Higher rates make more of rounding than a training does.
    assert ours["losses"][:60] == pytest.approx(theirs["losses"][:60], rel=ROUNDING, abs=0)
    ours, theirs = (
        json.loads((folder / "seeds" / "seeds.json").read_text())
        for folder in (tmp_path, tmp_path / "alone")
    )
    assert ours["seeds"] == theirs["seeds"] == [0, 1]
    assert ours["val_accuracy"] == theirs["val_accuracy"]
    losses = [
        [json.loads(line)["train_loss"] for line in path.read_text().splitlines()]
        for folder in (tmp_path, tmp_path / "alone")
        for path in sorted((folder / "seeds").glob("seed-*/metrics.jsonl"))
    ]
    assert losses[0] != losses[1]
    for one, other in zip(losses[:2], losses[2:], strict=True):
        assert one == pytest.approx(other, rel=ROUNDING, abs=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"coordinator": "host:1"}, "--num-processes and --process-id missing"),
        ({"coordinator": "host", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
        ({"coordinator": "host:0", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
        ({"coordinator": "h:" + 5000 * "9", "num_processes": 2, "process_id": 0}, "HOST:PORT"),
        ({"coordinator": "host:1", "num_processes": 0, "process_id": 0}, "--num-processes"),
        ({"coordinator": "host:1", "num_processes": 2, "process_id": 2}, "--process-id"),
    ],
)
def test_options_of_processes(given, words):
    with pytest.raises(UserError, match=words):
        RunConfig(**given).check_processes()


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


def test_what_one_process_does_alone(monkeypatch):
    monkeypatch.setattr(processes, "join", lambda *cluster: None)
    monkeypatch.setattr(processes, "is_distributed", lambda: True)
    config = Config(train=TrainConfig(solver="lbfgs"))
    with pytest.raises(UserError, match=r"--solver lbfgs .* in a single process"):
        command._join(config)
    monkeypatch.setattr(processes, "is_distributed", lambda: False)
    command._join(config)


def test_many_processes_keep_no_converted_weights(tiny_model, tmp_path, monkeypatch):
    """Orbax would leave the writing to the first process; each converts for itself."""
    assert tiny_model == "tiny"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="by a single process"):
        tiny.write_weights(tmp_path / "weights")
    assert list(tmp_path.iterdir()) == []
