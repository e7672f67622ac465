"""What a user watches while a run goes on: a live bar in a terminal, plain lines in a log."""

from __future__ import annotations

import datetime
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.segment import Segment
from rich.text import Text

from jtl.common.text import for_terminal

_QUIET_SECONDS = 10.0
"""How long a log stays silent at the most; a terminal is always live."""
_silent = False
_AT_ONCE_SECONDS = 0.01
"""What is done that soon was done before: the epochs of a run that is resumed."""


def silence() -> None:
    """Keeps displays that are made from now on silent: of many processes the first one speaks."""
    global _silent
    _silent = True


class PlainConsole(Console):
    """Writes names and paths as they are: no markup, no `:emoji:`, no colours of its own."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """What is shown, without the control characters of names; rich's own stay."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else for_terminal(text), style, control)

    def on_broken_pipe(self) -> None:
        """Leaves a reader that has gone to `jtl.cli`; rich would end the process here."""
        raise BrokenPipeError


class Display:
    """Messages and progress on stderr; results belong on stdout and not here."""

    def __init__(self, console: Console | None = None):
        """Takes the console to write to; default stderr, unless `silence` was called."""
        self.console = console or PlainConsole(stderr=True, quiet=_silent)

    def message(self, text: str) -> None:
        self.console.print(text, markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def track(
        self, name: str, total: int, unit: str, header: str = ""
    ) -> Iterator[Callable[..., None]]:
        """Shows the progress of one piece of work.

        Args:
            name: What is done.
            total: How many units make it whole.
            unit: `images` or `epochs`.
            header: Of the table that a terminal shows of the rows, above the bar.

        Yields:
            advance(n, note="", row=""): n more units are done; `note` says how it goes. A terminal
            shows the `row` instead, if there is one, and all rows stay there.
        """
        pace = Pace(total, time.perf_counter)
        if self.console.is_terminal:
            with _Bar(pace, unit, self.console) as bar:
                task = bar.add_task(name, total=total, note="")
                heading = header

                def advance(n: int, note: str = "", row: str = "") -> None:
                    nonlocal heading
                    pace.advance(n)
                    if row:
                        rows, heading, note = filter(None, (heading, row)), "", " "
                        bar.console.print("\n".join(rows), markup=False, emoji=False)
                    bar.update(task, advance=n, note=note or pace.shown(unit))

                yield advance
            return
        last = time.perf_counter()

        def advance_plain(n: int, note: str = "", row: str = "") -> None:
            nonlocal last
            del row  # A log has a line now and then, not a table.
            pace.advance(n)
            now = time.perf_counter()
            if pace.done >= total or now - last >= _QUIET_SECONDS:
                last = now
                told = f"{name}: {pace.done}/{total} {unit}, {note or pace.shown(unit)}"
                self.message(told if pace.done >= total else f"{told}, {pace.left()} left")

        yield advance_plain


class Pace:
    """How fast a piece of work goes, and how long it takes yet."""

    def __init__(self, total: int, clock: Callable[[], float]):
        """Begins now; `clock` tells seconds."""
        self.total, self.done = total, 0
        self._clock = clock
        self._began = self._last = clock()
        self._before = 0  # What was done when the work began.
        self._first: tuple[float, int] | None = None

    def advance(self, n: int) -> None:
        """Counts n more units."""
        self.done += n
        self._last = self._clock()
        if self._last - self._began < _AT_ONCE_SECONDS:
            self._before = self.done
        elif self._first is None:
            self._first = (self._last, self.done)

    def rate(self) -> float:
        """Units a second since the beginning."""
        return (self.done - self._before) / max(self._clock() - self._began, 1e-9)

    def shown(self, unit: str) -> str:
        """The rate, for people.

        Args:
            unit: What is counted, in the plural.
        """
        rate = f"{self.rate():,.0f}"
        if rate == "0":
            rate = f"{self.rate():.1g}"
        return f"{rate} {unit.removesuffix('s') if rate == '1' else unit}/s"

    def left(self) -> str:
        """The time left as h:mm:ss; dashes until something tells.

        The first step, which compiles, counts only while there is no other.
        """
        since, done = self._began, self._before
        if self._first is not None and self.done > self._first[1]:
            since, done = self._first
        if self.done <= done:
            return "-:--:--"
        each = (self._last - since) / (self.done - done)
        left = each * (self.total - self.done) - (self._clock() - self._last)
        return str(datetime.timedelta(seconds=math.ceil(max(left, 0.0))))


class _Bar(Progress):
    """A bar in one line and what the last step gave in the next, to fit 80 columns."""

    def __init__(self, pace: Pace, unit: str, console: Console):
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(None),  # As wide as the others leave room.
            MofNCompleteColumn(),
            TextColumn(unit, markup=False),
            _TimeLeft(pace),
            console=console,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if (note := task.fields["note"]).strip():
                yield Text(f"  {note}", no_wrap=True, overflow="ellipsis")


class _TimeLeft(ProgressColumn):
    def __init__(self, pace: Pace):
        self._pace = pace
        super().__init__()

    def render(self, task: Task) -> Text:
        del task  # There is one, and the pace is its.
        return Text(f"{self._pace.left()} left", style="progress.remaining", no_wrap=True)
