"""What the processes of a run agree on while it trains: whether to stop, to save, to tidy.

A signal reaches one process, and each has its own clock; what follows must follow in all of them
after the same step. So they ask each other, for which every one waits until its last step is done:
not after each step, but about once a second, counted in steps that are the same for all.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from jtl.distributed import processes
from jtl.distributed.signals import Stop
from jtl.runs.keeper import Keeper

ASK_SECONDS = 1.0
"""How long steps go on at the least before the processes ask each other again."""


class Said(NamedTuple):
    """What is to be done within an epoch.

    Attributes:
        save: Whether it is time to save.
        outdated: Whether the checkpoint within an epoch is of no use any more.
    """

    save: bool
    outdated: bool


class Agreement:
    """Asks all processes of a run; one by itself goes by what it knows, after every step."""

    def __init__(self, stop: Stop, keeper: Keeper):
        """Takes what this process knows: the signals it got, and what it has saved."""
        self._stop, self._keeper = stop, keeper
        self._signal: int | None = None
        # Steps from one time of asking to the next, and those since the last.
        self._every, self._taken, self._since = 1, 0, time.perf_counter()

    @property
    def signal(self) -> int | None:
        """The signal for which all stop."""
        return self._signal if processes.several() else self._stop.signal

    def begin(self) -> None:
        """An epoch begins."""
        self._taken, self._since = 0, time.perf_counter()

    def due(self) -> bool:
        """Counts a step; whether all are to be asked after it."""
        self._taken += 1
        return not processes.several() or self._taken >= self._every

    def within_epoch(self) -> Said:
        """Asks after a step; clocks and disk are the first process's.

        The next time is after as many steps as took `ASK_SECONDS` now, but at most twice as many
        as this time: the first ones are slow.
        """
        seconds = time.perf_counter() - self._since
        keeper = self._keeper
        said = processes.gathered([seconds, keeper.due, keeper.outdated, self._stop.signal or 0])
        seconds, save, outdated, _ = said[0]
        self._heed(said[:, -1].max())
        pace = self._taken * ASK_SECONDS / max(float(seconds), 1e-6)
        self._every = int(min(max(pace, 1), 2 * self._taken))
        self.begin()
        return Said(bool(save), bool(outdated))

    def after_epoch(self, line: dict[str, Any]) -> bool:
        """Asks after an epoch, whose `seconds` become the first process's.

        Returns:
            Whether it is time to save.
        """
        said = processes.gathered([line["seconds"], self._keeper.overdue, self._stop.signal or 0])
        if len(said) > 1:
            line["seconds"] = float(said[0, 0])
        self._heed(said[:, -1].max())
        return bool(said[0, 1])

    def _heed(self, signal: float) -> None:
        if signal and processes.several():
            self._signal = int(signal)
            self._stop.agreed = True
