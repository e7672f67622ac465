"""Draws a run's plots, in a background process where that saves time.

To import matplotlib and to draw takes half a second, which is a good part of a run whose frozen
layers are cached. A second process imports while the first one trains, on a core that is idle
for the most part then.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MODULES = {
    "draw_confusion": "jtl.runs.evaluation_plots",
    "draw_reliability": "jtl.runs.evaluation_plots",
    "draw_classes": "jtl.runs.evaluation_plots",
    "draw_sheet": "jtl.runs.sheets",
    "write_report": "jtl.runs.html_report.page",
}
"""Where each function is; all others are in `jtl.runs.plots`. None of these imports JAX."""
_MAIN = "from jtl.runs import plot_worker; plot_worker.main()"


class PlotWorker:
    """Draws what it is asked to; all is drawn when the `with` block ends."""

    def __init__(self, *, background: bool = False):
        """Takes whether another process draws; otherwise all is drawn in this one.

        A command sets it. A library call does not: its process may have matplotlib already.
        """
        self._background = background
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: list[dict[str, Any]] = []
        self._later: list[Callable[[], None]] = []

    def start(self) -> None:
        """Starts the other process now, if there is to be one, so that it is ready in time."""
        if not (self._background and sys.executable) or self._process is not None:
            return
        with contextlib.suppress(OSError):  # No process to be had; slower, nothing else.
            # A group of its own: Ctrl-C is for the run, which ends the plotter.
            self._process = subprocess.Popen(
                [sys.executable, *_isolation(), "-c", _MAIN],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )

    def __enter__(self) -> PlotWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        """Does what was put off and waits until all is drawn; gives up where the block failed."""
        failed = exception[0] is not None
        try:
            for each in () if failed else self._later:
                each()
        except BaseException:
            failed = True
            raise
        finally:
            self._finish(failed)

    def _finish(self, failed: bool) -> None:
        if self._process is not None:
            if failed:
                self._process.kill()
            with contextlib.suppress(OSError):  # It is gone.
                self._process.communicate()
            if self._process.returncode == 0:
                return
        # Whatever was wrong there is told here, where somebody listens.
        for asked in () if failed else self._asked:
            _draw(asked)

    @property
    def has_more(self) -> bool:
        """Whether something was put off."""
        return bool(self._later)

    def later(self, work: Callable[[], None]) -> None:
        """Puts off what asks for plots until the block ends, when results have been printed."""
        self._later.append(work)

    def draw(self, function: str, path: Path, **arguments: Any) -> None:
        """Asks for a plot.

        Args:
            function: A name as `function_named` takes it.
            path: The plot's file, given as `path`.
            arguments: What else the function takes; JSON.
        """
        self.start()
        asked = {"function": function, "path": str(path), **arguments}
        self._asked.append(asked)
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # It is gone; `__exit__` finds out.
                self._process.stdin.write(json.dumps(asked).encode() + b"\n")
                self._process.stdin.flush()


def _isolation() -> list[str]:
    """What this Python was told of where modules are not to come from, such as this folder."""
    flags = sys.flags
    given = [(flags.isolated, "-I"), (flags.safe_path, "-P"), (flags.ignore_environment, "-E")]
    return [option for flag, option in [*given, (flags.no_user_site, "-s")] if flag]


def main() -> None:
    """The other process: draws what it reads from its standard input."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401

    for line in sys.stdin.buffer:
        _draw(json.loads(line))


def _draw(asked: dict[str, Any]) -> None:
    arguments = dict(asked)
    draw_now(arguments.pop("function"), arguments.pop("path"), **arguments)


def draw_now(function: str, path: str | Path, **arguments: Any) -> None:
    """Draws a plot in this process; see `PlotWorker.draw`."""
    function_named(function)(path, **arguments)


def function_named(name: str) -> Callable[..., None]:
    """A function that writes a file: of `jtl.runs.plots`, or one of a few others."""
    return getattr(importlib.import_module(_MODULES.get(name, "jtl.runs.plots")), name)
