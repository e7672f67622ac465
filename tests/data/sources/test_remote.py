"""Data at addresses: a loopback web server, and fsspec's file system in memory."""

from __future__ import annotations

import base64
import errno
import http.server
import json
import logging
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jtl.common.errors import UserError, explain
from jtl.config.addresses import as_given, cleaned, without_secrets
from jtl.config.data import with_scheme
from jtl.data import command as check_command
from jtl.data.sources import remote, remote_places
from jtl.data.sources.registry import SourceOptions, find, load, options_for
from support.data_files import class_folders


class Server:
    """A web server: what it answers by path, and what it was asked.

    Attributes:
        held: By path: (status, headers, body).
        asked: (method, path with query, Authorization) of all requests.
    """

    def __init__(self) -> None:
        self.held: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(b"")

            def do_GET(self) -> None:
                self._answer(None)

            def _answer(self, body: bytes | None) -> None:
                outer.asked.append((self.command, self.path, self.headers.get("Authorization")))
                status, headers, held = outer.held.get(self.path.partition("?")[0], (404, {}, b""))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(held)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(held if body is None else body)

            def log_message(self, format: str, *args: Any) -> None:
                logging.getLogger(__name__).debug(format, *args)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def put(self, path: str, body: bytes, tag: str = '"1"', **headers: str) -> str:
        self.held[path] = (200, {"ETag": tag, "Content-Type": "application/zip"} | headers, body)
        return f"http://{self.host}{path}"

    def gets(self) -> int:
        return sum(method == "GET" for method, _, _ in self.asked)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server(cache: Path) -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_copies", {})
    monkeypatch.setattr("jtl.config.addresses._given", {})
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def memory() -> Iterator[Any]:
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


def zipped(root: Path, *classes: str) -> bytes:
    class_folders(root / "train", *classes)
    return Path(shutil.make_archive(str(root), "zip", root)).read_bytes()


def anew() -> None:
    """As in another process."""
    remote._copies.clear()


def test_an_archive_on_a_web_server(tmp_path: Path, server: Server, cache: Path):
    address = server.put("/sets/x.zip", zipped(tmp_path / "x", "ant", "bee"))
    assert with_scheme(address) == address
    data = load(address)
    assert (data.spec, data.class_names) == (address, ("ant", "bee"))
    assert server.gets() == 1
    load(address)
    anew()
    assert load(address).fingerprint == data.fingerprint
    assert server.gets() == 1
    server.put("/sets/x.zip", zipped(tmp_path / "y", "ant", "cat"), tag='"2"')
    assert load(address).class_names == ("ant", "bee")  # Once in a process.
    anew()
    assert load(address).class_names == ("ant", "cat")
    assert server.gets() == 2
    assert len([*(cache / "remote").glob("*/about.json")]) == 1
    assert not [*(cache / "remote").glob(".jtl-*")]
    assert options_for(address, SourceOptions(classes="top")) == SourceOptions(classes="top")


def test_a_second_copy_counts_as_the_same_data(tmp_path: Path, server: Server, cache: Path):
    class_folders(tmp_path / "x", "ant", "bee")
    packed = Path(shutil.make_archive(str(tmp_path / "x"), "tar", tmp_path / "x"))
    address = server.put("/x.tar", packed.read_bytes())
    first = load(address).fingerprint
    shutil.rmtree(cache)
    assert load(address).fingerprint == first
    anew()
    shutil.rmtree(cache)
    server.put("/x.tar", packed.read_bytes(), tag='"2"')
    assert load(address).fingerprint != first


