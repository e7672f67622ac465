"""Comparing runs: what differs, the best first, and their curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from jtl.compare import command as compare
from jtl.train import loop
from support import tiny
from support.commands import main


@pytest.fixture(scope="module")
def runs(tiny_run, tiny_data, tmp_path_factory):
    """Two runs that differ in two options."""
    folder = tmp_path_factory.mktemp("runs") / "other [b]"
    other = loop.fit(tiny.config(tiny_data, folder, epochs=3, lr=0.2), tiny.quiet())
    return tiny_run, other


def test_the_table(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "c.png"
    assert main("compare", *(run.folder for run in runs), "--out", out) == 0
    text = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in text.splitlines()
        if line.startswith("│ ")
    ]
    order = sorted(runs, key=lambda r: (-r.summary["val_accuracy"], r.summary["val_loss"]))
    for number, run in enumerate(order, 1):
        summary = run.summary
        figures = [f"{summary[key]:.4f}" for key in ("val_accuracy", "val_loss", "val_macro_f1")]
        row = rows[number - 1]
        assert run.folder.name in row[1]
        assert [row[0], *row[2:6]] == [
            str(number), *figures, f"{summary['best_epoch']}/{summary['epochs']}",
        ]  # fmt: skip
    trained = [run.config.train for run in order]
    assert rows[2:] == [
        ["--epochs", *(str(train.epochs) for train in trained)],
        ["--lr", *(str(train.lr) for train in trained)],
    ]
    with Image.open(out) as image:
        assert image.format == "PNG"


def test_json(runs, capsys):
    assert main("compare", *(run.folder for run in runs), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["different"] == ["epochs", "lr"]
    assert {run["run"] for run in told["runs"]} == {str(run.folder) for run in runs}
    assert all(run["finished"] for run in told["runs"])


def test_a_run_that_goes_on(runs, tmp_path, capsys):
    folder = tmp_path / "going"
    folder.mkdir()
    (folder / "config.json").write_bytes((runs[0].folder / "config.json").read_bytes())
    assert main("compare", folder) == 2
    assert "has not finished its first epoch yet" in capsys.readouterr().err
    lines = (runs[0].folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(lines + '{"epoch": 3, "val')
    found = compare.compared(folder, compare.read_history(folder))
    assert (found.finished, found.epochs) == (False, 2)
    assert found.val_accuracy == runs[0].summary["val_accuracy"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "which runs?"),
        (["nowhere"], "'nowhere' is not a run: there is no such folder"),
        (["nowhere", "--out", "x.jpg"], "--out writes a .png file, not 'x.jpg'"),
    ],
)
def test_what_cannot_be_compared(args, told, capsys, elsewhere):
    assert main("compare", *args) == 2
    assert told in capsys.readouterr().err


def recorded(folder: Path, metric: str, accuracy: float, other: float) -> Path:
    """What of a run is compared: one epoch, in whose line the metric is `other`."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"train": {"metric": metric}}))
    line = {"epoch": 1, "val_accuracy": accuracy, "val_loss": 0.5, f"val_{metric}": other}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return folder


@pytest.mark.parametrize(
    ("metric", "better", "worse"),
    [("auroc", 0.9, 0.6), ("macro_f1", 0.9, 0.6), ("loss", 0.1, 0.4)],
)
def test_the_best_run_by_its_metric(tmp_path, capsys, metric, better, worse):
    first = recorded(tmp_path / "first", metric, 0.6, better)
    second = recorded(tmp_path / "second", metric, 0.9, worse)
    assert main("compare", second, first, "--json") == 0
    told = json.loads(capsys.readouterr().out)["runs"]
    assert [run["run"] for run in told] == [str(first), str(second)]
    assert [run["val_metric"] for run in told] == [better, worse]
    assert main("compare", second, first) == 0
    text = capsys.readouterr().out
    assert f"best first by {metric}" in text
    assert f"{better:.4f}" in text


def test_runs_of_different_metrics_are_ordered_by_accuracy(tmp_path, capsys):
    first = recorded(tmp_path / "first", "auroc", 0.9, 0.6)
    second = recorded(tmp_path / "second", "accuracy", 0.8, 0.8)
    assert main("compare", second, first) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.index("first") < text.index("second")
    assert "by different metrics (accuracy, auroc); the order here is by accuracy." in text
