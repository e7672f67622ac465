"""Stopping on request: SIGINT (Ctrl-C) and SIGTERM, between two steps of a training."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """A run that was stopped by a signal.

    Attributes:
        signal: The signal's number; shells report 128 plus this.
    """

    def __init__(self, signal: int, message: str = "interrupted"):
        super().__init__(message)
        self.signal = signal


class Stop:
    """Whether somebody asked to stop.

    Attributes:
        signal: The last signal that this process got.
        agreed: Whether the run is ending for a signal that one of its processes got. Another one's
            own first signal changes nothing then: launchers send it to all.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.agreed = False
        self._deferring = False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a first signal only sets `signal`: what runs sees to it at the next step."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def receive(self, number: int, message: Callable[[str], None]) -> None:
        """Takes a signal.

        Raises:
            Interrupted: Nothing is deferred, or it is not the first signal.
        """
        again, self.signal = self.signal is not None, number
        if again or not (self._deferring or self.agreed):
            raise Interrupted(number)
        if self.agreed:
            return
        message("Stopping after this step and saving. Press Ctrl-C again to quit immediately.")


@contextlib.contextmanager
def listening(message: Callable[[str], None]) -> Iterator[Stop]:
    """Takes the signals inside, where the process has left them to Python's defaults.

    Args:
        message: Told that a stop is on its way.
    """
    stop = Stop()

    def handler(number: int, frame: FrameType | None) -> None:
        del frame
        stop.receive(number, message)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                before[number] = signal.signal(number, handler)
    try:
        yield stop
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
