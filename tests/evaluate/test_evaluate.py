"""Evaluating: calibration by hand, images that show it, and a report that repeats the run."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import re
import shlex
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl.cli import app
from jtl.config import walk
from jtl.config.defaults import filled
from jtl.config.options import Config, DataConfig, ModelConfig, RunConfig, StepsConfig, TrainConfig
from jtl.predict import classifier as evaluation
from jtl.runs import evaluation_files as outputs
from jtl.runs import evaluation_plots as plots
from jtl.runs import report, report_contents
from jtl.runs.calibration import WIDEST, calibration, fit_temperature
from jtl.train import command as train
from jtl.train.fit import fit
from support import tiny
from support.commands import main


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run's folder of the test's own."""
    return shutil.copytree(tiny_run.folder, tmp_path / "run")


def logits_of(*probabilities: float) -> np.ndarray:
    """Of two classes, the second with these probabilities."""
    return np.array([[math.log(1 - p), math.log(p)] for p in probabilities], np.float32)


def test_calibration_by_hand():
    # Bins of a fifth: 0.55 of the first class and 0.58 of the second share one, 0.9 is alone.
    found = calibration(logits_of(0.45, 0.58, 0.9), np.array([0, 0, 1]), bins=5)
    low, high = found["bins"]
    assert (low["count"], low["accuracy"]) == (2, 0.5)
    assert (low["from"], low["to"]) == (0.4, 0.6)
    assert low["confidence"] == pytest.approx((0.55 + 0.58) / 2)
    assert (high["count"], high["accuracy"]) == (1, 1.0)
    expected = (2 * abs(0.5 - 0.565) + abs(1 - 0.9)) / 3
    assert found["expected_calibration_error"] == pytest.approx(expected)
    assert found["confidence"] == pytest.approx((0.55 + 0.58 + 0.9) / 3)


def test_certainty_has_the_last_bin():
    found = calibration(np.array([[200.0, -200.0]]), np.array([1]))
    assert found["bins"] == [
        {"from": 14 / 15, "to": 1.0, "count": 1, "confidence": 1.0, "accuracy": 0.0}
    ]
    assert found["expected_calibration_error"] == 1.0


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_makes_probabilities_true(temperature):
    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, (20_000, 5))
    shares = np.exp(true) / np.exp(true).sum(-1, keepdims=True)
    labels = (rng.random((len(true), 1)) > shares.cumsum(-1)).sum(-1)
    logits = true * temperature  # Over-confident above 1.
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.02)
    found = calibration(logits, labels, fitted)
    # What chance leaves of it, where each probability is the true one.
    ideal = calibration(true, labels)["expected_calibration_error"]
    assert found["expected_calibration_error"] == pytest.approx(ideal, abs=0.003)
    before = calibration(logits, labels)["expected_calibration_error"]
    assert found["uncalibrated_error"] == before
    assert before > 5 * ideal or temperature == 1


def test_a_few_images_do_not_make_a_model_certain():
    # All are recognized: the likeliest temperature alone would be 0.
    logits = logits_of(0.8, 0.9, 0.2, 0.3)
    labels = np.array([1, 1, 0, 0])
    assert 0.5 < fit_temperature(logits, labels) < 1
    assert fit_temperature(np.zeros((0, 2)), labels[:0]) == 1
    # However many images are all wrong, probabilities stay finite.
    wrong = np.tile([[50.0, -50.0]], (500, 1)), np.ones(500, int)
    assert fit_temperature(*wrong) == pytest.approx(WIDEST, rel=1e-3)


def test_confusion_has_a_row_for_each_class():
    counts = outputs.confusion(np.array([0, 0, 1, 2]), np.array([0, 2, 1, 1]), 3)
    np.testing.assert_array_equal(counts, [[1, 0, 1], [0, 1, 0], [0, 1, 0]])


