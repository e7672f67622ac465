"""Comparing runs: what differs, the best first, and their curves."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from jtl.compare import command as compare
from jtl.train.fit import fit
from support import tiny
from support.commands import main


@pytest.fixture(scope="module")
def runs(tiny_run, tiny_data, tmp_path_factory):
    """Two runs that differ in two options."""
    folder = tmp_path_factory.mktemp("runs") / "other [b]"
    other = fit(tiny.config(tiny_data, folder, epochs=3, lr=0.2), tiny.quiet())
    return tiny_run, other


def test_the_table(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tmp_path / "c.png"
    assert main("compare", *(run.folder for run in runs), "--out", out) == 0
    text = capsys.readouterr().out
    rows = [
        re.split(r" {2,}", line.strip())
        for line in text.splitlines()
        if re.match(r"  (\d|--) ?", line)
    ]
    order = sorted(runs, key=lambda r: (-r.summary["val_accuracy"], r.summary["val_loss"]))
    for number, run in enumerate(order, 1):
        summary = run.summary
        figures = [f"{summary[key]:.3f}" for key in ("val_accuracy", "val_loss", "val_macro_f1")]
        row = rows[number - 1]
        assert run.folder.name in row[1]
        assert [row[0], *row[2:6]] == [
            str(number), *figures, f"{summary['best_epoch']} of {summary['epochs']}",
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
        ([], "jtl compare needs RUN. For example:"),
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
    ("metric", "called", "better", "worse"),
    [
        ("auroc", "AUROC", 0.9, 0.6),
        ("macro_f1", "macro-F1", 0.9, 0.6),
        ("loss", "loss", 0.1, 0.4),
    ],
)
def test_the_best_run_by_its_metric(tmp_path, capsys, metric, called, better, worse):
    first = recorded(tmp_path / "first", metric, 0.6, better)
    second = recorded(tmp_path / "second", metric, 0.9, worse)
    assert main("compare", second, first, "--json") == 0
    told = json.loads(capsys.readouterr().out)["runs"]
    assert [run["run"] for run in told] == [str(first), str(second)]
    assert [run["val_metric"] for run in told] == [better, worse]
    assert main("compare", second, first) == 0
    text = capsys.readouterr().out
    assert f"best first by {called}" in text
    assert f"{better:.3f}" in text


def test_runs_of_different_metrics_are_ordered_by_accuracy(tmp_path, capsys):
    first = recorded(tmp_path / "first", "auroc", 0.9, 0.6)
    second = recorded(tmp_path / "second", "accuracy", 0.8, 0.8)
    assert main("compare", second, first) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.index(" first ") < text.index(" second ")
    assert "by different metrics (accuracy, auroc); the order here is by accuracy." in text


def fitted(folder: Path) -> Path:
    """What of a run that L-BFGS fitted is compared."""
    folder.mkdir()
    train = {"solver": "lbfgs", "l2": "auto", "lr": None, "epochs": None, "seed": 0}
    (folder / "config.json").write_text(json.dumps({"train": train}))
    line = {"epoch": 1, "val_accuracy": 0.9, "val_loss": 0.5, "l2": 0.0001778}
    (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    return folder


def test_a_run_of_l_bfgs_has_a_penalty_in_place_of_epochs(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    folder = fitted(tmp_path / "fitted")
    assert main("compare", folder, runs[0].folder) == 0
    text = capsys.readouterr().out
    assert re.search(r"\d  +\S*fitted \(not finished\) +0\.900 +0\.500 +- +L2 0\.00018 ", text)
    assert re.search(r"  --lr  +(- +[\d.]+|[\d.]+ +-)", text)  # Which it does not take.
    assert "L2: the penalty of a head that L-BFGS fitted." in text
    assert "may be chance" not in text  # How many images it was validated on is not known.
    assert "1/1" not in text


def test_how_much_is_within_chance(runs, tmp_path, capsys):
    assert main("compare", *(run.folder for run in runs)) == 0
    text = " ".join(capsys.readouterr().out.split())
    count = runs[0].summary["num_val"]
    assert re.search(rf" {count} validation images: differences below about \d+ points ", text)
    for name in ("first", "second"):
        folder = recorded(tmp_path / name, "accuracy", 0.9, 0.9)
        (folder / "summary.json").write_text(json.dumps({"num_val": 400, "train_seconds": 1.0}))
    assert main("compare", tmp_path / "first", tmp_path / "second") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "400 validation images: differences below about 4 points may be chance." in text
    (folder / "summary.json").write_text(json.dumps({"num_val": 300, "train_seconds": 1.0}))
    assert main("compare", tmp_path / "first", folder) == 0
    assert "may be chance" not in capsys.readouterr().out


def test_a_run_that_is_given_twice_is_listed_once(runs, capsys):
    folder = runs[0].folder
    assert main("compare", folder, f"{folder.parent}/./{folder.name}/", folder) == 0
    text = capsys.readouterr().out
    assert "A run that was given more than once is listed once." in text
    assert "\n  2 " not in text


def test_the_tables_fit_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    folders = []
    for index in range(12):
        metric = "balanced_accuracy"
        folder = recorded(tmp_path / f"{'run' * 10}{index}", metric, 0.5 + index / 100, 0.5)
        train = {"metric": metric, "lr": 1 / (index + 3)}
        (folder / "config.json").write_text(json.dumps({"train": train}))
        summary = {"test_accuracy": 0.5, "train_seconds": 12345.6, "val_macro_f1": 0.5}
        (folder / "summary.json").write_text(json.dumps(summary))
        folders.append(folder)
    assert main("compare", *folders) == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for told in ("balanced", "macro-F1", "test", "chosen", "seconds", "12345.6", "1 of 1"):
        assert told in text  # Nothing is cut.
    assert text.count("--lr ") == 3


def test_lines_are_numbered_and_those_without_epochs_are_level(monkeypatch):
    from matplotlib.figure import Figure

    from jtl.runs import plots

    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save", lambda figure, path, title: figures.append(figure))
    steps = [{"epoch": e, "val_loss": 1 / e, "val_accuracy": 0.9} for e in (1, 2, 3)]
    level = [{"epoch": 1, "val_loss": 0.3, "val_accuracy": 0.9, "l2": 1e-4}]
    plots.draw_comparison("x", runs=[("a", steps), ("b", level), ("c", steps)])
    for axes in figures[0].axes:
        assert [text.get_text() for text in axes.texts] in (["1", "3", "2"], ["2", "1", "3"],
                                                            ["1", "2", "3"])  # fmt: skip
        heights = sorted(text.get_position()[1] for text in axes.texts)
        assert all(b - a > 0.04 for a, b in itertools.pairwise(heights))
        assert heights[-1] <= 1
        assert list(axes.lines[1].get_xdata()) == [0, 1]  # From side to side.
    assert [axes.get_ylabel() for axes in figures[0].axes] == [
        "validation loss", "validation accuracy",
    ]  # fmt: skip
    told = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert told == ["1  a", "2  b (L-BFGS, no epochs)", "3  c"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (("macro_f1", "macro_f1"), "macro_f1"),
        (("loss", "loss"), "accuracy"),
        (("auroc", "accuracy"), "accuracy"),
    ],
)
def test_the_plot_shows_the_metric_that_decides(tmp_path, monkeypatch, given, shown):
    from jtl.runs import plots

    drawn: list[str] = []
    monkeypatch.setattr(plots, "save", lambda figure, path, title: drawn.extend(
        axes.get_ylabel() for axes in figure.axes
    ))  # fmt: skip
    folders = []
    for number, metric in enumerate(given):
        folder = tmp_path / str(number)
        folder.mkdir()
        line = {"epoch": 1, "val_loss": 0.3, "val_accuracy": 0.9, f"val_{metric}": 0.5}
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        (folder / "config.json").write_text(json.dumps({"train": {"metric": metric}}))
        folders.append(folder)
    assert main("compare", *folders, "--out", tmp_path / "c.png") == 0
    assert drawn == ["validation loss", f"validation {plots.metric_name(shown)}"]
