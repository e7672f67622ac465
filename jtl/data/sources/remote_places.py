"""Places elsewhere: web servers by Python's own means, all others by fsspec."""

from __future__ import annotations

import concurrent.futures
import hashlib
import http.client
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from jtl.common.errors import DISK_FULL, UserError, first_line
from jtl.common.optional import require
from jtl.config import addresses

_SECONDS = 20.0
"""How long a web server may be silent."""
_CHUNK = 2**20
_THREADS = 16
_MOST_FILES = 1_000_000
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs",
             "abfs": "adlfs", "abfss": "adlfs", "sftp": "paramiko", "ssh": "paramiko",
             "hf": "huggingface-hub"}  # fmt: skip
"""What fsspec needs for an address, beside itself."""
_VERSIONS = ("etag", "md5hash", "md5", "sha256", "crc32c", "mtime", "lastmodified",
             "last_modified", "updated", "modified", "created")  # fmt: skip
"""What fsspec's file systems call what changes with a file, in lower case, the best first."""
_TABLES = (".csv", ".tsv", ".jsonl", ".txt")


class Refused(Exception):
    """Why nothing can be read; `passing` where a copy made earlier will do."""

    def __init__(self, told: str, *, passing: bool = True):
        super().__init__(told)
        self.passing = passing


class Found(NamedTuple):
    """What is at a place.

    Attributes:
        name: Of the file or folder.
        size: In bytes; None if unknown.
        version: Changes when the content does.
        members: Of a folder: the place of every file, by its path in the folder; None of a file.
    """

    name: str
    size: int | None
    version: str
    members: Mapping[str, str] | None = None


class Place(Protocol):
    """A file or a folder elsewhere."""

    def look(self) -> Found:
        """What is there; raises `Refused`."""
        ...

    def fetch(self, found: Found, target: Path, count: Callable[[int], None]) -> None:
        """Copies it; tells of every few bytes. Raises `Refused`."""
        ...


def place_of(address: str) -> Place:
    """The place that an address names.

    Args:
        address: As `jtl.config.addresses.without_secrets` shows it.

    Raises:
        UserError: fsspec is missing.
        Refused: Nothing here reads such addresses.
    """
    scheme = address.partition("://")[0].lower()
    if "::" in address:
        raise Refused(
            "chains of addresses are not read. Give the address of the archive itself.",
            passing=False,
        )
    return _Web(address) if scheme in ("http", "https") else _Storage(address, scheme)


def _name_of(path: str) -> str:
    name = PurePosixPath(urllib.parse.unquote(path)).name
    if name.lower().endswith(_TABLES):
        raise Refused(
            "a table holds no images. Give a folder or an archive of the images with the table in "
            "it, or copy both here.",
            passing=False,
        )
    return name if name not in ("", ".", "..") and "/" not in name else "data"