def test_the_worst_mistakes_come_first():
    logits = logits_of(0.9, 0.2, 0.7, 0.99)
    rows = outputs.most_confident_mistakes(logits, np.array([0, 1, 1, 0]))
    assert rows.tolist() == [3, 0, 1]


def wrong(names: tuple[str, ...], size: int = 8, temperature: float = 1.0) -> Any:
    """An evaluation whose every image is of the first class and gets the second's label."""

    def read(rows: np.ndarray, host: object) -> np.ndarray:
        return np.zeros((len(rows), size, size, 3), np.uint8)

    labels = np.zeros(len(names), int)
    images = SimpleNamespace(labels=labels, names=names, read=read, native_size=lambda: None)
    shares = np.linspace(0.6, 0.9999, len(names))
    logits = logits_of(*shares).reshape(-1, 2)
    return SimpleNamespace(logits=logits, images=images, temperature=temperature, thresholds=None)


def test_every_mistake_is_in_a_table():
    names = ("val/a.png", "=cmd()", 'z,".png')
    text = outputs.mistakes_table(wrong(names), ("-ash", "birch"))
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [
        ["file", "actual", "predicted", "probability_actual", "probability_predicted"],
        ['z,".png', "'-ash", "birch", "0.0001", "0.9999"],
        ["'=cmd()", "'-ash", "birch", "0.20005", "0.79995"],
        ["val/a.png", "'-ash", "birch", "0.4", "0.6"],
    ]
    # At temperature 2 odds of 4 to 6 become those of their square roots.
    scaled = outputs.mistakes_table(wrong(names, temperature=2), ("-ash", "birch"))
    assert scaled.splitlines()[-1] == "val/a.png,'-ash,birch,0.44949,0.55051"
    raw = outputs.mistakes_table(wrong(names), ("-ash", "birch"), raw=True)
    assert "\n=cmd(),-ash,birch," in raw
    assert len(outputs.mistakes_table(wrong(()), ("a", "b")).splitlines()) == 1


@pytest.mark.parametrize("flag", [[], ["--raw-csv"]])
def test_names_in_the_table_are_escaped_unless_asked(run, flag, monkeypatch):
    given = []
    monkeypatch.setattr(outputs, "mistakes_table", lambda *a, raw: given.append(raw) or "x")
    assert main("evaluate", run, *flag) == 0
    assert given == [bool(flag)]
    assert (run / "mistakes.csv").read_text() == "x"


def test_the_sheet_of_mistakes_names_files_classes_and_probabilities():
    drawn: list[Any] = []
    inputs = SimpleNamespace(host_for=lambda size: None, device=SimpleNamespace(size=8))
    species = ("Bombus_terrestris_audax", "Bombus_terrestris_lusitanicus")
    names = ("val/" + "a" * 40 + "/1.png", "b.png")
    classifier: Any = SimpleNamespace(inputs=inputs, class_names=species)
    drawn.append(outputs.mistakes(wrong(names), classifier)["labels"])
    assert drawn == [
        [
            "b.png\npredicted (>99 %):\nBombus_terrestris_lusitanicus\n"
            "actual (<1 %):\nBombus_terrestris_audax",
            "val/aaaaaaaaa...aaaaaaaa/1.png\npredicted (60 %):\nBombus_terrestris_lusitanicus\n"
            "actual (40 %):\nBombus_terrestris_audax",
        ]
    ]
    classifier.class_names = ("ant", "bee")
    drawn.append(outputs.mistakes(wrong(names), classifier)["labels"])
    assert drawn[1][0] == "b.png\npredicted bee: >99 %\nactual ant: <1 %"


@pytest.mark.parametrize("classes", [2, 40, 200])
def test_every_class_of_a_matrix_has_its_name(classes, drawn):
    names = [f"{'genus' * 8}_{index:03d}" for index in range(classes)]
    plots.draw_confusion("x", counts=np.eye(classes, dtype=int), class_names=names, title="t")
    axes = drawn[0].axes[0]
    told = [text.get_text() for text in axes.get_yticklabels()]
    assert [name[-4:] for name in told] == [name[-4:] for name in names]
    assert len(axes.texts) == (classes if classes <= 40 else 0)
    # Letters are no higher than a row.
    height = axes.get_window_extent().height / classes
    assert axes.get_yticklabels()[0].get_window_extent().height < 1.6 * height


