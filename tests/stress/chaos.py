"""Does a run end as the undisturbed one, whatever happens to it?

    python tests/stress/chaos.py                     # 30 minutes
    python tests/stress/chaos.py --minutes 120 --seed 7
    python tests/stress/chaos.py --smoke             # each event once; about a minute

Trains once undisturbed. Then, until the time is over, trains again and again by one command line
(`--resume`), saving as often as the disk takes it, while at random moments somebody reads the run,
starts the same training a second time, goes on with it from elsewhere, copies its folder and trains
the copy to its end, fills the disk (by a limit on the size of the process's files), or ends the
process with SIGTERM or SIGKILL, after which the same command starts again. Readers must see the
last whole checkpoint or none, second starts must be refused and change nothing, and in the end
every run and every copy must have the figures and checkpoints of the undisturbed run, the
optimizer's state included, bit for bit. Exits 1 where one has not, or where an event never
happened.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from trainings import command, done, final_bits, run, write_images

LONGEST = 600.0
"""Seconds in which any process must have reacted."""
ATTEMPTS = 4
"""Trainings that are begun at the most, until each event has happened to one."""


class Failed(Exception):
    """Something did not go as it must."""


class Chaos:
    """One training under disturbance, and what has happened to it."""

    def __init__(self, words: list[str], folder: Path, draw: random.Random):
        """Takes the command line and the folder of the run."""
        self._words, self.folder, self._draw = words, folder, draw
        self.happened: collections.Counter[str] = collections.Counter()
        self._seen, self._copies = 0, 0
        self._log = folder.with_name(f"{folder.name}.log")
        self._start()

    EVENTS: tuple[str, ...] = (
        "start again", "resume elsewhere", "copy", "read", "fill the disk", "stop", "kill",
    )  # fmt: skip

    def happen(self, event: str) -> None:
        """Lets something happen, unless the run has ended already."""
        # Half of the events come while the run prepares, the others once it trains.
        if self._draw.random() < 0.5:
            self._wait(lambda: done(self.folder) > 0)
        time.sleep(self._draw.uniform(0.0, 0.5))
        self._happen(event)

    def force(self, event: str) -> None:
        """Lets something happen for certain, if the run is not at its end: as soon as it can."""
        from jtl.runs.lock import is_written_by_another

        self._restart()
        prepares = event == "start again"
        self._wait(
            lambda: is_written_by_another(self.folder) if prepares else done(self.folder) > 0
        )
        self._happen(event)

    def _happen(self, event: str) -> None:
        if self._process.poll() is not None:
            self._restart()
            return
        happened = {
            "read": self._read,
            "start again": lambda: self._second([*self._words, "--resume"]),
            "resume elsewhere": lambda: self._second(
                [*_program(self._words), "--resume", "--run-dir", str(self.folder)]
            ),
            "copy": self._copy,
            "fill the disk": self._fill,
            "stop": lambda: self._end(signal.SIGTERM),
            "kill": lambda: self._end(signal.SIGKILL),
        }[event]()
        self.happened[event] += happened
        if event in ("fill the disk", "stop", "kill"):
            self._restart()

    def finish(self, wanted: dict[str, Any]) -> None:
        """Lets the run and its copies end.

        Raises:
            Failed: One has not ended as the undisturbed one.
        """
        self._restart()
        self._wait(lambda: False)
        if self._process.returncode:
            raise Failed(f"the run ended with {self._process.returncode}: {self._said()}")
        _check(self.folder, wanted)
        for number in range(self._copies):
            copy = self._copy_at(number)
            code, _, err = _ended([*_program(self._words), "--resume", "--run-dir", str(copy)])
            if code:
                raise Failed(f"the copy ended with {code}: {err}")
            _check(copy, wanted)
            shutil.rmtree(copy)

    def kill(self) -> None:
        """Ends the process, whatever it does."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        # No pipe: what nobody reads would fill it, and stop the training.
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*self._words, "--resume"], stdout=subprocess.DEVNULL, stderr=log
            )

    def _restart(self) -> None:
        """Starts the run again if it has ended before its end."""
        if self._process.poll() is not None and not (self.folder / "summary.json").exists():
            self._start()

    def _said(self) -> str:
        return self._log.read_text()[-3000:]

    def _wait(self, reached: Callable[[], bool]) -> None:
        until = time.monotonic() + LONGEST
        while self._process.poll() is None and not reached():
            if time.monotonic() > until:
                raise Failed(f"the run stands still: {self._said()}")
            time.sleep(0.005)

    def _read(self) -> bool:
        import jtl
        from jtl.common.errors import UserError

        for _ in range(5):
            try:
                epoch = jtl.load(self.folder).epoch
            except UserError as error:
                known = ("is not a run", "no finished checkpoint")
                if not any(told in str(error) for told in known) or self._seen:
                    raise Failed(f"a reader is told: {error}") from error
                continue
            if epoch < self._seen:
                raise Failed(f"a reader saw epoch {epoch} after epoch {self._seen}")
            self._seen = epoch
        return True

    def _second(self, words: list[str]) -> bool:
        """Starts a second training while the first stands still, so that it cannot end before."""
        from jtl.runs.lock import is_written_by_another

        with self._standing() as standing:
            # Before that, there is nothing that a second start could find: the file alone may be
            # that of a process which was killed, and a held lock may not name its holder yet.
            held = standing and is_written_by_another(self.folder)
            if not held or self._named_holder() != self._process.pid:
                return False
            before = sorted(self.folder.rglob("*"))
            code, _, err = _ended(words)
            if code != 2 or f"process {self._process.pid} on " not in err:
                raise Failed(f"a second start ended with {code}: {err}")
            if changed := set(before) ^ set(self.folder.rglob("*")):
                raise Failed(f"a second start has changed {sorted(map(str, changed))}")
        return True

    def _named_holder(self) -> int | None:
        """The process that the lock file names."""
        from jtl.runs.lock import LOCK

        try:
            return json.loads((self.folder / LOCK).read_text(encoding="utf-8"))["pid"]
        except (OSError, ValueError):
            return None

    def _copy_at(self, number: int) -> Path:
        return self.folder.with_name(f"{self.folder.name}-copy-{number}")

    def _copy(self) -> bool:
        with self._standing() as standing:
            if not standing or not (self.folder / "config.json").exists():
                return False
            shutil.copytree(self.folder, self._copy_at(self._copies))
        self._copies += 1
        return True

    @contextlib.contextmanager
    def _standing(self) -> Iterator[bool]:
        """Whether the process, with what draws for it, stands still while the block runs."""
        stopped = []
        with contextlib.suppress(psutil.NoSuchProcess):
            first = psutil.Process(self._process.pid)
            first.suspend()
            stopped = [first, *first.children()]
        for process in stopped[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            # A thread that waits for the disk stops only once it has returned from there.
            self._wait(lambda: all(_stands(process.pid) for process in stopped))
            yield self._process.poll() is None
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def _fill(self) -> bool:
        """No file can grow for a while; the run ends with a message, or goes on unharmed."""
        try:
            limits = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
            until = time.monotonic() + self._draw.uniform(1.0, 4.0)
            while self._process.poll() is None and time.monotonic() < until:
                time.sleep(0.05)
            if self._process.poll() is None:
                resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, limits)
        except ProcessLookupError:
            return False
        if self._process.poll() not in (None, 0, 2):
            raise Failed(f"on a full disk the run ended with {self._process.poll()}")
        return True

    def _end(self, number: signal.Signals) -> bool:
        # What comes while it stands still, it gets before it does anything else.
        with self._standing():
            self._process.send_signal(number)
        self._wait(lambda: False)
        code = self._process.returncode
        if code not in (0, 2, -signal.SIGKILL, 128 + signal.SIGTERM, -signal.SIGTERM):
            raise Failed(f"{number.name} ended the run with {code}: {self._said()}")
        return code != 0


