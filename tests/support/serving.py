"""A server of a run in this process: its application, and requests to it."""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from jtl.predict.ensemble import load_all
from jtl.serve.app import Service
from jtl.serve.examples import Examples
from jtl.serve.model import ServedModel
from jtl.serve.pipeline import Limits
from support.commands import main

SIZES = (1, 2, 4)
"""Batches of the servers here."""


@contextlib.contextmanager
def served(
    run: Any,
    *,
    abstain: float | None = None,
    examples: bool = False,
    hosts: tuple[str, ...] | None = None,
    single: bool = False,
    **limits: int,
) -> Iterator[TestClient]:
    """A client of a server; `client.service` is the server."""
    loaded = load_all(run, single=single)
    model = ServedModel(loaded, "mine", max_batch=SIZES[-1], abstain=abstain)
    shown = Examples(model.first) if examples else None
    service = Service(model, Limits(**limits), hosts=hosts, examples=shown)
    with TestClient(service.app, base_url="http://localhost") as client:
        client.service = service  # type: ignore[attr-defined]
        yield client


def run_and_stop(*words: object, host: str = "localhost") -> tuple[int, int]:
    """`jtl serve` in this process, ended by SIGTERM when it is ready.

    Args:
        words: Its arguments; a free port is added.
        host: The name by which it is asked.

    Returns:
        Its exit code, and the status of its answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    ended, status = threading.Event(), 0

    def stop() -> None:
        nonlocal status
        while not ended.wait(0.05):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(connection), contextlib.suppress(OSError):
                connection.request("GET", "/v2/health/ready", headers={"Host": host})
                status = connection.getresponse().status
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=stop)
    thread.start()
    try:
        code = main("serve", *words, "--port", port)
    finally:
        ended.set()
        thread.join()
    return code, status


def png(pixels: np.ndarray | Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    """An image file's contents."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def form(*images: tuple[str, bytes]) -> dict[str, Any]:
    """Images as a multipart form."""
    return {"files": [("image", (name, data)) for name, data in images]}


def shares(row: dict[str, Any]) -> dict[str, float]:
    """The probability of each class in an answer."""
    return {one["class"]: one["probability"] for one in row["classes"]}
