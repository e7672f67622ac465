"""A run that goes on follows its images: by what they hold, wherever and however old they are."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from jtl.runs.resume import stored_config
from support import commands, tiny


@pytest.fixture
def stopped(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A run that was killed after its first epoch, and the folder of its images."""
    data, folder = tmp_path / "here" / "data", tmp_path / "run"
    shutil.copytree(tiny_data, data)
    shutil.copytree(tiny_data.parent / "weights", data.parent / "weights")
    monkeypatch.chdir(data.parent)
    config = tiny.config(Path("data"), folder, weights="weights", epochs=2, mask="full")
    tiny.fit_until(1, config, monkeypatch)
    return data, folder


@pytest.mark.slow
def test_files_with_other_times_are_the_same(stopped, capsys):
    data, folder = stopped
    for path in data.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    assert commands.main("train", "--resume", f"--run-dir={folder}") == 0
    assert "have new times or places, but the same content" in capsys.readouterr().err
    # From now on these are the run's own.
    assert commands.main("evaluate", folder, "--json") == 0


def test_data_that_have_moved_are_the_same(stopped, monkeypatch, tmp_path):
    data, folder = stopped
    moved = data.rename(tmp_path / "moved")
    words = ["--resume", f"--run-dir={folder}"]
    assert commands.main("train", *words) == 2
    for path in moved.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    assert commands.main("train", *words, f"--data=folder:{moved}") == 0
    assert stored_config(folder).data.data == f"folder:{moved}"


def test_what_has_changed_is_named(stopped, capsys):
    data, folder = stopped
    first, second, *_ = sorted((data / "train" / "ash").iterdir())
    second.write_bytes((data / "train" / "birch" / "0.png").read_bytes())
    first.rename(first.with_name("new.png"))
    assert commands.main("train", "--resume", f"--run-dir={folder}") == 2
    told = capsys.readouterr().err
    assert (
        f"images: 1 added: train/ash/new.png; 1 lost: train/ash/{first.name}; "
        f"1 changed: train/ash/{second.name}"
    ) in told


def test_many_that_have_changed_are_counted(stopped, capsys):
    data, folder = stopped
    for path in (data / "train").rglob("*.png"):
        path.rename(path.with_name(f"x{path.name}"))
    assert commands.main("train", "--resume", f"--run-dir={folder}") == 2
    told = capsys.readouterr().err
    assert "18 added: train/ash/x0.png, " in told
    assert " and 8 more; 18 lost: " in told


def test_relative_paths_are_found_from_elsewhere(stopped, monkeypatch, tmp_path):
    _, folder = stopped
    assert json.loads((folder / "config.json").read_text())["data"]["data"] == "folder:data"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert commands.main("train", "--resume", f"--run-dir={folder}") == 0
    assert commands.main("evaluate", folder, "--json") == 0


def test_a_run_of_before_tells_no_files(stopped, capsys):
    data, folder = stopped
    (folder / "data.json").unlink()
    for path in data.rglob("*.png"):
        os.utime(path, ns=(1, 1))
    assert commands.main("train", "--resume", f"--run-dir={folder}") == 2
    assert "data_fingerprint" in capsys.readouterr().err