def test_secrets_are_used_and_never_shown(
    tmp_path: Path, server: Server, cache: Path, capsys: pytest.CaptureFixture[str]
):
    address = server.put("/x.zip", zipped(tmp_path / "x", "ant", "bee"))
    host = server.host
    secret = f"http://me:pass%40word@{host}/x.zip?X-Amz-Signature=s3cret&token=t0ken"
    assert with_scheme(secret) == address
    assert as_given(address) == secret
    check_command.command(check_command.Options("check", secret))
    basic = f"Basic {base64.b64encode(b'me:pass@word').decode()}"
    assert {(path, basic) for _, path, basic in server.asked} == {
        ("/x.zip?X-Amz-Signature=s3cret&token=t0ken", basic)
    }
    shown = "".join(capsys.readouterr())
    notes = "".join(path.read_text() for path in cache.rglob("about.json"))
    server.held["/x.zip"] = (403, {}, b"")
    anew()
    shown += "".join(load(secret).notes)
    shutil.rmtree(cache)
    anew()
    with pytest.raises(UserError, match="403 Forbidden: one may not read it without") as caught:
        load(secret)
    for text in (shown, notes, str(caught.value)):
        assert address in text
        assert not any(word in text for word in ("word", "s3cret", "t0ken", "me:"))


def test_queries_that_say_what_is_meant(tmp_path: Path, server: Server):
    address = server.put("/get", zipped(tmp_path / "x", "ant", "bee"))
    one, other = (without_secrets(f"{address}?id={n}&sig=abc") for n in (1, 2))
    assert one != other
    assert with_scheme(one) == one
    assert load(one).spec == one
    assert server.asked[-1][1] == "/get?id=1&sig=abc"
    # As of a run that is resumed.
    anew()
    find(f"{address}?id=1&sig=def")
    remote.addresses._given.clear()
    anew()
    assert any("stored without its query" in note for note in load(one).notes)
    with pytest.raises(UserError, match="stored without its query"):
        load(other)


def test_words_of_libraries_are_cleaned():
    shown = without_secrets("s3://me:secret@bucket/x?token=abc")
    for text in ("s3://me:secret@bucket/x?token=abc", "https://me:secret@host/y?z=secret#abc"):
        assert "secret" not in cleaned(f"no {text} there", shown)
        assert "abc" not in cleaned(text, shown)


def test_without_a_network_the_copy_serves(tmp_path: Path, server: Server):
    address = server.put("/x.zip", zipped(tmp_path / "x", "ant", "bee"))
    load(address)
    for status in (500, 403):
        anew()
        server.held["/x.zip"] = (status, {}, b"")
        assert "could not be looked at: the server says" in load(address).notes[0]
    anew()
    server.held.clear()
    with pytest.raises(UserError, match="404 Not Found: there is nothing at this address"):
        load(address)


def test_a_server_that_refuses_to_be_asked_first(tmp_path: Path, server: Server):
    body = zipped(tmp_path / "x", "ant", "bee")
    address = server.put("/x.zip", body)

    def look(self: Any, method: str, known: Any = remote_places._Web._open) -> Any:
        if method == "HEAD":
            raise remote_places.Refused("no")
        return known(self, method)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote_places._Web, "_open", look)
        assert load(address).class_names == ("ant", "bee")


