"""One run's folder and several processes: readers, second starts, restarts by one command line."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jtl
from jtl.common.errors import UserError
from jtl.runs.checkpoints import reading
from jtl.runs.lock import LOCK
from support import commands, tiny
from support.run_folders import (
    BOUND,
    SCRIPT,
    arguments,
    assert_same,
    ended,
    run,
    started,
    stopped,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.usefixtures("warm_starts"),
]


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six epochs that nobody disturbed."""
    folder = tmp_path_factory.mktemp("writers") / "whole"
    assert commands.main("train", *arguments(tiny_data, folder)) == 0
    return folder


def test_readers_leave_a_training_alone(tiny_data, tmp_path):
    folder, other = tmp_path / "run", tmp_path / "whole"
    words = [arguments(tiny_data, place, epochs=8) for place in (folder, other)]
    # The second one has no readers, and whatever else is the same.
    process, read = started([*words[0], "--then", *words[1]], TINY_OFTEN="1"), []
    refused: list[str] = []
    while process.poll() is None and not other.exists():
        try:
            read.append(jtl.load(folder).epoch)
        except UserError as error:
            refused.append(str(error))
            time.sleep(0.01)
    code, _, err = ended(process)
    assert code == 0, err
    assert "Traceback" not in err
    # Only at first.
    assert [told for told in refused if "no finished" not in told and "not a run" not in told] == []
    assert len(set(read)) > 3, "a disk this slow shows nothing"
    assert read == sorted(read)
    assert_same(folder, other)
    assert sorted(x.name for x in folder.iterdir()) == sorted(x.name for x in other.iterdir())
    assert {x.name for x in (folder / "checkpoints").iterdir()} == {
        str(reading.restore(folder, which).epoch) for which in ("best", "latest")
    }


class Held:
    """A training that stands still as soon as it has its folder."""

    def __init__(self, words: list[str], folder: Path):
        self.process = started(words)
        lock = folder / LOCK
        self._wait(lambda: lock.exists() and lock.read_text().endswith("\n"))

    def _wait(self, reached: Any) -> None:
        until = time.monotonic() + BOUND
        while not reached():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < until
            time.sleep(0.001)
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGCONT)
        return ended(self.process)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def killed() -> Iterator[list[Held]]:
    held: list[Held] = []
    yield held
    for one in held:
        one.kill()


@pytest.mark.parametrize("second", ["", "--resume", "--resume=must", "--seeds=2"])
def test_a_second_start_is_refused_and_changes_nothing(
    whole, tiny_data, tmp_path, killed, second, capsys
):
    folder = tmp_path / "run"
    words = arguments(tiny_data, folder)
    first = Held(words, folder)
    killed.append(first)
    before = sorted(folder.rglob("*"))
    code = commands.main("train", *words, *([second] if second else []))
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), err
    err = err.replace("\n", " ")
    if second == "--resume=must":
        assert "it has no config.json, so there is nothing to resume" in err
    else:
        assert f"process {first.process.pid} on {socket.gethostname()} (since 20" in err
        assert f"is training in '{folder}'" in err
    assert sorted(folder.rglob("*")) == before
    if second == "--resume":
        code, _, err = first.go_on()
        assert code == 0, err
        assert_same(folder, whole)
        assert not (folder / LOCK).exists()


def test_a_lock_dies_with_its_process(whole, tiny_data, tmp_path, killed):
    folder = tmp_path / "run"
    words = arguments(tiny_data, folder, "--resume")
    first = Held(words, folder)
    killed.append(first)
    first.kill()
    assert (folder / LOCK).exists()
    assert commands.main("train", *words) == 0
    assert_same(folder, whole)


def test_a_copied_folder_is_not_locked(whole, tiny_data, tmp_path, killed):
    folder, copy = tmp_path / "run", tmp_path / "copy"
    words = arguments(tiny_data, folder)
    assert stopped(words, 10) == 128 + signal.SIGTERM
    first = Held([*words, "--resume"], folder)
    killed.append(first)
    shutil.copytree(folder, copy)
    assert (copy / LOCK).exists()
    assert commands.main("train", "--resume", f"--run-dir={copy}") == 0
    assert first.go_on()[0] == 0
    assert_same(copy, whole)
    assert_same(folder, whole)