def _stands(pid: int) -> bool:
    """Whether all threads of a process are stopped, or gone."""
    states = []
    with contextlib.suppress(OSError):
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            states.append(stat.read_text().rpartition(")")[2].split()[0])
    return set(states) <= {"T", "t", "Z", "X"}


def _program(words: list[str]) -> list[str]:
    """A command line without its options."""
    return words[: next(i for i, word in enumerate(words) if word.startswith("--"))]


def _ended(words: list[str]) -> tuple[int, str, str]:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=LONGEST)
    return done.returncode, done.stdout, done.stderr


def _check(folder: Path, wanted: dict[str, Any]) -> None:
    found = final_bits(folder)
    if different := [key for key, value in wanted.items() if found[key] != value]:
        raise Failed(f"'{folder.name}' ended differently: {', '.join(different)}")


def trial(
    start: Callable[[Path], list[str]], scratch: Path, seconds: float, seed: int
) -> collections.Counter[str]:
    """Disturbs trainings at random for some time.

    Args:
        start: From a folder to the command line of a training in it.
        scratch: Where these go.
        seconds: How long; one training at the least.
        seed: Of what happens when.

    Returns:
        What has happened, and how often.

    Raises:
        Failed: Something did not go as it must.
    """
    draw, until = random.Random(seed), time.monotonic() + seconds

    def events() -> list[str]:
        drawn = list(Chaos.EVENTS)
        draw.shuffle(drawn)
        return drawn[: draw.randint(2, len(drawn))]

    happened: collections.Counter[str] = collections.Counter()
    wanted = _undisturbed(start, scratch)
    while not happened or time.monotonic() < until:
        happened += _disturbed(start, scratch, draw, events(), wanted, Chaos.happen)
        told = ", ".join(f"{event} {count}" for event, count in sorted(happened.items()))
        print(f"runs ended as the undisturbed one; {told}", flush=True)
    return happened