BAD_ANSWERS: dict[str, tuple[int, dict[str, str], bytes, str]] = {
    "nothing": (404, {}, b"", "404 Not Found: there is nothing at this address. Check it"),
    "gone": (410, {}, b"", "410 Gone: there is nothing"),
    "no entry": (401, {}, b"", "401 Unauthorized: one may not read it without credentials"),
    "broken": (503, {}, b"", "503 Service Unavailable. Try again later"),
    "a page": (200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>", "a web page is there"),
    "too short": (200, {"Content-Length": "999"}, b"PK", "after 2 (of 999 )?bytes"),
    "no archive": (200, {}, b"text", r"http://.*/x.zip is not a readable zip archive"),
    "empty": (200, {}, b"", "is not a readable zip archive"),
    "elsewhere": (302, {"Location": "file:///etc/passwd"}, b"", "302"),
    "in circles": (302, {"Location": "/x.zip"}, b"", "302"),
    "too large": (200, {"Content-Length": str(10**18)}, b"", r"has 1000000000.0 GB or more, and"),
}


@pytest.mark.parametrize("case", BAD_ANSWERS)
def test_answers_that_are_no_data(server: Server, cache: Path, case: str):
    status, headers, body, message = BAD_ANSWERS[case]
    server.held["/x.zip"] = (status, headers, body)
    with pytest.raises(UserError, match=message) as caught:
        load(f"http://{server.host}/x.zip")
    assert str(cache) not in str(caught.value)
    assert not [*(cache / "remote").glob(".jtl-*")]


def test_no_server(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"cannot be read: .*refused.*Check the network"):
        load("http://127.0.0.1:9/x.zip")
    monkeypatch.setattr(remote, "_LOOK_SECONDS", 0.05)
    forever = threading.Event()
    monkeypatch.setattr(remote_places._Web, "look", lambda self: forever.wait(5))
    with pytest.raises(UserError, match="no answer within 0 seconds"):
        load("http://127.0.0.1:9/x.zip")
    forever.set()


def test_a_folder_in_a_storage(tmp_path: Path, memory: Any, cache: Path):
    root = class_folders(tmp_path / "x" / "train", "ant", "bee").parent
    memory.put(str(root), "/bucket/x", recursive=True)
    address = "memory://bucket/x"
    data = load(address)
    assert (data.spec, data.class_names) == (address, ("ant", "bee"))
    assert len(data.train) + len(data.val) == 4
    about = json.loads(next(cache.rglob("about.json")).read_text())
    assert about["address"] == address
    anew()
    assert load(address).fingerprint == data.fingerprint
    memory.rm("/bucket/x/train/bee/0.png")
    anew()
    assert len(load(address).train) + len(load(address).val) == 3
    shutil.rmtree(root / "train" / "ant")
    memory.pipe("/bucket/x.zip", zipped(tmp_path / "y", "ant", "cat"))
    assert load("memory://bucket/x.zip").class_names == ("ant", "cat")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConnectionError("reset by peer"), "ConnectionError: reset by peer. Check the network"),
        (OSError(errno.ENOSPC, "No space left on device"), "left on device. Free some space"),
    ],
)
def test_an_interrupted_copy_leaves_nothing(
    tmp_path: Path,
    memory: Any,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    told: str,
):
    memory.put(str(class_folders(tmp_path / "x", "ant", "bee")), "/x", recursive=True)
    opened = type(memory).open

    def failing(self: Any, path: str, *args: Any, **options: Any) -> Any:
        if "bee/1" in path:
            raise error
        return opened(self, path, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "open", failing)
        with pytest.raises((UserError, OSError)) as caught:
            load("memory://x")
    assert told in str(explain(caught.value))
    assert [path.suffix for path in (cache / "remote").iterdir()] in ([], [".lock"])
    assert load("memory://x").class_names == ("ant", "bee")


BAD_STORAGES = {
    "memory://nowhere": "there is nothing at this address",
    "memory://labels.csv": "a table holds no images",
    "memory://empty": "the folder is empty",
    "memory://text.txt": "a table holds no images",
    "foo://bucket/x": "Protocol not known: foo",
    "zip://x::memory://x.zip": "chains of addresses are not read",
    "s3://bucket/x": "s3:// needs another package. Install it: pip install s3fs",
    "gs://bucket/x": "gs:// needs another package. Install it: pip install gcsfs",
    "memory://bytes.zip": "memory://bytes.zip is not a readable zip archive",
    "memory://one": "memory://one.*has only one class",
}


@pytest.mark.parametrize("address", BAD_STORAGES)
def test_storages_that_hold_no_data(
    tmp_path: Path, memory: Any, address: str, monkeypatch: pytest.MonkeyPatch
):
    for package in ("s3fs", "gcsfs"):
        monkeypatch.setitem(sys.modules, package, None)
    memory.pipe({"/labels.csv": b"file,label", "/text.txt": b"x", "/bytes.zip": b"x"})
    memory.makedirs("/empty")
    memory.put(str(class_folders(tmp_path / "x", "ant")), "/one/x", recursive=True)
    with pytest.raises(UserError, match=BAD_STORAGES[address]) as caught:
        load(address)
    assert address in str(caught.value)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(UserError, match=r"reading s3:// addresses needs fsspec.*jtl\[remote\]"):
        load("s3://bucket/x")


def test_a_file_at_an_address_of_this_machine(tmp_path: Path):
    root = class_folders(tmp_path / "x", "ant", "bee")
    assert with_scheme(f"file://{root}") == f"folder:{root}"
