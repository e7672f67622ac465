"""`--task multilabel`: images with several labels, from the data to predictions and exports."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.data.augment import mixing
from jtl.runs import multilabel
from jtl.train import step
from support.commands import main
from weights_convert.export import writer

CLASSES = ("red", "green", "blue")


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose colours are their labels; a fifth have none."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, (count, 3)).astype(np.uint8)
    labels[::5] = 0
    images = random.integers(0, 120, (count, 8, 8, 3)) + 120 * labels[:, None, None]
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("several") / "several.npz"
    splits = {}
    for seed, (split, count) in enumerate({"train": 40, "val": 20, "test": 15}.items()):
        splits[f"x_{split}"], splits[f"y_{split}"] = drawn(count, seed)
    np.savez(path, class_names=np.array(CLASSES), **splits)
    return path


@pytest.fixture
def train(tiny_data: Path, tmp_path: Path, arrays: Path):
    """Trains as the command does; gives the run's folder."""

    def run(*options: object, data: object = arrays, name: str = "run") -> Path:
        folder = tmp_path / name
        given = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--data", data]
        assert main("train", *given, "--task", "multilabel", "--run-dir", folder, *options) == 0
        return folder

    return run


@pytest.fixture(scope="module")
def probe(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, arrays: Path) -> Path:
    """A run as by default: a linear probe by L-BFGS."""
    folder = tmp_path_factory.mktemp("probe") / "run"
    given = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--data", arrays]
    assert main("train", *given, "--task", "multilabel", "--run-dir", folder) == 0
    return folder


