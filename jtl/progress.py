"""What a user watches while a run goes on: a live bar in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

_QUIET_SECONDS = 10.0
"""How long a log stays silent at the most; a terminal is always live."""


class PlainConsole(Console):
    """Writes names and paths as they are: no markup, no `:emoji:`, no colours of its own."""

    def __init__(self, **options: Any):
        """Takes the options of rich's Console."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """Leaves a reader that has gone to `jtl.cli`; rich would end the process here."""
        raise BrokenPipeError


class Display:
    """Messages and progress on stderr; results belong on stdout and not here."""

    def __init__(self, console: Console | None = None):
        """Takes the console to write to; default stderr."""
        self.console = console or PlainConsole(stderr=True)

    def message(self, text: str) -> None:
        """One line for the user."""
        self.console.print(text, markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def track(self, name: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
        """Shows the progress of one piece of work.

        Args:
            name: What is done.
            total: How many units make it whole.
            unit: `images` or `epochs`.

        Yields:
            advance(n, note=""): n more units are done; `note` says how it goes.
        """
        began = time.perf_counter()
        if self.console.is_terminal:
            with self._bar() as bar:
                task = bar.add_task(name, total=total, unit=unit, note="")

                def advance(n: int, note: str = "") -> None:
                    if not note:
                        elapsed = max(time.perf_counter() - began, 1e-9)
                        note = f"{(bar.tasks[0].completed + n) / elapsed:,.0f} {unit}/s"
                    bar.update(task, advance=n, note=note)

                yield advance
            return
        done, last = 0, began

        def advance_plain(n: int, note: str = "") -> None:
            nonlocal done, last
            done += n
            now = time.perf_counter()
            if done >= total or now - last >= _QUIET_SECONDS:
                last = now
                rate = f"{done / max(now - began, 1e-9):,.0f} {unit}/s"
                self.message(f"{name}: {done}/{total} {unit}, {note or rate}")

        yield advance_plain

    def _bar(self) -> Progress:
        return Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
        )
