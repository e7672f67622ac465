"""What processes decide together, as two of them that run in turns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.common.signals import Interrupted, Stop
from jtl.config.options import Config
from jtl.distributed import processes
from jtl.runs.checkpoints.saving import Checkpointer, SyncDecision
from jtl.runs.run import Run


def checkpointer(stop: Stop, due: bool, clock: Callable[[], float]) -> Checkpointer:
    """One that has it that it is always time for anything, or never."""

    class Fixed(Checkpointer):
        temporary_due = temporary_outdated = permanent_due = due

    return Fixed(Run(Path("nowhere"), Config()), {}, stop=stop, clock=clock)


class Pair:
    """Two processes, of which the second one's clock is three times as fast.

    The first one's has it that it is never time for anything, the second one's that it always is.
    """

    def __init__(self, patch: pytest.MonkeyPatch):
        self.now, self.asked_at, self.running = 0.0, 0.0, 0
        self.said: list[list[float]] = []
        patch.setattr(processes, "is_distributed", lambda: True)
        patch.setattr(processes, "all_gather", self.gathered)
        self.stops = (Stop(), Stop())
        self.both = [
            checkpointer(stop, number, lambda rate=rate: self.now * rate)
            for stop, number, rate in zip(self.stops, (False, True), (1, 3), strict=True)
        ]

    def each(self, does: Callable[[Checkpointer], Any]) -> list[Any]:
        """What both give, one after the other."""
        given = []
        for number, one in enumerate(self.both):
            self.running = number
            given.append(does(one))
        return given

    def gathered(self, values: list[float]) -> np.ndarray:
        assert values == pytest.approx(self.said[self.running])
        return np.asarray(self.said, np.float32)

    def ask(self) -> list[SyncDecision]:
        """What each hears; what both are to say is known before."""
        since = self.now - self.asked_at
        signals = [stop.signal or 0 for stop in self.stops]
        self.said = [[since, 0, 0, signals[0]], [3 * since, 1, 1, signals[1]]]
        self.asked_at = self.now
        return self.each(Checkpointer.decide)

    def steps(self, count: int, seconds: float) -> list[int]:
        """The steps, from 1 on, after which they ask; both after the same."""
        asked = []
        for step in range(1, count + 1):
            self.now += seconds
            due, other = self.each(Checkpointer.count_step)
            assert due == other
            if due:
                asked.append(step)
                self.ask()
        return asked


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    return Pair(monkeypatch)


def test_they_ask_about_once_a_second_of_the_first_ones_clock(pair):
    # Twice as many steps each time at first, as the first step takes longest.
    assert pair.steps(1, 20.0) == [1]
    assert pair.steps(127, 0.01) == [1, 3, 7, 15, 31, 63, 127]
    assert np.diff(pair.steps(1000, 0.01)) == pytest.approx(100, abs=1)
    # Steps that get slower are asked for as soon as that shows.
    first, *others = pair.steps(200, 2.0)
    assert first <= 100
    assert np.diff(others).tolist() == [1] * (len(others) - 1)


def test_an_epoch_begins_anew(pair):
    assert pair.steps(7 + 7, 0.01) == [1, 3, 7]
    pair.asked_at = pair.now
    pair.each(Checkpointer.begin_epoch)
    assert pair.steps(8, 0.01) == [8]


def test_they_go_by_the_first_ones_clock_and_by_any_signal(pair):
    assert [tuple(said) for said in pair.ask()] == [(False, False)] * 2
    pair.stops[1].signal = 15
    assert pair.each(lambda one: one.signal) == [None, None]
    pair.ask()
    assert pair.each(lambda one: one.signal) == [15, 15]


def test_a_signal_that_all_get_stops_once(pair):
    pair.stops[0].signal = 15
    pair.ask()
    # The launcher's own to the second one comes while it saves.
    pair.stops[1].receive(15, pytest.fail)
    with pytest.raises(Interrupted):
        pair.stops[1].receive(15, pytest.fail)


def test_one_process_decides_after_every_step():
    stop = Stop()
    alone = checkpointer(stop, True, lambda: 0.0)
    line = {"seconds": 0.1}
    assert [alone.count_step() for _ in range(5)] == [True] * 5
    assert tuple(alone.decide()) == (True, True)
    assert alone.count_step()
    assert (alone.decide_after_epoch(line), line) == (True, {"seconds": 0.1})
    assert alone.signal is None
    stop.signal = 2
    assert alone.signal == 2
