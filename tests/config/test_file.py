"""`--config`: a file and the command line together, and a run's own options once more."""

from __future__ import annotations

import json

import pytest

from jtl.cli import app
from jtl.config.options import Config
from jtl.train.fit import fit
from support import tiny
from support.commands import main

FILE = """
# What we found to work.
model: resnet18
lr: 1e-3
head_widths: [64, 32]
head: mlp
mask: last_stage
decay-at: 0.4
schedule: step
train:
  epochs: 7
  seed: null
head_batch_norm: true
"""


def parsed(*args) -> Config:
    seen = []
    assert app.main(Config, seen.append, prog="train", args=[str(arg) for arg in args]) == 0
    return seen[0]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize("tied", [True, False])
def test_the_command_line_comes_before_the_file(file, tied):
    named = [f"--config={file}"] if tied else ["--config", file]
    config = parsed("--epochs", 3, *named, "--head-widths", "8", "--no-head-batch-norm")
    assert (config.model.model, config.train.mask, config.train.lr) == (
        "resnet18",
        "last_stage",
        1e-3,
    )
    assert (config.model.head_widths, config.model.head_batch_norm) == ((8,), False)
    assert (config.train.epochs, config.train.seed) == (3, 0)
    assert config.steps.decay_at == (0.4,)
    only = parsed(*named)
    assert (only.model.head_widths, only.model.head_batch_norm) == ((64, 32), True)
    assert only.train.epochs == 7


def test_the_last_file_counts(file, tmp_path):
    (tmp_path / "other.yaml").write_text("lr: 0.5\n")
    config = parsed("--config", file, "--config", tmp_path / "other.yaml")
    assert (config.train.lr, config.train.epochs) == (0.5, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("learning: 3", "there is no option 'learning'"),
        ("optimiser: sgd", "there is no option 'optimiser'. Did you mean 'optimizer'?"),
        ("train: {lr: 1, epochs: 2}\nlr: 3", "gives 'lr' twice"),
        ("lr: 3\nepochs: 1\nlr: 3", "gives 'lr' twice"),
        ("train: {lr: 1, lr: 2}", "gives 'lr' twice"),
        ("seed: 2026-13-45", "is not YAML: month must be in 1..12"),
        ("seed: " + "9" * 5000, "is not YAML: Exceeds the limit"),
        ("lr: " + "[" * 3000, "is not YAML: maximum recursion depth exceeded"),
        ("- lr", "must contain lines NAME: VALUE"),
        ("lr: [", "is not YAML: "),
        ("lr: {a: 1}", "'lr' must be a value or a list of values"),
        ("config: other.yaml", "there is no option 'config'"),
        ("epochs: many", "in the file of --config: --epochs must be a whole number, not 'many'"),
        ("resume: 3", "file of --config: --resume must be one of never, auto or must, not '3'"),
        ("json: 3", "in the file of --config: --json is a switch and takes no value"),
        ("flip: no", "'flip' is not a switch, but YAML reads its value as false"),
    ],
)
def test_refusals(text, told, tmp_path, capsys, elsewhere):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert main("train", "--config", path) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert "Traceback" not in captured.err
    assert list(elsewhere.iterdir()) == []


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main("train", "--config", tmp_path / "run.yaml") == 2
    assert "run.yaml': No such file" in capsys.readouterr().err
    assert main("train", "--config") == 2
    assert "--config needs a path" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        dict(mask="full", epochs=None, lr=None),
        dict(phases="1,head_only;1,last_stage,1e-3", epochs=None, lr=None),
        dict(solver="lbfgs", epochs=None, lr=None),
    ],
    ids=["mask", "phases", "lbfgs"],
)
def test_a_run_can_be_done_again_from_its_own_options(tiny_data, tmp_path, options):
    if options.get("mask"):
        options = {**options, "epochs": 1}
    first = fit(tiny.config(tiny_data, tmp_path / "first", **options), tiny.quiet())
    stored = first.folder / "config.json"
    if options.get("mask"):
        told = json.loads(stored.read_text())
        assert (told["train"]["lr"], told["train"]["head_lr_mult"]) == (1e-4, 10.0)
        assert (told["train"]["weight_decay"], told["steps"]["warmup"]) == (1e-3, 0.1)
    again = parsed("--config", stored, "--run-dir", tmp_path / "again")
    assert again.run.run_dir == tmp_path / "again"
    second = fit(again, tiny.quiet())
    for key in ("val_loss", "val_accuracy", "epochs"):
        assert second.summary[key] == first.summary[key]
    assert (
        json.loads((second.folder / "config.json").read_text())["train"]
        == (json.loads(stored.read_text())["train"])
    )


def test_training_from_a_file(tiny_data, tmp_path, capsys):
    path, folder = tmp_path / "run.yaml", tmp_path / "run"
    weights = tiny_data.parent / "weights"
    path.write_text(
        f"model: tiny\nweights: {weights}\ndata: folder:{tiny_data}\nepochs: 1\njson: true\n"
    )
    assert main("train", "--config", path, "--run-dir", folder) == 0
    assert json.loads(capsys.readouterr().out)["epochs"] == 1
