"""Runs of several labels, of a search's ensemble and of 16-bit images are served as predicted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.common.errors import UserError
from jtl.predict.ensemble import load_all
from jtl.runs.files import write_json
from jtl.serve.model import ServedModel
from jtl.train.fit import fit
from support import tiny
from support.commands import main
from support.serving import form, png, served, shares


def test_several_labels(tiny_data, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("val", 20)):
        labels = rng.integers(0, 2, (count, 3)).astype(np.uint8)
        images = rng.integers(0, 120, (count, 8, 8, 3)) + 120 * labels[:, None, None]
        arrays |= {f"x_{split}": images.astype(np.uint8), f"y_{split}": labels}
    np.savez(tmp_path / "a.npz", class_names=np.array(["red", "green", "blue"]), **arrays)
    folder = tmp_path / "run"
    given = ["--model", "tiny", "--weights", tiny_data.parent / "weights", "--run-dir", folder]
    assert main("train", *given, "--data", tmp_path / "a.npz", "--task", "multilabel") == 0
    pixels = arrays["x_val"][:12]
    expected = jtl.load(folder).predict(pixels)
    assert len(set(expected.labels)) > 2
    files = [(str(i), png(one)) for i, one in enumerate(pixels)]
    with served(folder, examples=True) as client:
        rows = client.post("/predict", **form(*files)).json()["predictions"]
        assert [tuple(row["labels"]) for row in rows] == expected.labels
        for row, truth in zip(rows, expected.probabilities, strict=True):
            found = [shares(row)[name] for name in expected.class_names]
            np.testing.assert_allclose(found, truth, atol=1e-6)
        about = client.get("/about").json()
        assert about["task"] == "multilabel"
        assert about["thresholds"] == list(expected.thresholds or ())
        tensor = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape)}
        sent = {"inputs": [{**tensor, "data": pixels.ravel().tolist()}]}
        outputs = client.post("/v2/models/mine/infer", json=sent).json()["outputs"]
        labels = {one["name"]: one for one in outputs}["labels"]["data"]
        assert labels == ["|".join(names) for names in expected.labels]
        assert client.post("/explain", **form(files[0])).status_code == 200
        client.service.examples.find()
        assert len(client.get("/examples").json()["examples"]) == 8
    with pytest.raises(UserError, match="--abstain is for models with one class per image"):
        ServedModel(load_all(folder), "mine", abstain=0.9)


def test_a_search_with_an_ensemble(tiny_run, tiny_data, tmp_path):
    """Its members take images of different sizes."""
    large = tiny.write_folder(tmp_path / "large", size=24)
    shutil.copytree(tiny_data.parent / "weights", tmp_path / "weights")
    other = fit(tiny.config(large, tmp_path / "other", epochs=4), tiny.quiet())
    folder = tmp_path / "search"
    for name, run in (("one", tiny_run), ("two", other)):
        shutil.copytree(run.folder, folder / "trials" / name)
    write_json(folder / "search.json", {"winner": "trials/two"})
    members = [{"run": "trials/one", "weight": 0.3}, {"run": "trials/two", "weight": 0.7}]
    write_json(folder / "ensemble.json", {"members": members})
    files = sorted((large / "val").rglob("*.png"))
    sent = form(*((file.name, file.read_bytes()) for file in files))
    for single in (False, True):
        expected = load_all(folder, single=single).predict(files)
        with served(folder, single=single) as client:
            rows = client.post("/predict", **sent).json()["predictions"]
            for row, truth in zip(rows, expected.probabilities, strict=True):
                found = [shares(row)[name] for name in expected.class_names]
                np.testing.assert_allclose(found, truth, atol=1e-6)
            about = client.get("/about").json()
            assert (about["explains"], about["members"]) == (single, 1 if single else 2)
            answer = client.post("/explain", **form(("a", files[0].read_bytes())))
            assert answer.status_code == (200 if single else 404)
            if not single:
                assert "--single" in answer.json()["error"]
                assert "/explain" not in client.get("/openapi.json").json()["paths"]


def test_images_of_16_bits(tiny_model, tmp_path):
    tiny.write_weights(tmp_path / "weights")
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 2)):
        for level, name in enumerate(tiny.CLASSES):
            place = tmp_path / "deep" / split / name
            place.mkdir(parents=True)
            for index in range(count):
                values = rng.integers(1000 * level, 1000 * level + 1500, (24, 24))
                Image.fromarray(values.astype(np.uint16)).save(place / f"{index}.tif")
    run = fit(tiny.config(tmp_path / "deep", tmp_path / "run"), tiny.quiet())
    assert jtl.load(run).inputs.bit_depth == 12
    files: list[Path] = sorted((tmp_path / "deep" / "val").rglob("*.tif"))
    expected = jtl.load(run).predict(files)
    with served(run.folder, examples=True) as client:
        sent = form(*((file.name, file.read_bytes()) for file in files))
        rows = client.post("/predict", **sent).json()["predictions"]
        for row, truth in zip(rows, expected.probabilities, strict=True):
            found = [shares(row)[name] for name in expected.class_names]
            np.testing.assert_allclose(found, truth, atol=1e-6)
        # Browsers show no TIFF: examples are what is read of them.
        client.service.examples.find()
        examples = client.get("/examples").json()["examples"]
        assert len(examples) == 6
        for example in examples:
            answer = client.get(f"/{example['url']}")
            assert answer.headers["content-type"] == "image/png"
            (row,) = client.post("/predict", **form(("a", answer.content))).json()["predictions"]
            path = tmp_path / "deep" / "val" / example["label"] / example["name"]
            truth = expected[files.index(path)]
            assert shares(row) == pytest.approx(dict(truth.classes), abs=1e-6)
        beyond = png(Image.fromarray(np.full((24, 24), 5000, np.uint16)))
        answer = client.post("/predict", **form(("beyond.png", beyond)))
        assert answer.status_code == 422
        assert "of 12 bits the largest is 4,095" in answer.json()["error"]
