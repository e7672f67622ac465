"""Answers that are left out where they would be wrong, and images that are like no others."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jtl.common.errors import UserError
from jtl.config import checks
from jtl.evaluate.images import opened_for
from jtl.models import HeadSpec, ImageClassifier
from jtl.models.inference import forward, forward_with_features
from jtl.predict import classifier as loading
from jtl.runs import completion, familiarity, selective
from support import tiny
from support.commands import main


def by_hand(confidence: np.ndarray, right: np.ndarray, threshold: float) -> tuple[int, int]:
    sure = confidence >= threshold
    return int(sure.sum()), int((sure & right).sum())


def test_steps_are_what_each_threshold_comes_to():
    random = np.random.default_rng(0)
    confidence = random.choice([0.5, 0.6, 0.7, 0.8, 0.9, 0.95], 200)
    right = random.random(200) < confidence
    steps = selective.steps(confidence, right)
    assert steps.threshold == (0.95, 0.9, 0.8, 0.7, 0.6, 0.5)
    for threshold in (0.0, 0.55, 0.8, 0.93, 0.95):
        came, (answered, hits) = steps.at(threshold), by_hand(confidence, right, threshold)
        assert came["answered"] == answered
        assert came["error"] == pytest.approx(1 - hits / answered)
        assert came["coverage"] == answered / 200
    assert steps.at(0.99)["error"] is None
    for error in (0.05, 0.1, 0.2, 0.5):
        found = steps.for_error(error)
        good = [
            value for value in steps.threshold
            if (pair := by_hand(confidence, right, value))[0] - pair[1] <= error * pair[0]
        ]  # fmt: skip
        if not good:
            assert found is None
            continue
        assert found is not None
        assert found["error"] <= error
        assert found["answered"] == by_hand(confidence, right, min(good))[0]
    assert steps.for_error(0.99) == steps.at(0.0) | {"threshold": 0.0}


def test_a_few_right_answers_are_no_error_of_zero():
    confidence = np.linspace(1, 0, 40)
    right = np.arange(40) < selective.LEAST_ANSWERED - 1
    assert selective.steps(confidence, right).for_error(0.01) is None
    right = np.arange(40) < selective.LEAST_ANSWERED
    found = selective.steps(confidence, right).for_error(0.01)
    assert found is not None
    assert found["answered"] == selective.LEAST_ANSWERED
    assert confidence[9] > found["threshold"] > confidence[10]
    assert selective.curve(confidence, right)["accuracy"][-1] == 0.25
    assert selective.curve(confidence[:0], right[:0])["accuracy"] == []


def test_thresholds_are_stored_for_their_epoch(tmp_path):
    steps = selective.steps(np.array([0.9, 0.4]), np.array([True, False]))
    selective.save(tmp_path, 3, steps)
    assert selective.load(tmp_path, 3) == steps
    assert selective.load(tmp_path, 2) is None
    (tmp_path / selective.FILE).write_text("[]")
    assert selective.load(tmp_path, 3) is None


@pytest.mark.parametrize("value", ["1", "-0.1", "nan", "error:", "error:2", "wrong:0.1", "x"])
def test_what_is_no_threshold_is_refused(value):
    with pytest.raises(UserError, match=r"--abstain must be a probability .* not '"):
        checks.abstention("--abstain", value)
    assert checks.abstention("--abstain", "error:0.05") == ("error", 0.05)


def clusters(count: int, seed: int, center: int = 0) -> np.ndarray:
    centers = np.random.default_rng(7).normal(size=(3, 100))
    random = np.random.default_rng(seed)
    return centers[center] * random.uniform(1, 5, (count, 1)) + 0.3 * random.normal(
        size=(count, 100)
    )


def test_the_distance_is_to_the_fifth_nearest_by_direction():
    train = np.concatenate([clusters(60, 1), clusters(60, 2, 1)])
    found = familiarity.fitted(train, clusters(40, 3), epoch=1)
    assert found is not None
    new = np.concatenate([clusters(5, 4), clusters(5, 5, 2)])
    unit, others = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (new, train))
    exact = np.sort(np.linalg.norm(unit[:, None] - others[None], axis=-1), 1)[:, 4]
    # Outside the stored directions lengths alone are known, which adds or takes a little.
    np.testing.assert_allclose(found.scores(new), exact, rtol=0.05)
    assert (found.scores(new) > found.limit).tolist() == [False] * 5 + [True] * 5
    # How large features are says nothing.
    np.testing.assert_allclose(found.scores(9 * new), found.scores(new), rtol=1e-4)
    assert np.mean(found.scores(clusters(40, 3)) > found.limit) <= 0.05


def test_stored_features_are_those_that_were_fitted(tmp_path):
    found = familiarity.fitted(clusters(50, 1), clusters(20, 2), epoch=4)
    assert found is not None
    found.save(tmp_path)
    again = familiarity.load(tmp_path, 4)
    assert again is not None
    np.testing.assert_array_equal(again.scores(clusters(9, 3)), found.scores(clusters(9, 3)))
    assert again.limit == found.limit
    assert familiarity.load(tmp_path, 5) is None
    (tmp_path / familiarity.FILE).write_bytes(b"damaged")
    assert familiarity.load(tmp_path, 4) is None
    assert familiarity.fitted(clusters(4, 1), clusters(3, 2), epoch=1) is None


def test_the_images_that_stand_for_all_are_of_all_classes():
    labels = np.array([0] * 500 + [1] * 3 + [2] * 40)
    rows = familiarity.chosen(lambda label: np.flatnonzero(labels == label), 3, 60)
    assert len(rows) == len(set(rows.tolist())) == 60
    assert np.bincount(labels[rows]).tolist() == [29, 3, 28]


@pytest.mark.parametrize(
    "head", [HeadSpec(), HeadSpec(pool="max"), HeadSpec(relu_logits=True), HeadSpec(("dense:4",))]
)
def test_features_come_with_the_same_logits(head):
    model = ImageClassifier(tiny.TinyNet(), head, 3)
    images = tiny.images(2)
    variables = model.init(jax.random.key(0), tiny.PREPARE(images))
    noise = np.random.default_rng(1)
    variables = jax.tree.map(lambda x: x + 0.1 * noise.normal(size=x.shape), variables)
    logits, features = forward_with_features(variables, images, model=model, prepare=tiny.PREPARE)
    alone = forward(variables, images, model=model, prepare=tiny.PREPARE)
    # The same sums, fused otherwise: float32 rounding.
    np.testing.assert_allclose(logits, alone, rtol=1e-5, atol=1e-6)
    assert features.ndim == 2
    assert np.asarray(features).std() > 0


@pytest.fixture(scope="module")
def run(tiny_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has stored its training features and thresholds."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    shutil.copytree(tiny_run.folder, folder)
    found = loading.load(folder)
    dataset, _ = opened_for(found, None, tiny.quiet(), None, "val", None)
    how: dict[str, Any] = dict(model=found.model, variables=found.variables, inputs=found.inputs)
    rows = completion.chosen_rows(dataset)
    features = completion.computed(dataset, rows, **how).values
    fitted = familiarity.fitted(features["train"], features["val"], found.epoch)
    assert fitted is not None
    fitted.save(folder)
    steps = selective.steps(np.linspace(0.3, 1, 20), np.arange(20) > 8)
    selective.save(folder, found.epoch, steps)
    return folder


def test_predictions_say_how_far_to_trust_them(run, tiny_data, tmp_path, capsys):
    images = tiny_data / "val"
    assert main("predict", run, images, "--abstain", "0.999999", "--json") == 0
    captured = capsys.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert all(row["abstains"] is True for row in rows)  # Nearly no probability is as high.
    limit = loading.load(run).trust()[0].limit
    assert [row["unusual"] for row in rows] == [row["distance"] > limit for row in rows]
    assert "not sure below a probability of 1: it would answer for 1 of 20 " in captured.err
    out = tmp_path / "found.csv"
    assert main("predict", run, images, "--abstain", "error:0.1", "--out", out) == 0
    assert "it would answer for 12 of 20 validation images (60 %), 8.3 % of them wrongly" in (
        capsys.readouterr().err
    )
    with out.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0])[-4:] == ["abstains", "distance", "unusual", "error"]
    assert {row["abstains"] for row in table} <= {"true", "false"}
    found = loading.load(run).predict(images, abstain="error:0.1")
    assert [str(one.abstains).lower() for one in found] == [row["abstains"] for row in table]
    assert found.distances is not None
    np.testing.assert_allclose(found.distances, [float(row["distance"]) for row in table], 1e-4)
    assert found[1:][0] == found[1]


def test_what_is_unlike_the_training_images_is_said(run, tmp_path, capsys):
    loaded = loading.load(run)
    limit = loaded.familiarity.limit
    stripes = np.zeros((16, 16, 3), np.uint8)
    stripes[::2] = 255
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    [said] = loaded.predict(tmp_path / "stripes.png")
    assert said.unusual == (said.distance > limit)
    assert main("predict", run, tmp_path / "stripes.png") == 0
    captured = capsys.readouterr()
    assert (", unlike the training images" in captured.out) == said.unusual
    assert ("1 of 1 image is unlike the training images" in captured.err) == said.unusual


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--abstain", "2"], "--abstain must be a probability"),
        (["--abstain", "error:0.001"], ""),
        (["--abstain", "error:0.1", "--tta", "flip"], "not on several versions of each"),
    ],
)
def test_what_cannot_be_had_is_refused(run, tiny_data, options, message, capsys):
    if not message:  # Nothing is right.
        epoch = loading.load(run).epoch
        before = (run / selective.FILE).read_text()
        selective.save(run, epoch, selective.steps(np.linspace(0, 1, 20), np.zeros(20, bool)))
        message = "no threshold brings the share of wrong answers to 0.1 %"
    else:
        before = None
    assert main("predict", run, tiny_data / "val", *options) == 2
    assert message in capsys.readouterr().err
    if before is not None:
        (run / selective.FILE).unlink()
        assert main("predict", run, tiny_data / "val", *options) == 2
        assert "`jtl evaluate" in capsys.readouterr().err
        (run / selective.FILE).write_text(before)
