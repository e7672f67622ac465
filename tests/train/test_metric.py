"""`--metric`: what decides the best epoch, patience and the penalty of L-BFGS."""

from __future__ import annotations

import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as reference

from jtl.config.options import Config, TrainConfig
from jtl.optim import lbfgs
from jtl.runs import metrics
from jtl.runs.run import Run
from jtl.train.fit import fit
from support import tiny
from support.commands import main

METRICS = ("accuracy", "macro_f1", "balanced_accuracy", "auroc", "loss")


def drawn(classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(classes)
    labels = random.choice(classes, 90, p=np.arange(classes, 0, -1) / sum(range(classes + 1)))
    logits = random.normal(0, 1, (90, classes)) + 1.5 * np.eye(classes)[labels]
    return np.round(logits, 1).astype(np.float32), labels  # With ties.


@pytest.mark.parametrize("classes", [2, 4])
def test_the_metrics_are_those_of_scikit_learn(classes: int):
    logits, labels = drawn(classes)
    shares = np.exp(logits.astype(np.float64))
    shares /= shares.sum(-1, keepdims=True)
    predicted = logits.argmax(-1)
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "auroc": reference.roc_auc_score(labels, shares[:, 1])
        if classes == 2
        else reference.roc_auc_score(labels, shares, multi_class="ovr", average="macro"),
        "loss": -reference.log_loss(labels, shares),
    }
    for metric in METRICS:
        found = metrics.measure(metric, logits, labels)  # pyright: ignore[reportArgumentType]
        assert found == pytest.approx(expected[metric], abs=1e-12), metric


def test_classes_without_images_do_not_count():
    logits = np.log(np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]], np.float32))
    for metric in ("accuracy", "macro_f1", "balanced_accuracy", "auroc"):
        assert metrics.measure(metric, logits, np.array([0, 1])) == 1
    assert math.isnan(metrics.measure("auroc", logits, np.array([0, 0])))


LINES = [
    {"epoch": 1, "val_accuracy": 0.95, "val_loss": 0.9, "val_macro_f1": 0.49, "val_auroc": 0.5},
    {"epoch": 2, "val_accuracy": 0.93, "val_loss": 0.5, "val_macro_f1": 0.80, "val_auroc": 0.7},
    {"epoch": 3, "val_accuracy": 0.92, "val_loss": 0.7, "val_macro_f1": 0.81, "val_auroc": 0.9},
]


@pytest.mark.parametrize(
    ("metric", "best"), [("accuracy", 1), ("loss", 2), ("macro_f1", 3), ("auroc", 3)]
)
def test_the_best_epoch(tmp_path: Path, metric, best: int):
    run = Run(tmp_path, Config(train=TrainConfig(metric=metric)))
    run.history = list(LINES)
    assert run.best_epoch() == run.improved_epoch(0.0) == best
    assert run.improved_epoch(0.05) == {"macro_f1": 2}.get(metric, best)


def test_the_penalty_is_chosen_by_the_metric():
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1], [95, 5])
    values = random.normal(0, 1, (100, 8)).astype(np.float32) + 0.8 * labels[:, None]
    both = (jnp.asarray(values), jnp.asarray(labels))

    def path(score=None) -> lbfgs.Solution:
        return lbfgs.best(lbfgs.fit_path(both, both, 2, (10.0, 1e-3), score=score))

    def strongest(logits: np.ndarray, labels: np.ndarray) -> float:
        return -float(np.abs(logits).mean())

    assert path().l2 == 1e-3
    assert path(strongest).l2 == 10.0
    assert path().score == path().val_accuracy


def imbalanced(root: Path) -> Path:
    random = np.random.default_rng(0)
    for split, counts in {"train": (24, 4, 4), "val": (20, 4, 4)}.items():
        for label, (name, count) in enumerate(zip(tiny.CLASSES, counts, strict=True)):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 200, (8, 8, 3), np.uint8)
                pixels[..., label] += 30
                Image.fromarray(pixels).save(root / split / name / f"{index}.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_a_run_by_a_metric(tiny_data: Path, tmp_path: Path, capsys, solver: str):
    data = imbalanced(tmp_path / "data")
    options = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--solver", solver]
    options += ["--data", data, "--run-dir", tmp_path / "run", "--metric", "auroc"]
    options += ["--epochs", 3, "--lr", 0.05] if solver == "sgd" else []
    assert main("train", *options) == 0
    assert "auroc (validation)" in capsys.readouterr().out
    history = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ]
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    best = max(history, key=lambda line: line["val_auroc"])
    assert summary["metric"] == "auroc"
    assert summary["val_auroc"] == best["val_auroc"]
    assert history[summary["best_epoch"] - 1]["val_auroc"] == best["val_auroc"]
    assert main("compare", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["best_epoch"] == summary["best_epoch"]


def test_few_validation_images_are_said(tiny_data: Path, tmp_path: Path, capsys):
    weights = str(tiny_data.parent / "weights")
    data = tiny.write_folder(tmp_path / "data", val=1)
    fit(tiny.config(data, tmp_path / "run", weights=weights, epochs=1))
    told = capsys.readouterr().err
    assert "warning: 3 validation images: too few to choose the best model by. Even if all" in told
    assert "3 images, too few to be sure)" in (tmp_path / "run" / "report.md").read_text()


def test_auroc_of_one_class_is_refused(tiny_data: Path, tmp_path: Path, capsys):
    data = tiny.write_folder(tmp_path / "data")
    for name in tiny.CLASSES[1:]:
        for file in (data / "val" / name).iterdir():
            file.unlink()
    options = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--data", data]
    assert main("train", *options, "--metric", "auroc", "--run-dir", tmp_path / "run") == 2
    assert "--metric auroc: the validation images are all of one class" in capsys.readouterr().err
