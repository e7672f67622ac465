"""The server's process: its address, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn

from jtl.common.errors import UserError
from jtl.serve.app import Service

_GRACE_SECONDS = 30
"""How long what is in progress may take after a signal."""
_KEEP_ALIVE_SECONDS = 75
"""How long a connection may be idle: longer than clients are told to wait, who come again by it."""
_BACKLOG = 2048


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens, closed at the end. Who connects waits until requests are answered.

    Raises:
        UserError: The address cannot be had.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host '{host}' is no address: {getattr(error, 'strerror', None) or error}. Leave it "
            "out for this computer alone, or give 0.0.0.0 for all its addresses."
        ) from error
    with socket.socket(family, kind, protocol) as listening:
        if os.name == "posix":  # Where it means: also just after another server has ended.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(place)
            listening.listen(_BACKLOG)
        except OSError as error:
            raise UserError(_refused(host, port, error)) from error
        yield listening


def _refused(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {host} is in use. Choose another one with --port, or any free one "
            "with --port 0."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"port {port} of {host} is not allowed. Choose one from 1024 on with --port."
    return (
        f"cannot listen on --host {host}, port {port}: {error.strerror}. Give an address of this "
        "computer, or leave --host out."
    )


def own_names(listening: socket.socket, host: str) -> tuple[str, ...] | None:
    """The names of a server that only this computer reaches; None of others.

    Args:
        listening: See `bound`.
        host: As it was asked for.
    """
    place = listening.getsockname()[0]
    if not ipaddress.ip_address(place).is_loopback:
        return None
    return tuple(dict.fromkeys(("localhost", "127.0.0.1", "::1", place, host.lower())))


def address(listening: socket.socket) -> str:
    """What to open in the browser."""
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class _Server(uvicorn.Server):
    """Ends by itself after a signal, where uvicorn would send the signal to itself again."""

    def __init__(self, config: uvicorn.Config, message: Callable[[str], Any]):
        super().__init__(config)
        self._message, self.forced_by = message, 0

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self.force_exit, self.forced_by = True, sig
            return
        self.should_exit = True
        # Not from the handler, which may interrupt somebody who is writing.
        asyncio.get_running_loop().call_soon_threadsafe(
            self._message, "Stopping after what is in progress. Press Ctrl-C again to quit now."
        )


def run(service: Service, listening: socket.socket, message: Callable[[str], Any]) -> int:
    """Serves until a signal comes, and answers what is in progress then.

    Args:
        service: What answers.
        listening: See `bound`.
        message: Told that the server is stopping.

    Returns:
        The exit code: 0, or 128 and the number of a second signal.
    """
    config = uvicorn.Config(
        service.app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        lifespan="on",
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config, message)
    service.is_stopping = lambda: server.should_exit
    asyncio.run(server.serve(sockets=[listening]))
    return 128 + server.forced_by if server.forced_by else 0
