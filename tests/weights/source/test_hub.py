from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from jtl.common.errors import UserError
from support import weights_samples as samples
from weights_convert.source import hub, sources

NAME = samples.TIMM_NAME


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a hub that nobody serves."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    use(monkeypatch, f"http://127.0.0.1:{closed_port()}")
    return tmp_path / "hub"


def use(monkeypatch, endpoint: str) -> None:
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def serve(cache, monkeypatch):
    """serve(answer) is a hub on loopback; answer(path) gives status, headers and body.

    With `cut`, the weights end after so many bytes, the last number at the first GET.
    """
    with contextlib.ExitStack() as stack:

        def start(answer, cut: list[int] | None = None) -> list[str]:
            requests: list[str] = []
            cut = cut or []

            class Handler(http.server.BaseHTTPRequestHandler):
                def do_HEAD(self):
                    requests.append(f"{self.command} {self.path}")
                    status, headers, body = answer(self.path)
                    if span := self.headers.get("Range"):
                        requests[-1] += f" {span}"
                        first = int(span.removeprefix("bytes=").rstrip("-"))
                        whole = len(body)
                        status, body = 206, body[first:]
                        headers |= {"Content-Range": f"bytes {first}-{whole - 1}/{whole}"}
                    self.send_response(status)
                    for key, value in {"Content-Length": len(body), **headers}.items():
                        self.send_header(key, str(value))
                    self.end_headers()
                    if self.command == "GET":
                        large = self.path.endswith(".safetensors")
                        self.wfile.write(body[: cut.pop() if cut and large else None])

                do_GET = do_HEAD

                def log_message(self, *args):
                    pass

            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            use(monkeypatch, f"http://127.0.0.1:{server.server_address[1]}")
            return requests

        yield start


def test_a_cached_checkpoint_needs_no_network(cache, monkeypatch):
    asked = []

    def refuse(*address, **_):
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    snapshot = samples.write_hub_cache(cache)
    found = hub.fetch(NAME)
    assert found.path == snapshot / "model.safetensors"
    assert found.config == samples.CONFIG
    assert found.revision == samples.COMMIT
    assert hub.fetch(NAME, samples.COMMIT) == found
    assert hub.fetch(NAME, "main") == found
    assert not asked


def test_a_cached_checkpoint_without_its_configuration(cache):
    # As timm leaves it for the models whose configuration it ships itself.
    samples.write_hub_cache(cache, config=None)
    found = hub.fetch(NAME)
    assert found.config == {}
    # It is said, as nobody can see it from the file.
    assert "the hub could not be asked (ConnectError)" in (found.without_config or "")


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("status", [403, 503])
def test_a_configuration_that_the_hub_fails_to_give_is_an_error(serve, cache, cached, status):
    if cached:
        samples.write_hub_cache(cache, config=None)
    whole = hub_with({"model.safetensors": b"weights"})
    serve(lambda path: whole(path) if path.endswith("s") else (status, {}, b""))
    with pytest.raises(UserError, match=rf"are there, but not their config\.json.*{status}"):
        hub.fetch(NAME)


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_configuration(cache, text):
    samples.write_hub_cache(cache, config=text)
    with pytest.raises(UserError, match=r"config\.json' is .*Delete it and try again"):
        hub.fetch(NAME)


def test_without_network_it_says_what_was_tried_and_how_to_go_on(cache):
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        hub.fetch("resnet18.a1_in1k")
    assert time.monotonic() - started < 6
    message = str(caught.value)
    assert message.startswith("timm/resnet18.a1_in1k is not available: looked in the local cache")
    assert str(cache) in message
    assert "asked the hub, which failed (ConnectError" in message
    for way in ("the path of a file", "HF_HOME"):
        assert way in message


def test_a_hub_that_never_answers(serve, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(hub, "_PATIENCE", 0.3)

    def hang(path):
        released.wait(20)
        return 200, {}, b""

    serve(hang)
    started = time.monotonic()
    try:
        with pytest.raises(UserError, match="asked the hub, which failed"):
            hub.fetch("resnet18.a1_in1k")
    finally:
        released.set()
    assert time.monotonic() - started < 5


def test_a_name_that_is_looked_up_for_ever(cache, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(hub, "_PATIENCE", 0.2)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *a, **k: released.wait(20))
    started = time.monotonic()
    try:
        with pytest.raises(UserError, match=r"TimeoutError: no answer within 0\.2 s"):
            hub.fetch("resnet18.a1_in1k")
    finally:
        released.set()
    assert time.monotonic() - started < 5


def test_offline_mode_is_named(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE forbids asking.*Give the path"):
        hub.fetch("resnet18.a1_in1k")


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (404, {"X-Error-Code": "RepoNotFound"}, r"is not on the hub \(status 404\)"),
        (404, {}, r"is not on the hub \(status 404\)"),
        # What the hub says of a repository that does not exist to somebody without a token.
        (401, {"X-Error-Code": "RepoNotFound"}, r"is not on the hub \(status 401\)"),
        (404, {"X-Error-Code": "EntryNotFound"}, r"has no model\.safetensors"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "has no revision 'v9'"),
        (403, {"X-Error-Code": "GatedRepo"}, r"refuses timm/resnet18\.a1_in1k \(status 403\)"),
        (403, {}, r"refuses timm/resnet18\.a1_in1k \(status 403\).*HF_TOKEN"),
        (503, {}, "asked the hub, which failed .*503.*Give the path"),
        (200, {}, "asked the hub, which failed"),
    ],
)
def test_what_the_hub_answers_is_explained(serve, status, headers, message):
    serve(lambda path: (status, headers, b""))
    started = time.monotonic()
    with pytest.raises(UserError, match=message):
        hub.fetch("resnet18.a1_in1k", "v9")
    assert time.monotonic() - started < 6


