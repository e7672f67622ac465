"""Does a search that is killed lose nothing but the trial that was under way?

    python tests/stress/kill_search.py                 # 10 kills; ten minutes
    python tests/stress/kill_search.py --kills 30 --seed 7 --longest 40

A search is ended by SIGKILL at a moment drawn at random (one of four from the start of its process
on, the others from its first trial on), and goes on with `--resume`, again and again; the last
session ends by itself. After each kill and at the end every trial that was finished before must be
as it was: its line, the figures of its epochs, the logits of its validation images, its
checkpoints. At most one trial may have been under way, none is trained twice, and at the end there
is a winner. Exits 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainings import run, write_images

FINISHED = ("done", "stopped", "pruned")
LONGEST_START = 300.0
"""Seconds in which a session begins a trial, on the slowest machine."""
KEPT = ("metrics.jsonl", "val_logits.npy", "config.json")
"""Files of a finished trial that nothing may change; a winner's summary gets a test accuracy."""


@dataclasses.dataclass(frozen=True)
class State:
    """Where a search stands.

    Attributes:
        finished: Of each trial that is, by its number: its line, and what its folder holds.
        running: The numbers of those that are not.
    """

    finished: dict[int, tuple[dict[str, Any], dict[str, str]]]
    running: tuple[int, ...]


def state_of(folder: Path) -> State:
    """Where a search stands, by what its folder holds."""
    path, rows = folder / "trials.jsonl", {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        row = json.loads(line)
        if row["number"]:
            rows[row["number"]] = row
    finished = {
        number: (row, _bits(folder, row))
        for number, row in rows.items()
        if row["state"] in FINISHED and row["stage"] != "soup"
    }
    running = tuple(number for number, row in rows.items() if row["state"] == "running")
    return State(finished, running)


def _bits(folder: Path, row: dict[str, Any]) -> dict[str, str]:
    """What a trial's folder holds: names and digests."""
    [found] = (folder / "trials").glob(f"{row['number']:03d}-*")
    kept = [*(found / name for name in KEPT), *sorted((found / "checkpoints").rglob("*"))]
    digest = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in kept if p.is_file()}
    return {str(path.relative_to(found)): value for path, value in digest.items()}


def lost(before: State, after: State) -> list[str]:
    """What is not as it was, in words."""
    told = []
    for number, (row, bits) in before.finished.items():
        if number not in after.finished:
            told.append(f"trial {number} is finished no more")
            continue
        now, files = after.finished[number]
        if now != row:
            told.append(f"trial {number} has another line")
        changed = [name for name in bits if files.get(name) != bits[name]]
        told += [f"trial {number} has another {name}" for name in changed]
    if len(after.running) > 1:
        told.append(f"several trials were under way: {after.running}")
    options = Counter(json.dumps(row["options"]) for row, _ in after.finished.values())
    told += [f"trained twice: {which}" for which, times in options.items() if times > 1]
    return told


def trial(
    command: Sequence[str], folder: Path, moments: Sequence[Callable[[], float]]
) -> tuple[list[State], list[str]]:
    """Kills and resumes a search.

    Args:
        command: It, but for `--out` and `--resume`.
        folder: Of the search; new.
        moments: After how many seconds each session is killed.

    Returns:
        Where it stood after each kill and at the end, and what was lost.

    Raises:
        SystemExit: A session failed, or ended before it was killed.
    """
    words = [*command, "--out", str(folder), "--resume"]
    states, told = [State({}, ())], []
    for number, moment in enumerate(moments, 1):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, errors = process.communicate(timeout=moment())
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        else:
            raise SystemExit(f"session {number} ended before it was killed:\n{errors.decode()}")
        states.append(state_of(folder))
        missing = lost(states[-2], states[-1])
        told += missing
        counts = f"{len(states[-1].finished)} finished, {len(states[-1].running)} under way"
        print(f"kill {number:2}: {counts}{''.join(f'; LOST: {m}' for m in missing)}", flush=True)
    run(words)
    states.append(state_of(folder))
    told += lost(states[-2], states[-1])
    if states[-1].running:
        told.append(f"not finished at the end: trials {states[-1].running}")
    result = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    if not (folder / result["winner"] / "summary.json").is_file():
        told.append("the winner has no summary")
    print(f"at the end: {len(states[-1].finished)} finished, the winner is {result['winner_name']}")
    return states[1:], told


def _moment(folder: Path | None, draw: random.Random, longest: float) -> float:
    """Seconds that are drawn; of a folder's search, after it has begun a trial of its session."""
    if folder is not None:
        path, end = folder / "trials.jsonl", time.monotonic() + LONGEST_START
        before = path.stat().st_mtime_ns if path.is_file() else 0
        while time.monotonic() < end:
            if path.is_file() and path.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
    return draw.uniform(0.0, longest)


def main() -> int:
    """The exit code: 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="how many (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--longest", type=float, default=20.0,
        help="seconds until a kill at most (default: 20)")  # fmt: skip
    options = parser.parse_args()
    draw = random.Random(options.seed)
    budget = round(3 * options.kills * options.longest) + 60  # Every start counts, too.
    with tempfile.TemporaryDirectory(prefix="jtl-kill-") as scratch:
        data = write_images(Path(scratch, "images"), 90, 32)
        words = [sys.executable, "-m", "jtl.search", f"folder:{data}", "--budget", f"{budget}s"]
        words += ["--weights", "random", "--image-size", "32"]
        folder = Path(scratch, "search")
        # One of four at any moment from the start of its process on, the others among trials.
        moments = [
            functools.partial(_moment, folder if number % 4 else None, draw, options.longest)
            for number in range(options.kills)
        ]
        states, told = trial(words, folder, moments)
    under_way = sum(bool(state.running) for state in states[:-1])
    print(f"{options.kills} kills, {under_way} of them within a trial; {len(told)} losses")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
