"""Whole processes, timed as a user waits for them."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from harness.workers import RSS_UNIT

LOOK_SECONDS = 0.005


@dataclasses.dataclass(frozen=True)
class Ended:
    """A process that has ended well.

    Attributes:
        seconds: From its start to its end.
        first_seconds: Until the watched file had its first line; None without one.
        peak_bytes: The largest resident set.
    """

    seconds: float
    first_seconds: float | None
    peak_bytes: int


def timed(command: list[str], environment: Mapping[str, str], watch: Path | None = None) -> Ended:
    """Runs a command to its end.

    Args:
        command: The process.
        environment: Of the process.
        watch: A file that does not exist yet, to which the process will write lines.

    Raises:
        SystemExit: The process failed; what it wrote to stderr is shown.
    """
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=errors, env=dict(environment)
        )
        first = None
        try:
            while watch is not None and first is None:
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if _has_line(watch):
                    first = time.perf_counter() - began
                if pid:
                    break
                time.sleep(LOOK_SECONDS)
            else:
                _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            told = errors.read()[-4000:].decode(errors="replace")
            raise SystemExit(f"failed ({process.returncode}): {' '.join(command)[:400]}\n{told}")
    return Ended(seconds, first, usage.ru_maxrss * RSS_UNIT)


def _has_line(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
