"""A headless Chromium, driven by its debugging protocol over pipes."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 60.0
"""After which an answer or a change of the page is waited for no longer."""
_Start = subprocess.Popen
"""Chromium is no child of the server that starts Python."""


def program() -> str | None:
    """Chromium's path, or None where it is not installed."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One page of it."""

    def __init__(self, sending: int, receiving: int):
        """Opens a page; takes the ends of its pipes."""
        self._sending, self._receiving = sending, receiving
        self._numbers, self._buffer = itertools.count(1), b""
        self.events: list[dict[str, Any]] = []
        self._session: str | None = None
        page = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "DOM", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._sending, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next(time.monotonic() + SECONDS)
            if answer.get("id") == number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def _next(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            left = until - time.monotonic()
            assert left > 0, "Chromium does not answer"
            if select.select([self._receiving], [], [], left)[0]:
                part = os.read(self._receiving, 1 << 20)
                assert part, "Chromium has ended"
                self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def show(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Sets the size of the page, its theme, and whether it is on a phone."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=phone)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        if phone:
            features += [{"name": "hover", "value": "none"}, {"name": "pointer", "value": "coarse"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def open(self, address: str) -> None:
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def evaluate(self, script: str) -> Any:
        """What a script gives, of the page's world."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str) -> Any:
        """What a script gives, when that is true."""
        until = time.monotonic() + SECONDS
        while not (found := self.evaluate(script)):
            assert time.monotonic() < until, script
            time.sleep(0.05)
        return found

    def drop(self, x: int, y: int, *files: Path) -> None:
        """Drops files on a place of the page."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str, code: int, *, text: str = "") -> None:
        """Presses a key."""
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, text=text,
                windowsVirtualKeyCode=code,
            )  # fmt: skip

    def requested(self) -> list[str]:
        """The addresses that were asked for so far."""
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """What the console has of errors."""
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(json.dumps(event["params"]["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded":
                found.append(event["params"]["entry"]["text"])
        return found

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """A PNG of the page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser without a window; `folder` gets its files."""
    name = program()
    assert name is not None
    ours_in, theirs_out = os.pipe()
    theirs_in, ours_out = os.pipe()
    # Chromium reads from 3 and writes to 4.
    move = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$0" "$@"'
    words = [
        name, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
        "--no-first-run", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-component-update", "--hide-scrollbars", f"--user-data-dir={folder}",
    ]  # fmt: skip
    process = _Start(
        ["/bin/bash", "-c", move, *words],
        pass_fds=(theirs_in, theirs_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    found = None
    try:
        found = Browser(ours_out, ours_in)
        yield found
    finally:
        if found is not None and process.poll() is None:
            with contextlib.suppress(OSError, AssertionError):
                found._session = None
                found.call("Browser.close")
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(ours_in)
        os.close(ours_out)
