"""The Open Inference Protocol: metadata, health, tensors in JSON and as binary data."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import jtl
from support import tiny
from support.serving import served

INFER = "/v2/models/mine/infer"
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def client(tiny_run) -> Iterator[TestClient]:
    with served(tiny_run.folder, abstain=0.5) as found:
        yield found


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return tiny.images(5)


@pytest.fixture(scope="module")
def expected(tiny_run, pixels) -> Any:
    return jtl.load(tiny_run.folder).predict(pixels)


def tensor(kind: str, shape: list[int], data: Any = None, **more: Any) -> dict[str, Any]:
    found = {"name": "image", "datatype": kind, "shape": shape}
    return {**found, **({} if data is None else {"data": data}), **more}


def outputs(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {one["name"]: one for one in answer.json()["outputs"]}


def test_health_and_metadata(client):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    server = client.get("/v2").json()
    assert server["name"] == "jtl"
    assert server["extensions"] == ["binary_tensor_data"]
    for base in ("/v2/models/mine", "/v2/models/mine/versions/1"):
        assert client.get(base + "/ready").json() == {"name": "mine", "ready": True}
        about = client.get(base).json()
        assert about["versions"] == ["1"]
        assert about["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        kinds = {one["name"]: (one["datatype"], one["shape"]) for one in about["outputs"]}
        assert kinds == {
            "probabilities": ("FP32", [-1, 3]), "class": ("BYTES", [-1]),
            "logits": ("FP32", [-1, 3]), "abstains": ("BOOL", [-1]),
        }  # fmt: skip


def test_it_is_not_ready_while_it_stops(client, monkeypatch):
    monkeypatch.setattr(client.service, "is_stopping", lambda: True)
    assert client.get("/v2/health/live").status_code == 200
    for path in ("/v2/health/ready", "/v2/models/mine/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["ready"]) == (503, False)


@pytest.mark.parametrize(
    "path", ["/v2/models/other", "/v2/models/mine/versions/2", "/v2/models/other/ready"]
)
def test_other_models_and_versions(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert "mine" in answer.json()["error"] or "'1'" in answer.json()["error"]


def test_tensors_in_json(client, pixels, expected):
    files = [tiny_png(one) for one in pixels]
    text = [base64.b64encode(file).decode() for file in files]
    shape = list(pixels.shape)
    for sent in (
        tensor("UINT8", shape, pixels.tolist()),
        tensor("UINT8", shape, pixels.ravel().tolist()),
        tensor("FP32", shape, (pixels / 255).ravel().tolist()),
        tensor("BYTES", [5], text),
        tensor("BYTES", [5, 1], [[one] for one in text]),
    ):
        answer = client.post(INFER, json={"id": "a", "inputs": [sent]})
        found = outputs(answer)
        assert answer.json()["id"] == "a"
        assert (answer.json()["model_name"], answer.json()["model_version"]) == ("mine", "1")
        assert list(found) == ["probabilities", "class", "abstains"]
        shares = np.reshape(found["probabilities"]["data"], found["probabilities"]["shape"])
        np.testing.assert_allclose(shares, expected.probabilities, atol=TOLERANCE, rtol=0)
        assert found["class"]["data"] == expected.labels
        assert found["abstains"]["data"] == [bool(row.max() < 0.5) for row in shares]
    wanted = {"inputs": [sent], "outputs": [{"name": "logits"}]}
    found = outputs(client.post("/v2/models/mine/versions/1/infer", json=wanted))
    assert list(found) == ["logits"]
    logits = np.reshape(found["logits"]["data"], [5, 3])
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-5, atol=1e-5)


def tiny_png(pixels: np.ndarray) -> bytes:
    from support.serving import png

    return png(pixels)


def binary(head: dict[str, Any], data: bytes) -> dict[str, Any]:
    text = json.dumps(head).encode()
    headers = {
        "content-type": "application/octet-stream",
        "inference-header-content-length": str(len(text)),
    }
    return {"content": text + data, "headers": headers}


def test_binary_tensors(client, pixels, expected):
    files = [tiny_png(one) for one in pixels]
    each = b"".join(struct.pack("<I", len(one)) + one for one in files)
    shape = list(pixels.shape)
    for kind, size, data in (
        ("UINT8", shape, pixels.tobytes()),
        ("FP32", shape, (pixels / 255).astype("<f4").tobytes()),
        ("BYTES", [5], each),
    ):
        sent = tensor(kind, size, parameters={"binary_data_size": len(data)})
        head = {"inputs": [sent], "parameters": {"binary_data_output": True}}
        answer = client.post(INFER, **binary(head, data))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers["inference-header-content-length"])
        told, rest = json.loads(answer.content[:length]), answer.content[length:]
        parts = {}
        for one in told["outputs"]:
            taken = one["parameters"]["binary_data_size"]
            parts[one["name"]], rest = rest[:taken], rest[taken:]
        assert rest == b""
        shares = np.frombuffer(parts["probabilities"], "<f4").reshape(5, 3)
        np.testing.assert_allclose(shares, expected.probabilities, atol=TOLERANCE, rtol=0)
        names, text = [], parts["class"]
        while text:
            (count,) = struct.unpack_from("<I", text)
            names.append(text[4 : 4 + count].decode())
            text = text[4 + count :]
        assert names == expected.labels
        assert parts["abstains"] == bytes(int(row.max() < 0.5) for row in shares)
    # One output as binary data, another in the JSON.
    asked = [{"name": "class"}, {"name": "logits", "parameters": {"binary_data": True}}]
    answer = client.post(INFER, **binary({"inputs": [sent], "outputs": asked}, data))
    length = int(answer.headers["inference-header-content-length"])
    told = json.loads(answer.content[:length])
    assert told["outputs"][0]["data"] == expected.labels
    logits = np.frombuffer(answer.content[length:], "<f4").reshape(5, 3)
    np.testing.assert_allclose(logits, expected.logits, rtol=1e-5, atol=1e-5)


def wrong() -> dict[str, tuple[dict[str, Any], int, str]]:
    pixels = np.zeros((1, 2, 2, 3)).tolist()

    def given(*inputs: Any, **more: Any) -> dict[str, Any]:
        return {"json": {"inputs": list(inputs), **more}}

    def raw(sent: dict[str, Any], data: bytes) -> dict[str, Any]:
        return binary({"inputs": [sent]}, data)

    size = {"parameters": {"binary_data_size": 3}}
    return {
        "no JSON": ({"content": b"{"}, 400, "cannot be read"),
        "no inputs": ({"json": {}}, 400, 'a list of "inputs"'),
        "two inputs": (given({}, {}), 400, "one input, 'image', not 2"),
        "another": (given({"name": "x"}), 400, "no input 'x'; the input is 'image'"),
        "no shape": (given(tensor("UINT8", None, [])), 400, "shape of 'image' must be a list"),
        "shape": (given(tensor("UINT8", [1, 2, 2, 3], [0])), 400, "12 values, and there are 1"),
        "huge": (given(tensor("UINT8", [9**20, 9, 9, 3], [0])), 400, "there are 1"),
        "two sides": (given(tensor("UINT8", [2, 2], [0] * 4)), 400, "the shape [N, H, W, 3]"),
        "channels": (given(tensor("UINT8", [1, 1, 2, 2], [0] * 4)), 400, "shape [1, 2, 2]"),
        "nothing": (given(tensor("UINT8", [0, 2, 2, 3], [])), 400, "no image"),
        "no pixels": (given(tensor("UINT8", [1, 0, 2, 3], [])), 400, "shape [0, 2, 3]"),
        "ragged": (given(tensor("UINT8", [1], [[1], [1, 2]])), 400, "lists of different lengths"),
        "text": (given(tensor("UINT8", [1], ["a"])), 400, "must be a list of numbers"),
        "fractions": (given(tensor("UINT8", [1], [0.5])), 400, "must be a list of numbers"),
        "256": (given(tensor("UINT8", [1], [256])), 400, "from 0 to 255"),
        "0 to 255": (given(tensor("FP32", [1], [200.0])), 400, "must be from 0 to 1"),
        "NaN": ({"content": b'{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1], '
                            b'"data": [NaN]}]}'}, 400, "must be from 0 to 1"),
        "kind": (given(tensor("INT64", [1], [1])), 400, "datatype of 'image' is 'INT64'"),
        "no base64": (given(tensor("BYTES", [1], ["!"])), 400, "not base64"),
        "no text": (given(tensor("BYTES", [1], [1])), 400, "list of text in base64"),
        "a count": (given(tensor("BYTES", [2], ["AAAA"])), 400, "2 images, and there are 1"),
        "no image": (given(tensor("BYTES", [1], ["AAAA"])), 422, "image 0: "),
        "many": (given(tensor("BYTES", [65], ["AAAA"] * 65)), 413, "64 at most"),
        "many pixels": (given(tensor("UINT8", [65, 1, 1, 3], [0] * 195)), 413, "64 at most"),
        "no output": (given(tensor("UINT8", [1, 2, 2, 3], pixels), outputs=[{"name": "x"}]),
                      400, "There is no output 'x'; there are probabilities, class"),
        "outputs": (given(tensor("UINT8", [1, 2, 2, 3], pixels), outputs=3), 400, '"outputs"'),
        "size": (raw(tensor("UINT8", [1], **size), b"12"), 400, "3, but 2 bytes follow"),
        "binary": (raw(tensor("UINT8", [2], **size), b"123"), 400, "takes 2 bytes, and there"),
        "an end": (raw(tensor("BYTES", [1], **size), b"123"), 400, "within the length"),
        "a length": ({"content": b"{}", "headers": {"inference-header-content-length": "9"}},
                     400, "within the 2 bytes"),
    }  # fmt: skip


@pytest.mark.parametrize("case", wrong())
def test_what_does_not_follow_the_protocol(client, case):
    given, status, said = wrong()[case]
    answer = client.post(INFER, **given)
    assert answer.status_code == status, answer.text
    assert said in answer.json()["error"]
    assert client.service.pipeline.in_progress == 0