def test_an_unknown_tag_names_the_nearest(serve):
    serve(lambda path: (404, {"X-Error-Code": "RepoNotFound"}, b""))
    with pytest.raises(UserError, match=r"Did you mean 'resnet50\.a1_in1k'\?"):
        hub.fetch("resnet50.a1_in1")


@pytest.mark.parametrize("name", ["res net", "a--b", "..", "a/b"])
def test_what_cannot_be_a_name(cache, name):
    with pytest.raises(UserError, match="cannot be a name on the hub"):
        hub.fetch(name)


def hub_with(files: dict[str, bytes], tags: dict[str, str] | None = None):
    def answer(path: str):
        body = files.get(Path(path).name)
        if body is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": samples.COMMIT}, b""
        tag = (tags or {}).get(Path(path).name, f"{len(body):040x}")
        return 200, {"X-Repo-Commit": samples.COMMIT, "ETag": f'"{tag}"'}, body

    return answer


@pytest.mark.skipif(
    int(huggingface_hub.__version__.partition(".")[0]) < 2,
    reason="huggingface-hub goes on from version 2; before, the next start does",
)
def test_a_download_that_is_cut_off_goes_on_where_it_was(serve, monkeypatch):
    # What has come in is kept by whole chunks, of 10 MB by default.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 8192)
    body = bytes(range(256)) * 200
    tag = hashlib.sha256(body).hexdigest()
    files = {"model.safetensors": body}
    requests = serve(hub_with(files, {"model.safetensors": tag}), cut=[20_000])
    found = hub.fetch("resnet18.a1_in1k")
    assert found.path.read_bytes() == body
    downloads = [r for r in requests if r.startswith("GET") and "model.safetensors" in r]
    assert [d.rpartition(" ")[2] for d in downloads[1:]] == ["bytes=16384-"]


@pytest.mark.parametrize("again", [False, True])
def test_a_corrupted_body_is_found(serve, again):
    tag = hashlib.sha256(b"weights").hexdigest()
    serve(hub_with({"model.safetensors": b"weighty"}, {"model.safetensors": tag}))
    if again:  # From the cache it is as wrong as before.
        with pytest.raises(UserError):
            hub.fetch("resnet18.a1_in1k")
    with pytest.raises(UserError, match=rf"came damaged: .* the hub says {tag}. Delete"):
        hub.fetch("resnet18.a1_in1k")


def test_what_is_not_cached_is_downloaded_once(serve, cache):
    files = {"model.safetensors": b"weights", "config.json": b'{"num_classes": 3}'}
    requests = serve(hub_with(files))
    found = hub.fetch("resnet18.a1_in1k")
    assert found.path.read_bytes() == b"weights"
    assert found.path.is_relative_to(cache)
    assert (found.config, found.revision) == ({"num_classes": 3}, samples.COMMIT)
    # The configuration is that of the same commit, whatever the branch says by now.
    assert f"GET /timm/resnet18.a1_in1k/resolve/{samples.COMMIT}/config.json" in requests
    requests.clear()
    assert hub.fetch("resnet18.a1_in1k") == found
    assert requests == []


def test_a_model_without_a_configuration_is_downloaded(serve):
    serve(hub_with({"model.safetensors": b"weights"}))
    found = hub.fetch("resnet18.a1_in1k")
    assert found.config == {}
    assert "the hub has no config.json for it" in (found.without_config or "")


@pytest.mark.process
def test_the_environment_decides_without_noise(tmp_path):
    samples.write_hub_cache(tmp_path / "home" / "hub")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("HF_")},
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": f"http://127.0.0.1:{closed_port()}",
    }
    script = (
        "import json, sys\n"
        "from weights_convert.source import hub\n"
        "from jtl.common.errors import UserError\n"
        "found = hub.fetch(sys.argv[1])\n"
        "try: hub.fetch('resnet18.a1_in1k')\n"
        "except UserError as error: print(json.dumps([found.config, str(error)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, NAME],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    config, message = json.loads(done.stdout)
    assert config == samples.CONFIG
    assert str(tmp_path / "home" / "hub") in message
    assert done.stderr == ""


def test_torchvisions_cache(tmp_path, monkeypatch):
    """`torchvision:NAME` is a file of PyTorch's cache; nothing is downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for spec in ("torchvision:squeezenet1_1", "default"):
        with pytest.raises(UserError, match=r"not in PyTorch's cache.*squeezenet1_1-b8a52dc0.pth"):
            sources.locate(spec, "squeezenet1_1")
    with pytest.raises(
        UserError,
        match=r"unknown weights 'torchvision:squeezenet'\. Did you mean 'torchvision:squeezenet1_",
    ):
        sources.locate("torchvision:squeezenet", "squeezenet1_1")
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    file = samples.write_file(folder / "squeezenet1_1-b8a52dc0.pth", {"x": np.ones(1)})
    source = sources.locate("default", "squeezenet1_1")
    assert (source.path, source.licence) == (file, "bsd-3-clause")
