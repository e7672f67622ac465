"""The time that a search has, and what is left of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

RESERVE_SHARE, RESERVE_SECONDS = 0.03, 4.0
"""Of the budget for the closing work: the page, the plot, the learning curve."""


def process_clock() -> Callable[[], float]:
    """Seconds since this process was started, what Python has imported until now included."""
    import psutil

    since = time.time() - psutil.Process().create_time()
    began = time.perf_counter()
    return lambda: since + time.perf_counter() - began


def clock_from_now() -> Callable[[], float]:
    """Seconds since this call."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began


@dataclasses.dataclass
class Budget:
    """A time to keep to.

    Attributes:
        total: Seconds that the search may take, of all its sessions.
        clock: Seconds of this session so far.
        before: Seconds of earlier sessions.
        closing: Seconds to keep for the work at the end.
    """

    total: float
    clock: Callable[[], float]
    before: float = 0.0
    closing: float = 0.0

    @property
    def spent(self) -> float:
        """Seconds until now."""
        return self.before + self.clock()

    @property
    def left(self) -> float:
        """Seconds that trials may take yet; not below 0."""
        reserve = RESERVE_SECONDS + RESERVE_SHARE * self.total + self.closing
        return max(self.total - reserve - self.spent, 0.0)
