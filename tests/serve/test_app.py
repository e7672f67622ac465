"""The server's answers: those of predict, whatever the way in; and what is refused."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

import jtl
from jtl.predict.predictions import Predictions
from jtl.train.fit import fit
from support import tiny
from support.serving import form, png, served, shares

TOLERANCE = 1e-6
"""Of probabilities: batches of another size add up in another order."""


@pytest.fixture(scope="module")
def large_run(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run on images that are reduced while they are decoded."""
    folder = tmp_path_factory.mktemp("large")
    tiny.write_weights(folder / "weights")
    data = tiny.write_folder(folder / "images", size=24)
    return fit(tiny.config(data, folder / "run", epochs=3), tiny.quiet())


@pytest.fixture(scope="module", params=["small", "large"])
def folder(request: pytest.FixtureRequest) -> Path:
    """A run on small images, which the device enlarges, and one on larger ones."""
    name = {"small": "tiny_run", "large": "large_run"}[request.param]
    return request.getfixturevalue(name).folder


@pytest.fixture(scope="module")
def client(tiny_run) -> Iterator[TestClient]:
    with served(tiny_run.folder) as found:
        yield found


@pytest.fixture(scope="module")
def files(tiny_data, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of several sizes and kinds."""
    place = tmp_path_factory.mktemp("files")
    found = sorted((tiny_data / "val").rglob("*.png"))[::4]
    rng = np.random.default_rng(0)
    made = {
        "photo.jpg": Image.fromarray(rng.integers(0, 256, (90, 60, 3), np.uint8)),
        "grey.png": Image.fromarray(rng.integers(0, 256, (5, 5), np.uint8)),
        "deep.png": Image.fromarray(rng.integers(0, 2**16, (12, 30), np.uint16)),
        "clear.webp": Image.fromarray(rng.integers(0, 256, (9, 8, 4), np.uint8)),
    }
    for name, image in made.items():
        image.save(place / name)
        found.append(place / name)
    return found


def uploaded(files: list[Path]) -> dict[str, Any]:
    return form(*((file.name, file.read_bytes()) for file in files))


def check_same(rows: list[dict[str, Any]], expected: Predictions) -> None:
    for row, truth in zip(rows, expected.probabilities, strict=True):
        found = shares(row)
        given = np.array([found[name] for name in expected.class_names])
        np.testing.assert_allclose(given, truth, atol=TOLERANCE, rtol=0)
        assert [one["class"] for one in row["classes"]] == [
            expected.class_names[i] for i in np.argsort(-truth, kind="stable")
        ]


def test_predictions_are_those_of_predict_whatever_the_way_in(folder, files):
    expected = jtl.load(folder).predict(files)
    assert len(np.unique(expected.logits, axis=0)) == len(files)
    encoded = [base64.b64encode(file.read_bytes()).decode() for file in files]
    named = [{"name": f.name, "data": e} for f, e in zip(files, encoded, strict=True)]
    with served(folder) as client:
        ways = {
            "form": client.post("/predict", **uploaded(files)),
            "base64": client.post("/predict", json={"images": encoded}),
            "named": client.post("/predict", json={"images": named}),
        }
        for way, answer in ways.items():
            assert answer.status_code == 200, answer.text
            assert answer.json()["model"] == "mine"
            rows = answer.json()["predictions"]
            check_same(rows, expected)
            names = [row["name"] for row in rows]
            wanted = [f"image {i}" for i in range(len(files))]
            assert names == (wanted if way == "base64" else [file.name for file in files])
        for row, (file, text) in enumerate(zip(files, encoded, strict=True)):
            one = expected[row : row + 1]
            check_same(client.post("/predict", json={"image": text}).json()["predictions"], one)
            url = f"data:image/png;base64,{text}"
            check_same(client.post("/predict", json={"image": url}).json()["predictions"], one)
            headers = {"content-type": "image/png"}
            alone = client.post("/predict", content=file.read_bytes(), headers=headers)
            check_same(alone.json()["predictions"], one)


def test_how_many_classes_are_named(client, files):
    for answer in (
        client.post("/predict?top_k=2", **uploaded(files[:1])),
        client.post("/predict", **uploaded(files[:1]), data={"top_k": "2"}),
        client.post(
            "/predict",
            json={"image": base64.b64encode(files[0].read_bytes()).decode(), "top_k": 2},
        ),
    ):
        assert len(answer.json()["predictions"][0]["classes"]) == 2
    assert len(client.post("/predict?top_k=99", **uploaded(files[:1])).json()["predictions"][0][
        "classes"
    ]) == 3  # fmt: skip
    for bad in ("0", "x", "-1", "1.5"):
        answer = client.post(f"/predict?top_k={bad}", **uploaded(files[:1]))
        assert answer.status_code == 400
        assert "top_k must be a whole number of at least 1" in answer.json()["error"]


def test_other_addresses(client):
    answer = client.get("/nothing")
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "There is nothing at /nothing. /openapi.json lists what there is."
    }
    answer = client.get("/predict")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert answer.json() == {"error": "Method Not Allowed"}
    assert client.get("/examples/0").status_code == 404
    assert client.get("/examples").json() == {"examples": []}


def test_a_failure_of_the_model_is_no_answer_and_the_next_one_works(tiny_run, files, monkeypatch):
    with served(tiny_run.folder) as client:
        service = client.service
        client._transport.raise_server_exceptions = False
        works = service.pipeline.batcher._compute
        monkeypatch.setattr(service.pipeline.batcher, "_compute", lambda batch: 1 / 0)
        answer = client.post("/predict", **uploaded(files[:1]))
        assert answer.status_code == 500
        assert answer.json() == {"error": "The server failed. Its log says why."}
        monkeypatch.setattr(service.pipeline.batcher, "_compute", works)
        assert client.post("/predict", **uploaded(files[:1])).status_code == 200
        assert service.pipeline.in_progress == 0


def test_a_server_for_this_computer_answers_to_its_names_alone(tiny_run):
    with served(tiny_run.folder, hosts=("localhost", "127.0.0.1", "::1")) as client:
        for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]"):
            assert client.get("/v2", headers={"host": host}).status_code == 200
        for host in ("evil.example", "evil.example:8000", "", "localhost.evil.example"):
            answer = client.get("/v2", headers={"host": host})
            assert answer.status_code == 403
            assert "--host" in answer.json()["error"]
    with served(tiny_run.folder) as client:
        assert client.get("/v2", headers={"host": "evil.example"}).status_code == 200
        # Browsers say for whom they ask.
        headers = {"sec-fetch-site": "cross-site"}
        assert client.post("/predict", headers=headers).status_code == 403
        assert client.get("/v2", headers=headers).status_code == 200


def test_the_page_holds_nothing_from_elsewhere(client):
    total = 0
    for path, kind in (
        ("/", "text/html"),
        ("/style.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        total += len(answer.content)
        if path != "/icon.svg":
            assert "://" not in answer.text
        assert "innerHTML" not in answer.text
        tagged = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (tagged.status_code, tagged.content) == (304, b"")
    assert total < 100_000
    text = client.get("/").text
    assert "onclick" not in text
    assert "style=" not in text


def test_what_people_want_to_know(client, tiny_run):
    about = client.get("/about").json()
    assert about["name"] == "mine"
    assert about["classes"] == list(tiny.CLASSES)
    assert (about["task"], about["abstain"], about["explains"]) == ("multiclass", None, True)
    assert (about["backbone"], about["image_size"]) == ("tiny", 8)
    assert about["limits"]["pixels"] == 100_000_000


def test_not_sure(tiny_run, files):
    with served(tiny_run.folder, abstain=0.5) as client:
        rows = client.post("/predict", **uploaded(files)).json()["predictions"]
        assert {row["abstains"] for row in rows} == {True, False}
        for row in rows:
            assert row["abstains"] == (row["classes"][0]["probability"] < 0.5)
        assert client.get("/about").json()["abstain"] == 0.5


def test_explanations(client, files, tmp_path):
    shown = []
    for file in files[:2]:
        answer = client.post("/explain", **uploaded([file]))
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "image/png"
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (384, 384)
            shown.append(np.asarray(image, np.int64))
    assert np.abs(shown[0] - shown[1]).mean() > 5
    answer = client.post("/explain", **uploaded(files[:2]))
    assert answer.status_code == 400
    assert "one image to explain, not 2" in answer.json()["error"]


def test_frames_after_the_first_are_told(client):
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    data = png(frames[0], "GIF", save_all=True, append_images=frames[1:])
    (row,) = client.post("/predict", **form(("two.gif", data))).json()["predictions"]
    assert row["note"] == "It has several frames or pages; this is the first."
    (row,) = client.post("/predict", **form(("one.gif", png(frames[0], "GIF")))).json()[
        "predictions"
    ]
    assert "note" not in row


def test_examples_are_validation_images_as_they_are(tiny_run, tiny_data, monkeypatch):
    with served(tiny_run.folder, examples=True) as client:
        service = client.service
        service.examples.find()
        rows = client.get("/examples").json()["examples"]
        assert len(rows) == 8
        assert [row["label"] for row in rows[:4]] == ["ash", "birch", "cedar", "ash"]
        for row in rows:
            answer = client.get(f"/{row['url']}")
            assert answer.headers["content-type"] == "image/png"
            file = tiny_data / "val" / row["label"] / row["name"]
            assert answer.content == file.read_bytes()
        assert client.get("/examples/8").status_code == 404


def test_there_are_no_examples_where_the_images_have_changed(tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    shutil.copytree(tiny_data.parent / "weights", tmp_path / "weights")
    run = fit(tiny.config(data, tmp_path / "run"), tiny.quiet())

    def found() -> int:
        with served(run.folder, examples=True) as client:
            client.service.examples.find()
            return len(client.get("/examples").json()["examples"])

    assert found() == 8
    (data / "val" / "ash" / "new.png").write_bytes((data / "val/ash/0.png").read_bytes())
    assert found() == 0
    shutil.rmtree(data)
    assert found() == 0


@pytest.mark.parametrize(
    "name", ["<img src=x onerror=alert(1)>", '=HYPERLINK("x")', "\x1b[31m", "[x](javascript:1)"]
)
def test_names_stay_text(client, files, name):
    encoded = base64.b64encode(files[0].read_bytes()).decode()
    answer = client.post("/predict", json={"images": [{"name": name, "data": encoded}]})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["predictions"][0]["name"] == name
    assert "\x1b" not in answer.text


def test_names_that_are_no_unicode(client, files):
    encoded = base64.b64encode(files[0].read_bytes()).decode()
    body = json.dumps({"images": [{"name": "\udcff.png", "data": encoded}]})
    headers = {"content-type": "application/json"}
    answer = client.post("/predict", content=body.encode(), headers=headers)
    assert answer.status_code == 200
    assert answer.json()["predictions"][0]["name"] == "\udcff.png"