def read(folder: Path) -> tuple[dict, list[dict]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return json.loads((folder / "summary.json").read_text()), [json.loads(one) for one in lines]


def table_of(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


STEPS = ("--epochs", "3", "--lr", "0.05", "--batch-size", "8")


def test_a_linear_probe(probe: Path):
    summary, [line] = read(probe)
    assert [summary[key] for key in ("task", "metric", "solver")] == ["multilabel", "map", "lbfgs"]
    assert line["path"][0].keys() == {"l2", "iterations", "val_accuracy", "val_map"}
    assert line["val_map"] > 0.9
    assert summary["frozen_unchanged"]
    assert summary["temperature"] == 1
    assert len(summary["thresholds"]) == 3
    scores = summary["test_classes"]
    assert [scores[name]["threshold"] for name in CLASSES] == summary["thresholds"]
    assert summary["test_micro_f1"] > 0.8


def test_steps_and_all_that_uses_the_run(train, arrays: Path, tmp_path: Path, capsys):
    options = ("--mask", "last_stage", "--class-weights", "balanced", "--label-smoothing", "0.1")
    run = train(*STEPS, *options)
    told = capsys.readouterr()
    assert "x_train[0] = none" in told.err
    assert "validation exact match" in told.out
    assert "threshold" in told.out
    summary, lines = read(run)
    best = max(lines, key=lambda line: (line["val_map"], -line["val_loss"]))
    assert summary["metric"] == "map"
    assert summary["best_epoch"] == best["epoch"]
    assert summary["frozen_unchanged"]
    assert summary["frozen_leaves"] > 0
    labels = np.load(arrays)["y_train"]
    expected = (40 - labels.sum(0)) / labels.sum(0)
    np.testing.assert_allclose(summary["class_weights"], expected, rtol=1e-6)

    capsys.readouterr()
    assert main("evaluate", run, "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    for key in ("accuracy", "map", "macro_f1", "micro_f1", "classes", "loss"):
        assert scores[f"val_{key}"] == summary[f"val_{key}"], key
    assert (run / "classes.png").is_file()
    assert not (run / "confusion.png").exists()
    assert "![How well each class is recognized](classes.png)" in (run / "report.md").read_text()
    wrong = table_of(run / "mistakes.csv")
    assert len(wrong) == round(20 * (1 - scores["val_accuracy"]))
    for row in wrong:
        above = float(row["probability"]) > float(row["threshold"])
        assert above == (row["class"] in row["predicted"].split("|"))
        assert above != (row["class"] in row["actual"].split("|"))
    assert main("evaluate", run, "--data", arrays, "--split", "test", "--json") == 0
    assert json.loads(capsys.readouterr().out)["test_map"] == summary["test_map"]

    assert main("compare", run) == 0
    assert "mAP" in capsys.readouterr().out


def test_predictions(probe: Path, arrays: Path, tmp_path: Path, capsys):
    run, (summary, _) = probe, read(probe)
    files = np.load(arrays)
    images = list(files["x_test"])
    classifier = jtl.load(run)
    found = classifier.predict(images)
    expected = multilabel.sigmoid(found.logits) > np.array(summary["thresholds"], np.float32)
    np.testing.assert_array_equal(found.probabilities, multilabel.sigmoid(found.logits))
    assert [tuple(np.array(CLASSES)[row]) for row in expected] == found.labels
    exact = np.mean((expected == files["y_test"]).all(1))
    assert exact == pytest.approx(summary["test_accuracy"])
    assert found[0].labels == found.labels[0]
    assert found[:2].labels == found.labels[:2]
    assert repr(found)

    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number:02d}.png")
    capsys.readouterr()
    assert main("predict", run, tmp_path / "*.png", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(row["labels"]) for row in rows] == found.labels
    assert main("predict", run, tmp_path / "*.png", "--out", tmp_path / "out.csv") == 0
    table = table_of(tmp_path / "out.csv")
    assert [row["labels"] for row in table] == ["|".join(labels) for labels in found.labels]
    assert {*table[0]} >= {"name", "labels", "class", "probability", "class_3", "error"}
    assert main("predict", run, tmp_path / "00.png") == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[0]
        .endswith(f"00.png: {'|'.join(found.labels[0]) or 'none'}")
    )


def test_a_program_of_it_has_the_thresholds(probe: Path, tmp_path: Path, capsys):
    out = tmp_path / "it.stablehlo"
    assert main("export", probe, "--out", out) == 0
    told = json.loads((tmp_path / "it.stablehlo.json").read_text())
    assert (told["task"], told["activation"]) == ("multilabel", "sigmoid")
    assert told["thresholds"] == read(probe)[0]["thresholds"]
    assert "1 / (1 + exp(-logit))" in capsys.readouterr().out


def test_mixed_images_have_the_labels_of_both():
    labels = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 1], [1, 0, 0]], np.uint8)
    kept = np.array([[1.0], [0.7], [0.5], [0.2]], np.float32)
    mix: Any = SimpleNamespace(kept=kept[:, 0], shift=1)
    mixed = np.asarray(mixing.mix_labels(labels, mix, 3))
    expected = kept * labels + (1 - kept) * np.roll(labels, -1, 0)
    np.testing.assert_allclose(mixed, expected, rtol=1e-6)


def test_a_run_goes_on(train):
    options = ("--mask", "last_stage", "--lr", "0.05", "--batch-size", "8")
    run = train("--epochs", "1", *options, name="part")
    assert main("train", "--resume", "--run-dir", run, "--epochs", "2") == 0
    summary, lines = read(run)
    assert [line["epoch"] for line in lines] == [1, 2]
    assert (summary["task"], summary["metric"], summary["num_test"]) == ("multilabel", "map", 15)


def test_the_loss():
    random = np.random.default_rng(0)
    logits, targets = random.normal(0, 2, (5, 3)), random.integers(0, 2, (5, 3)).astype(np.uint8)
    x, weights = jnp.asarray(logits, jnp.float32), jnp.array([1.0, 2.0, 5.0])
    plain = step._binary_losses(x, jnp.asarray(targets))
    expected = np.where(targets, np.logaddexp(0, -logits), np.logaddexp(0, logits))
    np.testing.assert_allclose(plain, expected.mean(1), rtol=1e-5)
    weighted = step._binary_losses(x, jnp.asarray(targets), weights)
    scaled = np.where(targets, np.asarray(weights).reshape(1, -1), 1) * expected
    np.testing.assert_allclose(weighted, scaled.mean(1), rtol=1e-5)
    smooth = step._binary_losses(x, jnp.asarray(targets), smoothing=0.2)
    both = 0.8 * targets + 0.1
    spread = both * np.logaddexp(0, -logits) + (1 - both) * np.logaddexp(0, logits)
    np.testing.assert_allclose(smooth, spread.mean(1), rtol=1e-5)


