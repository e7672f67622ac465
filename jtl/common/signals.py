"""Stopping on request: SIGINT (Ctrl-C) and SIGTERM, between two steps of a training."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import CodeType, FrameType


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
        self._before: int | None = None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a first signal only sets `signal`: what runs sees to it at the next step."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def forget(self) -> None:
        """Takes back the last signal, which reached nobody."""
        self.signal = self._before

    def receive(self, number: int, message: Callable[[str], None]) -> None:
        """Takes a signal.

        Raises:
            Interrupted: Nothing is deferred, or it is not the first signal.
        """
        self._before, self.signal = self.signal, number
        if self._before is not None or not (self._deferring or self.agreed):
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
        with sent_again_where_swallowed(stop.forget) if before else contextlib.nullcontext():
            yield stop
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


RETRY_SECONDS = 0.02
"""After which a signal is sent again; the callback that swallowed it has long returned then."""


def _runs(thread: int, code: CodeType) -> bool:
    """Whether a thread is in a function, or in what that calls."""
    frame = sys._current_frames().get(thread)
    return any(each.f_code is code for each, _ in traceback.walk_stack(frame)) if frame else False


@contextlib.contextmanager
def sent_again_where_swallowed(forget: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Sends a signal again whose exception Python could not raise.

    Handlers run wherever the main thread happens to be. In a callback of the garbage collector
    (JAX has one), in `__del__` and in callbacks of weak references, Python prints what is raised
    and goes on.

    Args:
        forget: Called before a signal is sent again.
    """
    previous = sys.unraisablehook
    main = threading.main_thread().ident

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not isinstance(error, KeyboardInterrupt) or main is None:
            previous(unraisable)
            return
        forget()
        # Not from here: it would be raised in this hook, which swallows it too.
        number = getattr(error, "signal", signal.SIGINT)
        timer = threading.Timer(RETRY_SECONDS, send, (main, number))
        timer.daemon = True
        timer.start()

    def send(thread: int, number: int) -> None:
        while _runs(thread, hook.__code__):  # Where many programs run, it may take its time.
            time.sleep(RETRY_SECONDS)
        signal.pthread_kill(thread, number)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous
