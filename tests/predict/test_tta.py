"""Test-time augmentation: the same as predicting every version and averaging by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.common.errors import UserError
from jtl.data.decoding import HostTransform
from jtl.evaluate import evaluation
from jtl.predict import tta
from jtl.predict.ensemble import Ensemble
from jtl.runs.multilabel import sigmoid
from support import tiny
from support.commands import main


@pytest.fixture(scope="module")
def classifier(tiny_run):
    """One that takes small images whole."""
    found = jtl.load(tiny_run.folder)
    assert found.inputs.host is None
    assert found.temperature != 1
    return found


@pytest.fixture(scope="module")
def cropping(classifier):
    """One that cuts the middle out of larger images."""
    host = HostTransform(tiny.SIZE, 0.5, "bilinear")
    return dataclasses.replace(classifier, inputs=dataclasses.replace(classifier.inputs, host=host))


def test_flip_averages_an_image_and_its_mirror_image(classifier):
    images = tiny.images(5)
    plain, mirrored = classifier.predict(images), classifier.predict(images[:, :, ::-1])
    assert np.abs(plain.probabilities - mirrored.probabilities).max() > 1e-3
    found = classifier.predict(images, tta="flip")
    by_hand = (plain.probabilities + mirrored.probabilities) / 2
    np.testing.assert_allclose(found.probabilities, by_hand, rtol=1e-5)
    # They are calibrated already.
    assert found.temperature == 1
    assert classifier.with_tta(None) is classifier


@pytest.mark.parametrize(("ways", "flips"), [("crops", (1,)), ("flip,crops", (1, -1))])
def test_crops_are_the_middle_and_the_corners(classifier, cropping, ways, flips):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8)
    image = Image.fromarray(pixels)
    around = HostTransform(16, 1.0, "bilinear")(image)
    assert around.shape == (16, 16, 3)
    corners = [(4, 4), (0, 0), (0, 8), (8, 0), (8, 8)]
    crops = [around[y : y + 8, x : x + 8][:, ::way] for y, x in corners for way in flips]
    # Images of the input's size are taken whole by the other one.
    each = classifier.predict(crops).probabilities
    np.testing.assert_allclose(each[0], cropping.predict(image).probabilities[0], rtol=1e-5)
    assert np.ptp(each, axis=0).max() > 1e-3
    found = cropping.predict(image, tta=ways).probabilities[0]
    np.testing.assert_allclose(found, each.mean(0), rtol=1e-5)


def test_evaluating_gives_what_predicting_gives(classifier, tiny_data):
    found = evaluation.evaluate_run(classifier.with_tta("flip"), None, tiny.quiet())
    files = [tiny_data / "val" / name for name in found.images.names]
    if not files[0].is_file():
        files = [tiny_data / name for name in found.images.names]
    predicted = classifier.predict(files, tta="flip")
    np.testing.assert_allclose(found.logits, predicted.logits, rtol=1e-4, atol=1e-5)
    labels = found.images.labels
    assert found.scores["val_accuracy"] == np.mean(predicted.logits.argmax(-1) == labels)
    shares = predicted.probabilities[np.arange(len(labels)), labels]
    assert found.scores["val_loss"] == pytest.approx(-np.log(shares).mean(), rel=1e-4)


def test_of_several_labels_each_class_is_averaged_for_itself():
    logits = np.random.default_rng(0).normal(0, 3, (2, 4, 3)).astype(np.float32)
    found = tta.averaged(list(logits), 1.0, several=True)
    np.testing.assert_allclose(sigmoid(found), sigmoid(logits).mean(0), rtol=1e-5)


def test_members_of_an_ensemble_decode_once(cropping, monkeypatch):
    read: list[int] = []

    class Counted(evaluation.DecodedOnce):
        def __init__(self, split, transforms, room):
            super().__init__(split, transforms, room)
            whole = split.read

            def counting(rows, transform):
                read.append(len(rows))
                return whole(rows, transform)

            monkeypatch.setattr(split, "read", counting)

    other = HostTransform(tiny.SIZE, 1.0, "bilinear")
    different = dataclasses.replace(
        cropping, inputs=dataclasses.replace(cropping.inputs, host=other)
    )
    members = (cropping, cropping, different, cropping.with_tta("flip"))
    ensemble = Ensemble(cropping.folder, members, (0.25,) * 4)
    alone = [evaluation.evaluate_run(one, None, tiny.quiet()) for one in members]
    monkeypatch.setattr(evaluation, "DecodedOnce", Counted)
    found = evaluation.evaluate_ensemble(ensemble, None, tiny.quiet())
    count = len(found.images.labels)
    # Once of three that prepare images alike; of another in a batch that is filled up.
    assert read == [count, 32]
    np.testing.assert_array_equal(found.logits, ensemble.mixed([one.logits for one in alone]))
    # Without room each decodes for itself.
    read.clear()
    monkeypatch.setattr(evaluation, "memory_budget", lambda chosen: 0)
    again = evaluation.evaluate_ensemble(ensemble, None, tiny.quiet())
    assert len(read) == 4
    np.testing.assert_array_equal(again.logits, found.logits)


def test_commands_take_it(tiny_run, tiny_data, capsys):
    image = next((tiny_data / "val").rglob("*.png"))
    main("predict", tiny_run.folder, image, "--tta", "flip", "--json")
    flipped = capsys.readouterr().out
    main("predict", tiny_run.folder, image, "--json")
    assert flipped != capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tiny_run.folder.rglob("*")}
    main("evaluate", tiny_run.folder, "--tta", "flip")
    assert "average of versions of each image (--tta flip)" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tiny_run.folder.rglob("*")} == before


def test_what_means_nothing_is_refused(classifier, cropping):
    for ways in ("flop", "crops,flip", 2):
        with pytest.raises(UserError, match=r"must be flip, crops or flip,crops"):
            classifier.predict(tiny.images(1), tta=ways)
    with pytest.raises(UserError, match=r"takes images whole.* Use --tta flip"):
        classifier.predict(tiny.images(1), tta="crops")
    padded = dataclasses.replace(cropping.inputs, fit="pad")
    with pytest.raises(UserError, match="takes images whole"):
        dataclasses.replace(cropping, inputs=padded).with_tta("flip,crops")
