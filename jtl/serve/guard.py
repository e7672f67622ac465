"""What every request passes: the names of the host, measures, headers that protect the page."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jtl.serve.measures import Measures

_HEADERS = {
    # Nothing but the server's own files; images also from memory.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}

ROUTE = "jtl.route"
"""Of a request's scope: the path of the route that answers it, with its placeholders."""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
"""Those that are counted by name: clients can make up any number of others."""


class Guard:
    """ASGI middleware.

    A server for this computer alone answers to its names alone: a page of somebody else's, whose
    name was made to mean this computer (DNS rebinding), is refused. So are requests that browsers
    send for other sites.
    """

    def __init__(self, app: ASGIApp, measures: Measures, hosts: Sequence[str] | None):
        """Takes what it is before; `hosts` None is for any."""
        self._app, self._measures, self._hosts = app, measures, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        try:
            fault = self._fault(scope)
            if fault is not None:
                await _answer(403, fault, observed)
            else:
                await self._app(scope, receive, observed)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            seconds = time.perf_counter() - began
            self._measures.request(scope.get(ROUTE, "other"), method, status, seconds)

    def _fault(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return (
                f"This server answers to {', '.join(self._hosts)}, not to '{host}'. Start it with "
                "--host to let other names be used."
            )
        if scope["method"] == "POST" and headers.get("sec-fetch-site") == "cross-site":
            return "Pages of other sites cannot use this server."
        return None


def _name(host: str) -> str:
    """A host's name without its port; of IPv6 without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def _answer(status: int, error: str, send: Any) -> None:
    content = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