def test_the_legend_of_a_reliability_diagram_covers_no_bar(drawn):
    bins = [{"from": 0.0, "to": 1.0, "count": 2, "confidence": 0.5, "accuracy": 1.0}]
    plots.draw_reliability("x", bins=bins, error=0.1, title="t")
    drawn[0].draw_without_rendering()
    box = drawn[0].legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= drawn[0].bbox.width
    assert not any(box.overlaps(axes.get_tightbbox()) for axes in drawn[0].axes)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that a test draws; their files are empty."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path, title: figures.append(figure))
    return figures


def test_the_command_draws_into_the_run(run, capsys):
    assert main("evaluate", run) == 0
    captured = capsys.readouterr()
    summary = json.loads((run / "summary.json").read_text())
    error = summary["val_calibration"]["expected_calibration_error"]
    before = summary["val_calibration"]["uncalibrated_error"]
    assert before != error
    told = f"expected calibration error {error:.3f} ({before:.3f} without temperature scaling)\n"
    assert told in captured.out
    names = {"confusion.png", "reliability.png", "mistakes.png"}
    if summary["val_accuracy"] == 1:
        names.remove("mistakes.png")
    assert names | {"mistakes.csv"} <= {path.name for path in run.iterdir()}
    page = (run / "report.md").read_text()
    for name in names:
        with Image.open(run / name) as image:
            assert image.format == "PNG"
            assert np.asarray(image.convert("L")).std() > 10
        assert f"]({name})" in page


def test_a_run_that_l_bfgs_fitted_has_a_penalty_and_no_best_epoch(run, capsys):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").write_text(json.dumps({**lines[0], "l2": 0.0001778}) + "\n")
    assert main("evaluate", run) == 0
    out = capsys.readouterr().out
    assert "validation images, fitted by L-BFGS with L2 penalty 0.0001778\n" in out
    assert "epoch" not in out
    assert "(L-BFGS, L2 penalty 0.0001778)" in repr(evaluation.load(run))


def test_other_data_leave_the_run_as_it_is(run, tmp_path, capsys):
    data = tiny.write_folder(tmp_path / "data", val=2)
    before = {path.name for path in run.iterdir()}
    assert main("evaluate", run, "--data", f"folder:{data}", "--json") == 0
    assert json.loads(capsys.readouterr().out)["count"] == 6
    assert {path.name for path in run.iterdir()} == before
    out = tmp_path / "a" / "b"
    assert main("evaluate", run, "--data", f"folder:{data}", "--out", out) == 0
    assert {"confusion.png", "reliability.png"} <= {path.name for path in out.iterdir()}
    assert {path.name for path in run.iterdir()} == before


def test_data_without_splits_are_scored_whole(run, tiny_data, tmp_path, capsys):
    data = tiny.write_folder(tmp_path / "data", train=5, val=2) / "train"
    assert main("evaluate", run, "--data", f"folder:{data}", "--json") == 0
    captured = capsys.readouterr()
    scores = json.loads(captured.out)
    assert (scores["count"], scores["whole"]) == (15, True)
    assert "15 images of 3 classes: ash (5), birch (5), cedar (5)" in captured.err
    right = evaluation.load(run).predict(data).labels
    truth = [path.parent.name for path in sorted(data.rglob("*.png"))]
    assert scores["val_accuracy"] == np.mean([a == b for a, b in zip(right, truth, strict=True)])
    assert main("evaluate", run, "--data", f"folder:{data}") == 0
    assert "all 15 images, best epoch" in capsys.readouterr().out
    # Train and test are splits, and what is held out of train is nobody's choice.
    data.rename(data.with_name("test"))
    shutil.copytree(data.with_name("val"), data)
    assert main("evaluate", run, "--data", f"folder:{tmp_path / 'data'}", "--split", "test") == 0
    shutil.rmtree(data.with_name("val"))
    assert main("evaluate", run, "--data", f"folder:{tmp_path / 'data'}") == 2
    assert "has no validation split, only train and test. Score its" in capsys.readouterr().err