def test_one_command_line_starts_goes_on_and_shows_the_result(whole, tiny_data, tmp_path):
    folder = tmp_path / "new" / "run"
    words = arguments(tiny_data, folder, "--resume", "--json")
    code, _, err = run(words, TINY_SIGNAL=f"7:{signal.SIGTERM.value}")
    assert code == 128 + signal.SIGTERM, err
    assert f"There is no run in '{folder}' yet; starting it now" in err
    code, out, err = run(words)
    assert code == 0, err
    assert "Resuming from epoch" in err
    assert_same(folder, whole)
    files = {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}
    again, shown, err = run(words)
    assert (again, json.loads(shown)) == (0, json.loads(out)), err
    assert f"The run in '{folder}' is already finished" in err
    command = shlex.join([sys.executable, str(SCRIPT), *words])
    closed = subprocess.run(
        ["sh", "-c", f"{command} >&-"], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, err)
    assert {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))} == files
    with pytest.raises(UserError, match="is not empty"):
        jtl.fit(f"folder:{tiny_data}", run_dir=folder)


@pytest.mark.parametrize(
    "leftovers", [(), ("checkpoints",), ("checkpoints/3.orbax-checkpoint-tmp-5",)]
)
def test_a_barely_begun_folder_starts(tiny_data, tmp_path, leftovers, capsys):
    folder = tmp_path / "run"
    for name in leftovers:
        (folder / name).mkdir(parents=True)
    folder.mkdir(exist_ok=True)
    (folder / f"config.json.{'0f' * 16}.tmp").write_text("{")
    (folder / LOCK).write_text("{")
    if leftovers:
        (folder / ".jtl-begun").touch()
        (folder / "metrics.jsonl").write_text('{"epoch": 1}\n')
    words = arguments(tiny_data, folder, epochs=1)
    assert commands.main("train", *words, *(["--resume"] if leftovers else [])) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoints", "config.json", "curves.png", "data.json", "metrics.jsonl",
        "report.md", "selective.json", "summary.json",
    ]  # fmt: skip
    assert ("starting it now" in capsys.readouterr().err) == bool(leftovers)


def test_a_run_with_its_config_alone_starts_from_the_beginning(whole, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(whole / "config.json", folder)
    assert commands.main("train", "--resume=must", f"--run-dir={folder}") == 0
    assert "has no checkpoint yet; starting from the beginning" in capsys.readouterr().err
    assert_same(folder, whole)


@pytest.mark.parametrize(
    ("resume", "code", "told"),
    [
        ("never", 2, "is not empty: it contains mine.txt"),
        ("auto", 0, "also contains mine.txt, which jtl leaves alone"),
        ("must", 2, "is not a run"),
    ],
)
def test_what_is_no_run_is_left_alone(tiny_data, tmp_path, resume, code, told, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    words = arguments(tiny_data, folder, f"--resume={resume}", epochs=1)
    assert commands.main("train", *words) == code
    assert told in capsys.readouterr().err.replace("\n", " ")
    assert (folder / "mine.txt").read_text() == "mine"
    if code:
        assert [path.name for path in folder.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("checkpoints", [False, True])
def test_a_run_of_an_earlier_version_that_had_barely_begun(whole, tmp_path, checkpoints, capsys):
    # Before there was `.jtl-begun`: its config.json says whose the folder is.
    folder, stored = tmp_path / "run", json.loads((whole / "config.json").read_text())
    folder.mkdir()
    for key in ("started_in", "weights_source"):
        del stored[key]
    del stored["train"]["extended"]
    (folder / "config.json").write_text(json.dumps(stored))
    (folder / "metrics.jsonl").write_text('{"epoch": 1}\n{"ep')
    if checkpoints:
        (folder / "checkpoints" / "1.orbax-checkpoint-tmp-0" / "variables").mkdir(parents=True)
        (folder / "slurm-1.out").write_text("theirs")
    assert commands.main("train", "--resume", f"--run-dir={folder}") == 0
    assert "starting from the beginning" in capsys.readouterr().err
    assert_same(folder, whole)
    assert (folder / "slurm-1.out").exists() == checkpoints


def test_a_signal_in_features_keeps_them(tiny_data, tmp_path):
    # Two batches of 32 images, of which the first is computed.
    data = tiny.write_folder(tmp_path / "data", train=20)
    shutil.copytree(tiny_data.parent / "weights", tmp_path / "weights")
    folder, cache = tmp_path / "run", {"JTL_CACHE": str(tmp_path / "cache")}
    words = arguments(data, folder, "--resume", mask="head_only", epochs=2)
    code, _, err = run(words, TINY_FEATURES=f"1:{signal.SIGTERM.value}", **cache)
    assert code == 128 + signal.SIGTERM
    assert "Stopped while computing features; those computed so far are saved" in err
    assert "Traceback" not in err
    assert not folder.exists()
    # The second one would end in the second batch, and has only that one left.
    code, _, err = run(words, TINY_FEATURES=f"2:{signal.SIGTERM.value}", **cache)
    assert code == 0, err
