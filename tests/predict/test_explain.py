"""Grad-CAM: against the formula that it comes to under a linear head, and as images."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from PIL import Image

from jtl.common.text import percent
from jtl.data.preprocessing import Prepare
from jtl.models import ImageClassifier, Preprocessing
from jtl.models.families.vgg import VGG
from jtl.models.families.vit import ViT
from jtl.predict import classifier, explain
from jtl.predict.inputs import items
from support import tiny
from support.commands import main
from support.networks import random_variables


def test_under_a_linear_head_it_is_the_classes_own_weights():
    # A head of averages: the gradient of a logit is its weights over the count of pixels.
    tree, images = tiny.variables(), tiny.images(5)
    head = tree["params"]["head"]
    before = np.asarray(tiny.MODEL.apply(tree, tiny.PREPARE(images)))
    # So that the images are not all of one class.
    tree["params"]["head"] = jax.tree.map(lambda x: x - before.mean(0) if x.ndim == 1 else x, head)
    maps, logits = explain.grad_cam(tree, images, model=tiny.MODEL, prepare=tiny.PREPARE)
    features = np.asarray(tiny.MODEL.apply(tree, tiny.PREPARE(images), stop="pool"))
    (kernel,) = (x for x in jax.tree.leaves(tree["params"]["head"]) if x.ndim == 2)
    chosen = np.argmax(np.asarray(logits), -1)
    assert len(set(chosen.tolist())) > 1
    expected = np.maximum(np.einsum("nhwc,cn->nhw", features, kernel[:, chosen]), 0)
    expected /= expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-5)
    assert maps.shape == (5, 4, 4)
    plain = tiny.MODEL.apply(tree, tiny.PREPARE(images))
    np.testing.assert_allclose(logits, np.asarray(plain), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [VGG((1, 1, 1, 1, 1), False, (8, 8)), ViT(64, 16, 4, grid=4, registers=1)],
    ids=lambda backbone: type(backbone).__name__,
)
def test_the_map_is_one_of_many_pixels(backbone):
    """Also where the features end as one pixel, by dense layers or a class token."""
    model = ImageClassifier(backbone, num_classes=3)
    tree = random_variables(model, 64)
    prepare = Prepare(64, Preprocessing(size=64), "float32")
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    maps, logits = explain.grad_cam(tree, images, model=model, prepare=prepare)
    side = 2 if isinstance(backbone, VGG) else 4
    assert (maps.shape, logits.shape) == ((2, side, side), (2, 3))
    assert np.unique(np.asarray(maps)).size > side


def test_a_image_for_each_prediction(tiny_run, tiny_data, tmp_path, capsys):
    (tmp_path / "bad.png").write_text("no image")
    given = [tiny_data / "val" / "ash" / "0.png", tmp_path / "bad.png", tiny_data / "val" / "birch"]
    out = tmp_path / "a" / "why"
    assert main("predict", tiny_run.folder, *given, "--explain", out, "--top-k", 1) == 0
    captured = capsys.readouterr()
    assert f"Saved Grad-CAM images to '{out}'" in captured.err
    assert "1 of 5 images could not be read" in captured.err
    names = ["0001-0.png", "0003-0.png", "0004-1.png", "0005-2.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    with Image.open(out / names[0]) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # The image is on the left as it is, on the right under the map.
    half = pixels.shape[1] // 2
    assert pixels[:, :half].std() > 10
    assert np.abs(pixels[:, :half] - pixels[:, -half:]).mean() > 5


def test_the_title_names_file_class_and_probability(tiny_run, tiny_data, tmp_path, monkeypatch):
    figures: list = []
    monkeypatch.setattr(
        explain.plots, "save", lambda figure, path, title: figures.append((figure, title))
    )
    path = tiny_data / "val" / "ash" / "0.png"
    model = classifier.load(tiny_run.folder)
    explain.write_explanations(model, items([path]), tmp_path)
    ((figure, title),) = figures
    name, told = title.split("\n")
    assert name.endswith("ash/0.png")
    said = model.predict(path)[0]
    assert told == f"{said.label} ({percent(said.probability)})"
    # The map is even to the eye and has a bar that says what its colours are.
    *_, view, bar = figure.axes
    assert view.images[-1].get_cmap().name == "viridis"
    assert [text.get_text() for text in bar.get_yticklabels()] == ["none", "half", "most"]


def test_a_map_where_nothing_speaks_for_a_class():
    tree = tiny.variables()
    tree["params"]["head"] = jax.tree.map(np.zeros_like, tree["params"]["head"])
    maps, _ = explain.grad_cam(tree, tiny.images(2), model=tiny.MODEL, prepare=tiny.PREPARE)
    assert not np.asarray(maps).any()


def test_a_folder_that_cannot_be(tiny_run, tiny_data, capsys):
    image = tiny_data / "val" / "ash" / "0.png"
    assert main("predict", tiny_run.folder, image, "--explain", "/proc/why") == 2
    assert "cannot write to --explain '/proc/why'" in capsys.readouterr().err
    with pytest.raises(classifier.UserError):
        explain.write_explanations(
            classifier.load(tiny_run.folder), [], tiny_data / "val/ash/0.png"
        )