def test_data_with_some_of_the_classes(run, tmp_path, capsys):
    data = tiny.write_folder(tmp_path / "data", train=5, val=2) / "train"
    shutil.rmtree(data / "ash")
    (data / "fir").mkdir()
    assert main("evaluate", run, "--data", data, "--json") == 2  # Of an unknown class, if empty.
    assert "The run cannot predict fir." in capsys.readouterr().err
    (data / "fir").rmdir()
    assert main("evaluate", run, "--data", data, "--json") == 0
    captured = capsys.readouterr()
    scores = json.loads(captured.out)
    assert (
        "has only 2 of the run's 3 classes, which alone are scored; it lacks ash." in captured.err
    )
    right = evaluation.load(run).predict(data).labels
    truth = [path.parent.name for path in sorted(data.rglob("*.png"))]
    assert scores["val_accuracy"] == np.mean([a == b for a, b in zip(right, truth, strict=True)])
    assert scores["count"] == 10
    shutil.rmtree(data / "cedar")  # One class is not enough to train on.
    assert main("evaluate", run, "--data", data, "--out", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert "all 5 images" in captured.out
    assert "only 1 of the run's 3 classes" in captured.err
    assert "only one class" not in captured.err


def test_the_runs_own_data_by_another_name_are_not_scored_whole(tiny_data, tmp_path, capsys):
    weights = str(tiny_data.parent / "weights")
    folder = tiny.write_folder(tmp_path / "data", train=10) / "train"
    done = fit(tiny.config(folder, tmp_path / "run", weights=weights), tiny.quiet())
    assert main("evaluate", done.folder, "--data", f"folder:{folder}/.", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["count"], scores["val_loss"]) == (6, done.summary["val_loss"])


def test_a_test_split(tiny_data, tmp_path, capsys):
    folder = tiny.write_folder(tmp_path / "data")
    shutil.copytree(folder / "val", folder / "test")
    shutil.rmtree(folder / "test" / "ash")
    weights = str(tiny_data.parent / "weights")
    done = fit(tiny.config(folder, tmp_path / "run", weights=weights), tiny.quiet())
    assert main("evaluate", done.folder, "--split", "test", "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    for key in ("accuracy", "macro_f1", "classes", "calibration"):
        assert scores[f"test_{key}"] == done.summary[f"test_{key}"]
    assert scores["count"] == 6
    page = (done.folder / "report.md").read_text()
    assert f"| test | 6 | {scores['test_accuracy']:.3f} |" in page
    assert f"Test accuracy: {scores['test_accuracy']:.3f} (95 % interval " in page
    assert "Report this one: " in page


def test_a_split_that_there_is_not(run, capsys):
    assert main("evaluate", run, "--split", "test") == 2
    assert "has no test split" in capsys.readouterr().err


# The report.


def test_the_report_tells_the_figures(tiny_run):
    page, summary = (tiny_run.folder / "report.md").read_text(), tiny_run.summary
    row = [f"{summary[f'val_{key}']:.3f}" for key in ("accuracy", "macro_f1", "loss")]
    assert f"| validation | 9 | {' | '.join(row)} |" in page
    for name, scores in summary["val_classes"].items():
        assert f"| {name} | {scores['count']} | {scores['accuracy']:.3f} |" in page
    assert "| class | images | recall | precision | F1 |" in page
    assert f"`{summary['data_fingerprint']}`" in page
    assert f"    # In a checkout of jtl {summary['versions']['jtl']}:\n" in page
    assert f"pip install -e '.[demo]' jax=={summary['versions']['jax']} " in page
    assert "| trained | 2 epochs of `head_only` at learning rate 0.05 |" in page
    assert "| optimizer | adamw, cosine schedule, 4 images per step |" in page
    assert "![Loss and accuracy by epoch](curves.png)" in page
    # Drawn once the results have been printed.
    assert "](confusion.png)" in page
    assert "](reliability.png)" in page


def test_the_report_tells_what_is_not_usual(tiny_run):
    train = dataclasses.replace(tiny_run.config.train, optimizer="sgd", class_weights="balanced")
    steps = StepsConfig(ema=0.99, accumulate=2)
    config = dataclasses.replace(tiny_run.config, train=train, steps=steps)
    page = report.page(tiny_run.summary, config, [])
    assert (
        "| optimizer | sgd, cosine schedule, 4 images per step, gradients of 2 steps averaged per "
        "update, "
        "moving average of parameters (decay 0.99), class weights balanced |"
    ) in page
    solved = dataclasses.replace(config, train=TrainConfig(solver="lbfgs"))
    page = report.page(tiny_run.summary, solved, ["curves.png"])
    assert "| trained | `head_only`, fitted to its optimum |" in page
    rule = "(by validation accuracy; if equal, by loss)"
    assert f"| optimizer | L-BFGS, the best of 25 L2 penalties {rule} |" in page
    assert "![Validation accuracy at each L2 penalty](curves.png)" in page
    assert "The best L2 penalty was chosen on the same validation images" in page
    assert "epoch" not in page
    by_f1 = TrainConfig(solver="lbfgs", metric="macro_f1")
    page = report.page(tiny_run.summary, dataclasses.replace(config, train=by_f1), ["curves.png"])
    assert "![Validation macro-F1 at each L2 penalty](curves.png)" in page
    by_auroc = dataclasses.replace(config, train=TrainConfig(metric="auroc", solver="sgd"))
    page = report.page(tiny_run.summary, by_auroc, ["curves.png"])
    assert "![Loss, accuracy and AUROC by epoch](curves.png)" in page
    given = dataclasses.replace(config, train=TrainConfig(solver="lbfgs", l2="1e-3"))
    assert "| optimizer | L-BFGS, L2 penalty 1e-3 |" in report.page(tiny_run.summary, given, [])


def test_the_reports_command_repeats_the_run(tiny_run, tmp_path, capsys):
    page = (tiny_run.folder / "report.md").read_text()
    (line,) = re.findall(r"    (jtl train .*)", page)
    _, command, *args = shlex.split(line)
    code = app.main(
        Config, train.command, prog=command, args=[*args, "--run-dir", str(tmp_path / "again")]
    )
    assert code == 0, capsys.readouterr().err
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    for key in ("val_accuracy", "val_loss", "best_epoch", "val_calibration"):
        assert again[key] == tiny_run.summary[key]


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(
            ModelConfig("resnet18", head="mlp", head_widths=(8, 4), head_batch_norm=True),
            DataConfig("folder:a b/$x", image_size=64),
            TrainConfig(mask="rules:stage4/.*=x0.1;.*=frozen", lr=3e-5, seed=3),
        ),
    ],
)
def test_arguments_give_the_configuration(config: Config, monkeypatch):
    seen = []
    args = report_contents.arguments(config)
    assert app.main(Config, seen.append, prog="x", args=args) == 0
    assert seen == [config]
    with_run = Config(config.model, config.data, config.train, RunConfig(Path("x"), json=True))
    assert report_contents.arguments(with_run) == args
    # A run's folder has the mask's defaults written out: evaluating does not make it longer.
    assert report_contents.arguments(filled(config)) == args