def forced(start: Callable[[Path], list[str]], scratch: Path) -> collections.Counter[str]:
    """Every event once, in trainings that are disturbed as soon as they can be; see `trial`.

    Raises:
        Failed: Something did not go as it must, or could not be made to happen.
    """
    happened: collections.Counter[str] = collections.Counter()
    wanted = _undisturbed(start, scratch)
    for _ in range(ATTEMPTS):
        # Those that a run was too fast for.
        if not (lacking := [event for event in Chaos.EVENTS if not happened[event]]):
            return happened
        happened += _disturbed(start, scratch, random.Random(0), lacking, wanted, Chaos.force)
    raise Failed(f"could not be made to happen: {', '.join(lacking)}")


def _undisturbed(start: Callable[[Path], list[str]], scratch: Path) -> dict[str, Any]:
    run(start(scratch / "whole"))
    return final_bits(scratch / "whole")


def _disturbed(
    start: Callable[[Path], list[str]],
    scratch: Path,
    draw: random.Random,
    events: list[str],
    wanted: dict[str, Any],
    happen: Callable[[Chaos, str], None],
) -> collections.Counter[str]:
    """One training to its end; what has happened to it."""
    folder = scratch / "run"
    chaos = Chaos(start(folder), folder, draw)
    try:
        for event in events:
            happen(chaos, event)
        chaos.finish(wanted)
    finally:
        chaos.kill()
    shutil.rmtree(folder, ignore_errors=True)
    return chaos.happened


def main() -> int:
    """The exit code: 1 if a run has not ended as it must, or an event never happened."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the events (default: 0)")
    parser.add_argument("--smoke", action="store_true", help="each event once, heads only")
    options = parser.parse_args()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory(prefix="jtl-chaos-") as name:
        scratch = Path(name)
        data = write_images(scratch / "images", 72, 32)
        start = functools.partial(command, data, smoke=options.smoke, often=True)
        try:
            if options.smoke:
                happened = forced(start, scratch)
            else:
                happened = trial(start, scratch, 60 * options.minutes, options.seed)
        except Failed as failed:
            print(f"FAILED: {failed}")
            return 1
    if lacking := [event for event in Chaos.EVENTS if not happened[event]]:
        print(f"never happened: {', '.join(lacking)}; try more --minutes")
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
