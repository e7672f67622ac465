"""Draws a run's plots, in a background process where that saves time.

To import matplotlib and to draw takes half a second, which is a good part of a run whose frozen
layers are cached. A second process imports while the first one trains, on a core that is idle
for the most part then.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from jtl.runs import plots

_MAIN = "from jtl.runs import plot_worker; plot_worker.main()"


class PlotWorker:
    """Draws what it is asked to; all is drawn when the `with` block ends."""

    def __init__(self, *, background: bool = False):
        """Starts the other process if `background` is set; otherwise all is drawn in this one.

        A command sets it. A library call does not: its process may have matplotlib already.
        """
        self._process: subprocess.Popen[bytes] | None = None
        self._asked: list[dict[str, Any]] = []
        if background and sys.executable:
            try:
                # A group of its own: Ctrl-C is for the run, which ends the plotter.
                self._process = subprocess.Popen(
                    [sys.executable, *_isolation(), "-c", _MAIN],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    process_group=0,
                )
            except OSError:
                return  # No process to be had; slower, nothing else.

    def __enter__(self) -> PlotWorker:
        return self

    def __exit__(self, *exception: object) -> None:
        """Waits until all is drawn, or gives up where the block failed."""
        failed = exception[0] is not None
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

    def draw(self, function: str, path: Path, **arguments: Any) -> None:
        """Asks for a plot.

        Args:
            function: A name of `jtl.runs.plots`.
            path: The plot's file, given as `path`.
            arguments: What else the function takes; JSON.
        """
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
    getattr(plots, arguments.pop("function"))(**arguments)