@pytest.mark.parametrize(
    ("count", "confidence", "accuracy", "told"),
    [
        (16, 0.69, 0.75, "no clear difference with 16 images."),
        (16, 0.99, 0.5, "over-confident."),
        (10_000, 0.69, 0.75, "under-confident."),
        (10_000, 0.78, 0.75, "slightly over-confident."),
        (100_000, 0.755, 0.75, "well calibrated."),
    ],
)
def test_confidence_is_judged_by_what_chance_gives(tiny_run, count, confidence, accuracy, told):
    bins = [{"count": count, "confidence": confidence, "accuracy": accuracy}]
    found = {"confidence": confidence, "bins": bins, "expected_calibration_error": 0.1}
    summary = {**tiny_run.summary, "val_calibration": found, "val_accuracy": accuracy}
    page = report.page(summary, tiny_run.config, [])
    assert f"accuracy {100 * accuracy:.1f} % on the validation images: {told}" in page
    assert "fitted on these same images" not in page
    summary["val_calibration"] = {**found, "uncalibrated_error": 0.2}
    assert f"{told} The temperature" in report.page(summary, tiny_run.config, [])


@pytest.mark.parametrize(
    ("given", "left"),
    [
        (["--mask", "full"], {"--mask"}),
        (["--mask", "full", "--bn", "batch"], {"--mask", "--bn"}),
        (["--epochs", "7"], {"--epochs"}),
        (["--solver", "sgd"], {"--solver"}),
        (["--augment", "light"], {"--augment"}),
        ([], set()),
    ],
)
def test_the_reports_command_leaves_out_what_auto_chose(given, left):
    seen: list[Config] = []
    assert app.main(Config, seen.append, prog="x", args=given) == 0
    steps = bool({"--epochs", "--solver", "--augment", "--mask"} & set(given))
    values = {"solver": "sgd" if steps else "lbfgs"}
    values["bn"] = "frozen" if "--bn" not in given else seen[0].train.bn
    config = filled(walk.replace(seen[0], values))
    assert {word for word in report_contents.arguments(config) if word.startswith("--")} == left


