"""Addresses of data elsewhere, such as https:// and s3://: what of them is shown and stored."""

from __future__ import annotations

import hashlib
import re
import urllib.parse

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_SIGNATURE = re.compile(
    r"(?i)x-(amz|goog|oss|ms)-.*|(aws|google)access.*|(.*[-_])?(signature|sig|token|key|auth|secret|"
    r"password|expires?)|s[a-z]{1,3}|policy|key-pair-id"
)
"""The parts of a query that only say that one may read: of two such addresses, one may be newer."""
_MARK = "?query-"
_given: dict[str, str] = {}


def is_address(data: str) -> bool:
    """Whether a source is an address of data elsewhere."""
    return _ADDRESS.match(data) is not None


def without_secrets(address: str) -> str:
    """The address without user, password and query, as it is shown and stored.

    This process remembers the whole one, for `as_given`. Where a query says what is meant, a
    digest of it takes its place.

    Example:
        >>> without_secrets("https://me:secret@host/a.zip?X-Amz-Signature=1f")
        'https://host/a.zip'
    """
    parts = urllib.parse.urlsplit(address)
    kept = [
        (name, value)
        for name, value in urllib.parse.parse_qsl(parts.query, keep_blank_values=True)
        if not _SIGNATURE.fullmatch(name)
    ]
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if address.startswith(shown + _MARK):  # It was made here.
        shown = address
    elif kept:
        shown += _MARK + hashlib.sha256(repr(sorted(kept)).encode()).hexdigest()[:8]
    if shown != address:
        _given[shown] = address
    return shown


def as_given(shown: str) -> str:
    """The whole address, where this process was given it."""
    return _given.get(shown, shown)


def is_whole(shown: str) -> bool:
    """Whether nothing that says what is meant was cut off, as far as this process knows."""
    return shown in _given or _MARK not in shown


def cleaned(text: str, shown: str) -> str:
    """A library's message without the whole address, or other addresses' queries and users."""
    text = text.replace(as_given(shown), shown)
    text = re.sub(r"(://)[^/\s'\"@]*@", r"\1", text)
    return re.sub(r"(://[^\s'\"?]*)\?(?!query-)[^\s'\"]*", r"\1", text)
