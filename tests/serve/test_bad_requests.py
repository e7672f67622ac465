"""Bad images and bad requests: 4xx, one message, and nothing that stays behind."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from starlette.requests import Request
from starlette.testclient import TestClient

from jtl.serve import uploads
from jtl.serve.errors import Refused
from support import tiny
from support.serving import form, png, served, shares

TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def client(tiny_run) -> Iterator[TestClient]:
    with served(tiny_run.folder) as found:
        yield found


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it has so many pixels, all of them black."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        code = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", code)

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    row = b"\0" * (1 + width // 8)
    deflate = zlib.compressobj(9)
    data = b"".join(deflate.compress(row) for _ in range(min(height, 2000))) + deflate.flush()
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + end


def bad_images() -> dict[str, tuple[bytes, int, str]]:
    whole = png(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), "JPEG")
    return {
        "empty": (b"", 422, "the file is empty (0 bytes)"),
        "text": (b"This is no image.\n" * 9, 422, "not an image"),
        "truncated": (whole[: len(whole) // 2], 422, "truncated"),
        "200 MP": (bomb(16384, 12288), 413, "more than 100,000,000 pixels"),
        "120 MP": (bomb(12000, 10000), 413, "12,000 x 10,000 pixels are more than 100,000,000"),
        "bomb": (bomb(50000, 50000), 413, "more than 100,000,000 pixels"),
        "zip": (b"PK\3\4" + b"\0" * 99, 422, "not an image"),
    }


@pytest.mark.parametrize("case", bad_images())
def test_bad_images_are_told(client, case):
    data, status, said = bad_images()[case]
    answer = client.post("/predict", **form(("bad.jpg", data)))
    assert answer.status_code == status
    assert "bad.jpg: " in answer.json()["error"]
    assert said.lower() in answer.json()["error"].lower()
    # Among others it does no harm.
    good = png(tiny.images(1)[0])
    answer = client.post("/predict", **form(("a", good), ("bad.jpg", data), ("b", good)))
    assert answer.status_code == 200
    first, bad, last = answer.json()["predictions"]
    assert bad.keys() == {"name", "error"}
    assert said.lower() in bad["error"].lower()
    assert shares(first) == pytest.approx(shares(last), abs=TOLERANCE)
    assert client.post("/explain", **form(("bad.jpg", data))).status_code == status


def bad_requests() -> dict[str, tuple[dict[str, Any], int, str]]:
    def typed(kind: str, content: bytes = b"") -> dict[str, Any]:
        return {"content": content, "headers": {"content-type": kind}}

    json_ = "application/json"
    return {
        "no type": ({"content": b"abc"}, 415, "content type is 'missing'"),
        "text": (typed("text/plain", b"hello"), 415, "content type is 'text/plain'"),
        "curl": (typed("application/x-www-form-urlencoded", b"a=b"), 415, "multipart/form-data"),
        "no boundary": (typed("multipart/form-data", b"abc"), 400, "boundary"),
        "no form": (typed("multipart/form-data; boundary=x", b"abc"), 400, "form"),
        "empty form": (typed("multipart/form-data; boundary=x", b"--x--\r\n"), 400, "no image"),
        "only fields": ({"files": [("image", (None, b"abc"))]}, 400, "no image"),
        "no JSON": (typed(json_, b"{"), 400, "The JSON cannot be read"),
        "deep JSON": (typed(json_, b"[" * 100_000), 400, "The JSON cannot be read"),
        "no UTF-8": (typed(json_, b'{"image": "\xff"}'), 400, "The JSON cannot be read"),
        "a list": ({"json": [1]}, 400, "must be an object"),
        "no images": ({"json": {}}, 400, "no image"),
        "a number": ({"json": {"images": 3}}, 400, "must be a list"),
        "numbers": ({"json": {"images": [3]}}, 400, "image 0 must be text in base64"),
        "no base64": ({"json": {"image": "!!"}}, 400, "image 0 is not base64"),
        "many": ({"json": {"images": ["AAAA"] * 65}}, 413, "Send 64 at most"),
        "many files": (form(*[("a", b"b")] * 65), 400, "Too many files"),
        "large": (typed("image/png", b"0" * 2_000_001), 413, "more than 2.0 MB"),
    }


@pytest.mark.parametrize("case", bad_requests())
def test_bad_requests_are_told(tiny_run, case):
    given, status, said = bad_requests()[case]
    with served(tiny_run.folder, request_bytes=2_000_000) as client:
        answer = client.post("/predict", **given)
        assert answer.status_code == status, answer.text
        assert said in answer.json()["error"]
        assert client.service.pipeline.memory.held == client.service.pipeline.in_progress == 0


def test_a_stream_without_a_length_is_bounded_too(tiny_run):
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"0" * 1000

    with served(tiny_run.folder, request_bytes=50_000) as client:
        headers = {"content-type": "image/png"}
        answer = client.post("/predict", content=parts(), headers=headers)
        assert answer.status_code == 413
        assert client.service.pipeline.memory.held == 0
        # All requests together hold no more than their share either.
        client.service.pipeline.memory.most = 10_000
        answer = client.post("/predict", content=b"0" * 20_000, headers=headers)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("kind", ["image/png", "multipart/form-data; boundary=x"])
def test_what_does_not_arrive_is_not_waited_for(kind, monkeypatch):
    async def ask() -> None:
        async def receive() -> Any:
            await asyncio.sleep(20)

        headers = [(b"content-type", kind.encode())]
        scope = {"type": "http", "method": "POST", "headers": headers, "query_string": b""}
        with uploads.Memory(100).share() as share:
            await uploads.read(Request(scope, receive), 100, share)

    monkeypatch.setattr(uploads, "SECONDS", 0.01)
    with pytest.raises(Refused, match="did not arrive") as refused:
        asyncio.run(ask())
    assert refused.value.status == 408