def test_names_are_no_markup_in_a_report(tiny_run):
    summary = dict(tiny_run.summary)
    classes = dict(zip(["a|b", "*c*", "<d>\n"], summary["val_classes"].values(), strict=True))
    page = report.page(
        {**summary, "val_classes": classes, "data": "folder:x|`y`\nz"}, tiny_run.config, []
    )
    assert "| a\\|b | 3 |" in page
    assert "| \\*c\\* | 3 |" in page
    assert "| \\<d\\>  | 3 |" in page
    assert "`folder:x\\|'y' z`" in page


@pytest.mark.slow
def test_a_matrix_of_many_classes_is_drawn_in_no_time(tmp_path):
    classes = plots.MOST_CLASSES
    counts = np.eye(classes, dtype=int)
    names = [f"class {index}" for index in range(classes)]
    began = time.process_time()
    plots.draw_confusion(tmp_path / "c.png", counts=counts, class_names=names, title="t")
    assert time.process_time() - began < 30  # Sums of each row for each cell took minutes.
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")


def test_a_matrix_that_nobody_could_read_is_left_out(run, capsys, monkeypatch):
    assert main("evaluate", run) == 0
    assert (run / "confusion.png").is_file()
    monkeypatch.setattr(plots, "MOST_CLASSES", 2)
    (run / "confusion.png").unlink()
    capsys.readouterr()
    assert main("evaluate", run) == 0
    assert "No confusion.png: the names of 3 classes would be too small" in capsys.readouterr().err
    assert not (run / "confusion.png").exists()
    assert (run / "reliability.png").is_file()
    assert "confusion.png" not in (run / "report.md").read_text()


def test_nothing_is_written_through_links_of_a_run(run, tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    names = ("confusion.png", "reliability.png", "mistakes.png", "mistakes.csv", "report.md")
    for name in names:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(mine)
    assert main("evaluate", run) == 0
    assert mine.read_text() == "mine"
    assert not any((run / name).is_symlink() for name in names)


def test_notes_are_no_markup_in_a_report(tiny_run):
    summary = tiny_run.summary | {"notes": ["![x](http://evil) <img>"]}
    assert r"- \!\[x\](http://evil) \<img\>" in report.page(summary, tiny_run.config, ())
