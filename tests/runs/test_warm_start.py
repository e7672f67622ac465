"""A run that began with the weights of another run, which has gone on or is gone."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console

from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.config import walk
from jtl.config.options import Config
from jtl.runs import warm_start
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import Restored
from jtl.train.fit import fit
from support import tiny
from support.run_folders import assert_same


def goes_on(source: Path) -> None:
    """Its best checkpoint is another one now."""
    epoch = reading.restore(source).epoch
    fingerprints = source / "checkpoints" / str(epoch) / "files.json"
    fingerprints.write_text(fingerprints.read_text() + "\n")


def is_damaged(source: Path) -> None:
    for fingerprints in source.rglob("files.json"):
        fingerprints.write_text("{")


@pytest.fixture
def source(full_run, tmp_path: Path) -> Path:
    return shutil.copytree(full_run.folder, tmp_path / "source")


def _config(data: Path, folder: Path, source: Path, **options: object) -> Config:
    config = tiny.config(data, folder, weights=str(source), epochs=3)
    return walk.replace(config, {"head": "append", **options})


def _resumed(folder: Path) -> str:
    told = io.StringIO()
    fit(tiny.resumed(folder), Display(Console(file=told, width=1000)))
    return told.getvalue()


PLANS = {
    "last_stage": dict(mask="last_stage", ema=0.5, bn="batch"),
    # Leaves that are frozen when it is stopped train later.
    "phases": dict(phases="1,head_only;2,last_stage", epochs=None, lr=None),
}


@pytest.mark.usefixtures("real_probe")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("plan", "change"),
    [
        ("last_stage", goes_on),
        ("last_stage", is_damaged),
        ("phases", shutil.rmtree),
    ],
)
def test_it_goes_on_from_its_own_checkpoint(tiny_data, source, tmp_path, monkeypatch, plan, change):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    ended = fit(_config(tiny_data, whole, source, **PLANS[plan]), tiny.quiet())
    tiny.fit_until(1, _config(tiny_data, folder, source, **PLANS[plan]), monkeypatch)
    epoch = reading.restore(source).epoch
    change(source)
    told = _resumed(folder)
    assert f"no longer has what this run began with (run source, epoch {epoch})" in told
    assert_same(folder, whole)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["weights"] == ended.summary["weights"] != {}
    assert summary["frozen_unchanged"]
    # What the trained leaves began with is not known any more.
    assert summary["probe_val_accuracy"] is None
    assert ended.summary["probe_val_accuracy"] is not None


@pytest.mark.usefixtures("real_probe")
def test_while_the_other_run_is_as_it_was_nothing_is_said(tiny_data, source, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    tiny.fit_until(1, _config(tiny_data, folder, source, mask="last_stage"), monkeypatch)
    assert "no longer" not in _resumed(folder)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["probe_val_accuracy"] is not None


@pytest.mark.parametrize(
    ("change", "told"),
    [(goes_on, "has other weights by now"), (is_damaged, "cannot be read"),
     (shutil.rmtree, "is gone")],
)  # fmt: skip
def test_without_a_checkpoint_it_says_what_to_bring_back(
    tiny_data, source, tmp_path, monkeypatch, change, told
):
    folder = tmp_path / "run"
    epoch = reading.restore(source).epoch
    tiny.fit_until(1, _config(tiny_data, folder, source), monkeypatch)
    shutil.rmtree(folder / "checkpoints")
    change(source)
    with pytest.raises(UserError) as raised:
        _resumed(folder)
    message = str(raised.value)
    assert f"it began with run source, epoch {epoch}, and '{source}' {told}" in message
    assert "Bring that checkpoint back; or start again" in message
    assert not (folder / ".lock").exists()


def test_a_pull_to_what_is_gone_is_refused(tiny_data, source, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    config = _config(tiny_data, folder, source, mask="last_stage", l2_sp=0.1)
    tiny.fit_until(1, config, monkeypatch)
    goes_on(source)
    with pytest.raises(UserError, match="--l2-sp pulls towards the weights that the run began"):
        _resumed(folder)


def test_a_checkpoint_that_goes_while_it_is_read(source, monkeypatch):
    sha256, restore = reading.restore(source).sha256, reading.restore

    def replaced(folder: Path) -> Restored:
        restored = restore(folder)
        shutil.rmtree(folder / "checkpoints" / str(restored.epoch))
        return restored

    monkeypatch.setattr(reading, "restore", replaced)
    found = warm_start.of_run(str(source), "tiny")
    assert found is not None
    assert found.sha256 == sha256 != ""


def test_a_checkpoint_that_goes_before_it_is_read_is_not_the_last_word(
    source, full_run, monkeypatch
):
    read, gone = reading._read_arrays, []

    def replaced(folder: Path, *rest: Any) -> Any:
        if not gone:
            gone.append(folder)
            later = folder.with_name("9")
            shutil.copytree(folder, later)
            metrics = later / "metrics" / "metrics"
            metrics.write_text(metrics.read_text().replace('"best": ', '"best": 9'))
            (later / "files.json").write_text("{}")
            shutil.rmtree(folder)
        return read(folder, *rest)

    monkeypatch.setattr(reading, "_read_arrays", replaced)
    found = warm_start.of_run(str(source), "tiny")
    assert found is not None
    assert found.source == "run source, epoch 9"
    variables = reading.restore(full_run.folder).variables
    jax.tree.map(np.testing.assert_array_equal, found.variables, variables)


@pytest.mark.parametrize("config", [None, '{"model_type": "resnet"}'])
def test_a_folder_of_others_may_hold_checkpoints_too(tiny_data, tmp_path, config):
    folder = shutil.copytree(tiny_data.parent / "weights", tmp_path / "weights")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "epoch=3.ckpt").touch()
    if config:
        (folder / "config.json").write_text(config)
    assert warm_start.of_run(str(folder), "tiny") is None


@pytest.mark.slow
def test_a_run_that_has_barely_begun_is_a_run(source):
    shutil.rmtree(source / "checkpoints")
    (source / "checkpoints").mkdir()
    with pytest.raises(UserError, match="no finished checkpoint"):
        warm_start.of_run(str(source), "tiny")
