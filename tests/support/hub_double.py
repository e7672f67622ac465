"""The Hugging Face hub on loopback: repositories that the hub's own client writes and reads."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"
TOKEN = "hf_test"


def use(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Makes the hub's client ask this address, with no settings of this machine."""
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


class Hub:
    """What was uploaded.

    Attributes:
        endpoint: Its address.
        files: Contents by repository and name.
        private: Whether each repository is.
        commits: The messages of all commits.
    """

    def __init__(self) -> None:
        self.endpoint = ""
        self.files: dict[tuple[str, str], bytes] = {}
        self.large: dict[str, bytes] = {}
        self.private: dict[str, bool] = {}
        self.commits: list[str] = []

    def answer(self, method: str, path: str, token: str, body: bytes) -> tuple[int, dict, bytes]:
        """(status, headers, body) of a request."""
        if method in ("GET", "HEAD") and "/resolve/" in path:
            repo, _, rest = path.strip("/").partition("/resolve/")
            content = self.files.get((repo, rest.partition("/")[2]))
            if content is None:
                return 404, {"X-Error-Code": "EntryNotFound"}, b""
            etag = hashlib.sha256(content).hexdigest()
            return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content
        if method == "PUT":
            self.large[path.rpartition("/")[2]] = body
            return 200, {}, b""
        if token != f"Bearer {TOKEN}":
            return 401, {}, b'{"error": "Invalid credentials"}'
        if path == "/api/whoami-v2":
            return self._json({"name": "me", "type": "user", "auth": {"type": "access_token"}})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name.startswith("others/"):
                return 403, {}, b'{"error": "You may not create it there."}'
            self.private[name] = asked.get("visibility") == "private"
            return self._json({"url": f"{self.endpoint}/{name}", "name": name})
        repo = path.removeprefix("/api/models/").split("/preupload/")[0].split("/commit/")[0]
        if "/preupload/" in path:
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = {True: "lfs", False: "regular"}
            return self._json(
                {"files": [
                    {"path": n, "uploadMode": modes[n.endswith(".safetensors")],
                     "shouldIgnore": False, "oid": None}
                    for n in names
                ]}
            )  # fmt: skip
        if path.endswith("/info/lfs/objects/batch"):
            found = [
                {**one, "actions": {"upload": {"href": f"{self.endpoint}/blobs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            return self._json({"transfer": "basic", "objects": found})
        if "/commit/" in path:
            return self._committed(repo, body)
        if path == f"/api/models/{repo}" and repo in self.private:
            return self._json({"id": repo, "sha": COMMIT, "siblings": []})
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def _committed(self, repo: str, body: bytes) -> tuple[int, dict, bytes]:
        for line in body.splitlines():
            each = json.loads(line)
            key, value = each["key"], each["value"]
            if key == "header":
                self.commits.append(value["summary"])
            elif key == "file":
                self.files[repo, value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                self.files[repo, value["path"]] = self.large[value["oid"]]
        url = f"{self.endpoint}/{repo}/commit/{COMMIT}"
        return self._json({"success": True, "commitUrl": url, "commitOid": COMMIT})

    @staticmethod
    def _json(content: Any) -> tuple[int, dict, bytes]:
        return 200, {"Content-Type": "application/json"}, json.dumps(content).encode()


@contextlib.contextmanager
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without repositories, which the client uses within the block."""
    hub = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body, path = self.rfile.read(length), urlsplit(self.path).path
            token = self.headers.get("Authorization", "")
            status, headers, content = hub.answer(self.command, path, token, body)
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = handle_any

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use(monkeypatch, hub.endpoint)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