class _Web:
    """A file on a web server."""

    def __init__(self, address: str) -> None:
        self._shown, self._url = address, addresses.as_given(address)
        parts = urllib.parse.urlsplit(self._url)
        self._name = _name_of(parts.path)
        self._headers = {"User-Agent": "jtl", "Accept-Encoding": "identity"}
        user, at, host = parts.netloc.rpartition("@")
        if at:
            import base64

            text = urllib.parse.unquote(user).encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(text).decode()}"
            self._url = parts._replace(netloc=host).geturl()

    def look(self) -> Found:
        try:
            with self._open("HEAD") as answer:
                headers = answer.headers
        except Refused:
            # Signed addresses are often good for one method alone.
            with self._open("GET") as answer:
                headers = answer.headers
        length = headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else None
        kind = headers.get_content_type()
        if kind == "text/html" and not self._name.lower().endswith((".html", ".htm")):
            raise Refused(
                "a web page is there, no file. Give the address of the archive itself, as a "
                "browser downloads it.",
                passing=False,
            )
        marks = [headers.get(name, "") for name in ("ETag", "Last-Modified")]
        return Found(self._name, size, "\n".join([*marks, length]))

    def fetch(self, found: Found, target: Path, count: Callable[[int], None]) -> None:
        done = 0
        try:
            with self._open("GET") as answer, target.open("wb") as file:
                while chunk := answer.read(_CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    count(len(chunk))
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            raise Refused(f"{first_line(error)}, after {done:,} bytes. Run it again.") from error
        if found.size is not None and done != found.size:
            raise Refused(f"it ended after {done:,} of {found.size:,} bytes. Run it again.")

    def _open(self, method: str) -> Any:
        try:
            request = urllib.request.Request(self._url, headers=self._headers, method=method)
            return urllib.request.urlopen(request, timeout=_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            raise _by_status(error.code, error.reason) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            told = addresses.cleaned(first_line(Exception(str(reason))), self._shown)
            raise Refused(f"{told}. Check the network and the address.") from None


def _by_status(code: int, reason: str) -> Refused:
    told = f"the server says {code} {reason}".rstrip()
    if code in (404, 410):
        return Refused(f"{told}: there is nothing at this address. Check it.", passing=False)
    if code in (401, 403, 407):
        return Refused(
            f"{told}: one may not read it without credentials. Give an address that needs none, "
            "such as a signed one."
        )
    return Refused(f"{told}. Try again later.")


class _Storage:
    """A file or a folder in a storage that fsspec knows."""

    def __init__(self, address: str, scheme: str) -> None:
        fsspec = require("fsspec", f"reading {scheme}:// addresses", "jtl[remote]")
        self._shown, self._scheme = address, scheme
        try:
            self._files, self._path = fsspec.core.url_to_fs(addresses.as_given(address))
        except ImportError as error:
            package = _PACKAGES.get(scheme, "")
            way = f"Install it: pip install {package}" if package else self._told(error)
            raise Refused(f"{scheme}:// needs another package. {way}", passing=False) from None
        except Exception as error:  # Of many kinds, by storage.
            raise Refused(
                f"{self._told(error)}. jtl reads https:// and what fsspec knows, such as s3:// and "
                "gs://.",
                passing=False,
            ) from None

    def look(self) -> Found:
        try:
            self._files.invalidate_cache()
            info = self._files.info(self._path)
            folder = info.get("type") == "directory"
            listed = self._files.find(self._path, detail=True) if folder else {}
        except FileNotFoundError:
            raise Refused("there is nothing at this address. Check it.", passing=False) from None
        except Exception as error:  # Of many kinds, by storage.
            raise self._refused(error) from None
        name = _name_of(self._path.rstrip("/"))
        if not folder:
            return Found(name, info.get("size"), _version(info))
        return self._folder(name, listed)

    def _folder(self, name: str, listed: Mapping[str, Mapping[str, Any]]) -> Found:
        members: dict[str, str] = {}
        digest = hashlib.sha256()
        size = 0
        start = self._path.rstrip("/") + "/" if self._path.strip("/") else self._path
        for path, info in sorted(listed.items()):
            inside = path.removeprefix(start).lstrip("/")
            if info.get("type") == "directory" or not inside or inside.endswith("/"):
                continue
            if ".." in inside.split("/") or "\0" in inside:
                raise Refused(f"it has a file '{inside}' that leads out of it.", passing=False)
            members[inside] = path
            size += info.get("size") or 0
            digest.update(f"{inside}\0{_version(info)}\n".encode())
        if not members:
            raise Refused("the folder is empty, or there is none.", passing=False)
        if len(members) > _MOST_FILES:
            raise Refused(f"it has {len(members):,} files: pack them in archives.", passing=False)
        return Found(name, size, digest.hexdigest(), members)

    def fetch(self, found: Found, target: Path, count: Callable[[int], None]) -> None:
        wanted = {"": self._path} if found.members is None else found.members
        places = {path: target / inside for inside, path in wanted.items()}
        for folder in {place.parent for place in places.values()}:
            folder.mkdir(parents=True, exist_ok=True)

        def get(path: str) -> None:
            with self._files.open(path, "rb") as file, places[path].open("wb") as local:
                while chunk := file.read(_CHUNK):
                    local.write(chunk)
                    count(len(chunk))

        pool = concurrent.futures.ThreadPoolExecutor(_THREADS)
        try:
            for done in concurrent.futures.as_completed([pool.submit(get, p) for p in places]):
                done.result()
        except UserError:
            raise
        except Exception as error:  # Of many kinds, by storage.
            if getattr(error, "errno", None) in DISK_FULL:  # That of this machine.
                raise
            raise self._refused(error) from None
        finally:
            pool.shutdown(cancel_futures=True)

    def _refused(self, error: Exception) -> Refused:
        told = self._told(error)
        if isinstance(error, PermissionError) or "redential" in told or "orbidden" in told:
            return Refused(
                f"{told}. Say who you are where {self._scheme}:// looks for it: its environment "
                "variables or its own configuration."
            )
        return Refused(f"{told}. Check the network and the address.")

    def _told(self, error: Exception) -> str:
        text = first_line(error)
        name = type(error).__name__
        return addresses.cleaned(text if name in text else f"{name}: {text}", self._shown)


def _version(info: Mapping[str, Any]) -> str:
    """What changes with a file."""
    lower = {str(key).lower(): value for key, value in info.items()}
    mark = next((lower[name] for name in _VERSIONS if lower.get(name) is not None), "")
    return f"{mark}\n{info.get('size')}"