REFUSED = {
    "the metric": (
        ("--metric", "accuracy"),
        "--metric accuracy: with --task multilabel, it must be",
    ),
    "auroc": (("--metric", "auroc"), "must be map, macro_f1, micro_f1 or loss"),
    "a head without negative logits": (("--head", "conv"), "--head conv: its logits are never"),
    "a delimiter of arrays": (("--label-delimiter", "|"), "--label-delimiter: no effect on 'npz:"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_several_labels_cannot_have(arrays: Path, tmp_path: Path, capsys, case: str):
    options, message = REFUSED[case]
    run = tmp_path / "run"
    given = ["--task", "multilabel", "--data", arrays, "--run-dir", run, "--model", "resnet18"]
    assert main("train", *given, "--weights", "random", *options) == 2
    assert message in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.parametrize("metric", ["map", "micro_f1"])
def test_metrics_of_several_labels_need_them(capsys, metric: str):
    assert main("train", "--metric", metric) == 2
    assert f"--metric {metric} is for images with several labels" in capsys.readouterr().err


def test_a_delimiter_needs_several_labels(capsys):
    assert main("train", "--label-delimiter", "|") == 2
    assert "no effect without --task multilabel" in capsys.readouterr().err


def test_class_folders_have_one_class_each(tiny_data: Path, capsys):
    assert main("train", "--data", tiny_data, "--task", "multilabel") == 2
    assert "has one class for each image. Several are read from" in capsys.readouterr().err


def test_a_run_is_not_scored_on_data_of_another_kind(probe: Path, tiny_data: Path, capsys):
    assert main("evaluate", probe, "--data", tiny_data) == 2
    assert "has several labels for each image, 'folder:" in capsys.readouterr().err


def test_validation_images_without_labels_are_refused(tmp_path: Path, capsys):
    images, labels = drawn(20, 0)
    path = tmp_path / "some.npz"
    none = np.zeros_like(labels)
    np.savez(path, x_train=images, y_train=labels, x_val=images, y_val=none)
    assert main("train", "--data", path, "--task", "multilabel", "--run-dir", tmp_path / "r") == 2
    assert "None of the validation images has a label" in capsys.readouterr().err


def test_weights_for_other_libraries_say_how_they_are_used(probe: Path):
    use = writer.load(probe).use
    assert json.loads(use["thresholds"]) == read(probe)[0]["thresholds"]
    assert (use["task"], use["activation"]) == ("multilabel", "sigmoid")


def test_tables_of_several_runs_call_an_exact_match_so(train, probe: Path, tmp_path: Path, capsys):
    given = [tmp_path / "run", "--seeds", "2"]
    train(*given[1:])
    shown = capsys.readouterr().out
    for text in ("validation mAP", "test mAP", "validation exact match", "test exact match"):
        assert text in shown
    assert "accuracy" not in shown.split("Seeds 0 to 1")[1]
    assert main("compare", probe) == 0
    shown = capsys.readouterr().out
    assert "exact" in shown
    assert "accuracy" not in shown


def test_images_of_no_class_can_be_scored(probe: Path, tmp_path: Path, capsys):
    images, labels = drawn(20, 0)
    none = np.zeros_like(labels)
    path = tmp_path / "none.npz"
    splits = {"x_train": images, "y_train": labels, "x_test": images[::5], "y_test": none[::5]}
    np.savez(path, class_names=np.array(CLASSES), **splits)
    given = [probe, "--data", path, "--split", "test"]
    assert main("evaluate", *given, "--out", tmp_path / "out") == 0
    assert "mAP      -" in capsys.readouterr().out
    assert (tmp_path / "out" / "classes.png").is_file()
    assert main("evaluate", *given, "--json") == 0
    assert json.loads(capsys.readouterr().out)["test_map"] is None
