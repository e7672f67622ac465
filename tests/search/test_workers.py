"""Processes that train trials of one search side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import types

import pytest

import jtl
from jtl.cli import app
from jtl.common.errors import UserError
from jtl.runs.files import read_json
from jtl.search import mirrored, sampling, session, space, workers
from jtl.search.options import Options, SearchConfig
from jtl.search.trials import Store, Trial
from jtl.search.workers import Share, Team, shares
from support import tiny


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 2, 4, 6, 8}, raising=False)


@pytest.fixture
def gpus(monkeypatch):
    """A machine with JAX for CUDA and four GPUs, as `nvidia-smi` tells."""
    found = "GPU 0: H100 (UUID: a)\n  MIG 1g.10gb\nGPU 1: H100\nGPU 2: H100\nGPU 3: H100\n"
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(workers.importlib.util, "find_spec", lambda name: "plugin" in name)
    listed = types.SimpleNamespace(stdout=found)
    monkeypatch.setattr(workers.subprocess, "run", lambda *words, **options: listed)


def test_cores_are_divided(cores):
    assert shares(SearchConfig()) == [Share(1)]
    assert shares(SearchConfig(workers=1)) == [Share(1)]
    two = shares(SearchConfig(workers=2))
    assert two == [Share(1, None, (0, 2)), Share(2, None, (4, 6, 8))]
    with pytest.raises(UserError, match=r"--workers 6: there are 5 CPU cores, .* Use at most 5\."):
        shares(SearchConfig(workers=6))
    with pytest.raises(UserError, match="no TPU"):
        shares(SearchConfig(workers=2, device="tpu"))


def test_each_gpu_gets_a_process(gpus, cores, monkeypatch):
    assert [share.gpu for share in shares(SearchConfig())] == ["0", "1", "2", "3"]
    assert [share.gpu for share in shares(SearchConfig(workers=2, device="gpu"))] == ["0", "1"]
    # All GPUs for one process, as in a training.
    assert shares(SearchConfig(workers=1)) == [Share(1)]
    with pytest.raises(UserError, match="--workers 5: there are 4 GPUs"):
        shares(SearchConfig(workers=5))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc")
    assert [share.gpu for share in shares(SearchConfig())] == ["2", "GPU-abc"]
    assert shares(SearchConfig(device="cpu")) == [Share(1)]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert shares(SearchConfig()) == [Share(1)]
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    assert len(shares(SearchConfig())) == 2


def test_workers_are_started_with_their_share(monkeypatch, tmp_path):
    started = []
    process = types.SimpleNamespace(
        stdin=types.SimpleNamespace(close=lambda: started.append("closed")),
        poll=lambda: None,
        wait=lambda seconds=None: None,
    )
    monkeypatch.setattr(
        workers.subprocess, "Popen", lambda *words, **options: started.append(options) or process
    )
    search = SearchConfig(cache_budget="3GB", device="gpu")
    team = Team([Share(1, "0"), Share(2, "1"), Share(3, "2")], search)
    assert team.cache_budget == "1000000000"
    left = iter([2.0, 1.0, 0.0])
    with team.working(tmp_path, tiny.quiet()):
        team.wait(lambda: next(left))  # They do not end, but their time does.
        assert "closed" not in started
    first, second, *ends = started
    assert (first["env"]["CUDA_VISIBLE_DEVICES"], second["env"]["CUDA_VISIBLE_DEVICES"]) == (
        "1",
        "2",
    )
    monkeypatch.setenv(workers.VARIABLE, second["env"][workers.VARIABLE])
    assert workers.given() == Share(3, "2")
    assert ends == ["closed", "closed"]


@pytest.mark.process
@pytest.mark.parametrize("killed", [False, True])
def test_a_worker_ends_with_the_process_that_started_it(killed, tmp_path):
    """Also where that is killed, and can ask for nothing."""
    wait = "import time; from jtl.search import workers; workers.end_with_parent(); "
    wait += f"open({str(tmp_path / 'up')!r}, 'w').close(); time.sleep(60)"
    start = f"import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', {wait!r}], "
    start += "stdin=subprocess.PIPE); print(c.pid, flush=True); time.sleep(60)"
    words = [sys.executable, "-c", start if killed else wait]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        number = int(process.stdout.readline()) if killed else process.pid
        while not (tmp_path / "up").exists():
            assert process.poll() is None
            time.sleep(0.02)
        if killed:
            process.kill()
        else:
            process.stdin.close()
            assert process.wait(20) == -signal.SIGTERM
    if not killed:
        return
    for _ in range(1000):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.02)
    raise AssertionError("the worker goes on")


def test_a_worker_trains_and_leaves_the_result_to_the_first(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "available", lambda: False)
    monkeypatch.setattr(mirrored, "measure", lambda engine, winner: None)
    monkeypatch.setattr(space, "heads", list)
    monkeypatch.setattr(space, "STRATEGIES", ())
    given = ["--model", "tiny", "--weights", str(tiny_data.parent / "weights")]
    out = tmp_path / "search"

    class Beside(Team):
        """A worker that runs when the others would be waited for."""

        def wait(self, left):
            monkeypatch.setattr(space, "STRATEGIES", ("last_stage",))
            words = ["--resume", "--out", str(out)]
            before = (out / "search.json").read_bytes()
            ticks = iter(range(100_000))
            session.take_part(
                app.parsed(Options, words, "jtl search"), tiny.quiet(), lambda: 0.01 * next(ticks)
            )
            assert (out / "search.json").read_bytes() == before

    options = app.parsed(
        Options, [f"folder:{tiny_data}", *given, "--out", str(out), "--budget", "10m"], "jtl search"
    )
    clock = iter(range(100_000))
    team = Beside([Share(1)], options.search)
    found = session.run(options, tiny.quiet(), lambda: 0.01 * next(clock), team=team)
    assert [t["name"] for t in found["trials"]] == ["head_only", "last_stage"]
    assert read_json(out / "search.json") == found


def test_one_trial_of_a_name_is_begun_once(tmp_path):
    """Processes may expect different numbers of epochs to fit."""
    store = Store(tmp_path)
    assert store.claim(Trial(0, "full", "plan", {"mask": "full", "epochs": 5})) is not None
    assert store.claim(Trial(0, "full", "plan", {"mask": "full", "epochs": 4})) is None
    assert [t.options["epochs"] for t in store.read()] == [5]


def test_only_the_command_starts_workers(tiny_data, tmp_path):
    with pytest.raises(UserError, match=r"--workers 2: only the command can start processes"):
        jtl.search(tiny_data, budget="1s", out=tmp_path / "x", workers=2, display=tiny.quiet())
    assert not (tmp_path / "x").exists()
