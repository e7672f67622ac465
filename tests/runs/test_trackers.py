"""Trackers: what they are told, and that none of them can end a run."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from jtl.common.errors import UserError
from jtl.config.options import Config
from jtl.runs import trackers
from jtl.train.fit import fit
from support import tiny
from support.commands import main

NAMES = {
    "train/loss", "val/loss", "train/accuracy", "val/accuracy", "learning_rate",
    "images_per_second",
}  # fmt: skip


def logging_to(config: Config, *names: str) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, log_to=names))


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    """{(name, step): value} of the event files in a folder, read as TensorBoard's own format."""
    from tensorboardX.event_file_writer import EventFileWriter  # noqa: F401
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):
            length = int.from_bytes(data[place : place + 8], "little")
            event = Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found[value.tag, event.step] = value.simple_value
    return found


def test_tensorboard(tiny_data, tmp_path):
    run = fit(logging_to(tiny.config(tiny_data, tmp_path / "run"), "tensorboard"), tiny.quiet())
    found = scalars(run.folder / "tensorboard")
    assert set(found) == {(name, epoch) for name in NAMES for epoch in (1, 2)}
    for line in tiny.lines_of(run):
        assert found["val/accuracy", line["epoch"]] == pytest.approx(line["val_accuracy"])
        assert found["train/loss", line["epoch"]] == pytest.approx(line["train_loss"])
    stored = Config.from_dict(json.loads((run.folder / "config.json").read_text()))
    assert stored.run == run.config.run


def test_a_resumed_run_goes_on_in_the_same_place(tiny_data, tmp_path, monkeypatch):
    config = logging_to(tiny.config(tiny_data, tmp_path / "run", epochs=3), "tensorboard")
    tiny.fit_until(1, config, monkeypatch)
    run = fit(tiny.resumed(tmp_path / "run"), tiny.quiet())
    found = scalars(run.folder / "tensorboard")
    assert {step for _, step in found} == {1, 2, 3}
    for line in tiny.lines_of(run):
        assert found["val/loss", line["epoch"]] == pytest.approx(line["val_loss"])


def test_a_run_that_fails_leaves_no_events(tiny_data, tmp_path):
    folder = tiny.write_folder(tmp_path / "data")
    victim = folder / "train" / "birch" / "3.png"
    config = tiny.config(folder, tmp_path / "run", weights=str(tiny_data.parent / "weights"))
    victim.write_bytes(victim.read_bytes()[:-60])
    with pytest.raises(UserError, match="cannot be read"):
        fit(logging_to(config, "tensorboard"), tiny.quiet())
    assert not (tmp_path / "run").exists()


class Fake:
    """What of wandb and mlflow is called, and with what."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.id = "abc"
        self.info = types.SimpleNamespace(run_id="abc")

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Fake:
            self.calls.append((name, (args, kwargs)))
            return self

        return call


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_others_are_told_the_same(name, tiny_data, tmp_path, monkeypatch):
    fake = Fake()
    module = types.ModuleType(name)
    module.__getattr__ = lambda key: getattr(fake, key)  # pyright: ignore
    module.__spec__ = types.SimpleNamespace(name=name)  # pyright: ignore
    monkeypatch.setitem(sys.modules, name, module)
    config = logging_to(tiny.config(tiny_data, tmp_path / "run"), name)
    run = fit(config, tiny.quiet())
    verb = {"wandb": "log", "mlflow": "log_metrics"}[name]
    logged = [(args[0], kwargs["step"]) for call, (args, kwargs) in fake.calls
              if call == verb and "step" in kwargs]  # fmt: skip
    assert [step for _, step in logged] == [1, 2]
    for (values, _), line in zip(logged, tiny.lines_of(run), strict=True):
        assert set(values) == NAMES
        assert values["val/accuracy"] == line["val_accuracy"]
    ended = [call for call, _ in fake.calls if call in ("finish", "end_run")]
    assert len(ended) == 1
    assert json.loads((run.folder / f"{name}.json").read_text()) == {"id": "abc"}
    if name == "wandb":
        assert fake.summary["val_accuracy"] == run.summary["val_accuracy"]


def test_a_sink_that_fails_is_left_out(tiny_data, tmp_path, monkeypatch, capsys):
    class Broken:
        def __init__(self, *_):
            pass

        def log(self, epoch, values):
            raise ConnectionError("no route to host.\nmore")

        def close(self, summary):
            pytest.fail("was left out")

    monkeypatch.setitem(trackers._KINDS, "tensorboard", Broken)
    told: list[str] = []
    with trackers.opened(["tensorboard"], tmp_path, {}, 0, told.append) as opened:
        opened.log({"epoch": 1, "train_loss": 1.0})
        opened.log({"epoch": 2, "train_loss": 1.0})
    assert told == ["tensorboard stopped accepting this run's metrics: no route to host"]


def test_a_library_that_is_missing(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "_MODULES", {"wandb": "no_such_library"})
    assert main("train", "--log-to", "wandb", "--run-dir", tmp_path / "run") == 2
    assert "--log-to wandb needs no_such_library" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_sink_that_cannot_be_opened(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("not logged in")

    monkeypatch.setitem(trackers._KINDS, "wandb", refuse)
    with (
        pytest.raises(UserError, match=r"--log-to wandb cannot be opened: not logged in\. Log in"),
        trackers.opened(["wandb"], tmp_path, {}, 0, print),
    ):
        pytest.fail("was opened")
