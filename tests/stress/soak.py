"""Does a long training keep its memory, threads and files?

    python tests/stress/soak.py                        # 20 minutes
    python tests/stress/soak.py --minutes 120 --out results/soak
    python tests/stress/soak.py --smoke                # half a minute, to see that it works

Trains the last stage on a few small, augmented images without end, and counts the process's
resident memory, threads, open files and child processes every second. After the given time the
training is ended with SIGTERM and must end with 143, the last epoch's checkpoint whole and none of
older ones left. The first third of the time is for warming up; from there to the end memory may
grow by a hundredth, 4 MB and the history of the epochs, and nothing else at all (of memory the
medians of the third and the last sixth are compared, of the others the least counts: saves and
plots start threads and open files for a moment). Exits 1 where one grew.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from trainings import done, write_images

from jtl.common.files import replace_text

MEMORY_GROWTH, MEMORY_SLACK = 1.01, 4e6
SHOWN = {
    "rss": "resident memory, MB",
    "threads": "threads",
    "files": "open files",
    "children": "child processes",
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process holds at a time, in seconds since its first epoch."""

    seconds: float
    rss: int
    threads: int
    files: int
    children: int
    epochs: int


def command(data: Path, folder: Path) -> list[str]:
    """A training without an end."""
    return [
        *(sys.executable, "-m", "jtl.train", "--data", f"folder:{data}", "--image-size", "32"),
        *("--mask", "last_stage", "--augment", "light", "--epochs", "1000000"),
        *("--batch-size", "8", "--ema", "0.99", "--run-dir", str(folder)),
    ]


def soak(data: Path, folder: Path, minutes: float, every: float = 1.0) -> list[Sample]:
    """Trains for some minutes, and what the process held meanwhile.

    Raises:
        SystemExit: The training ended by itself, or not as it should.
    """
    samples: list[Sample] = []
    # No pipe: what nobody reads would fill it, and stop the training.
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            command(data, folder), stdout=subprocess.DEVNULL, stderr=told, text=True
        )
        try:
            while not done(folder) and process.poll() is None:
                time.sleep(0.1)
            began = time.monotonic()
            while process.poll() is None and time.monotonic() - began < 60 * minutes:
                samples.append(sampled(process.pid, time.monotonic() - began, done(folder)))
                time.sleep(every)
            process.terminate()
            process.wait(timeout=120)
        finally:
            process.kill()
        told.seek(0)
        said = told.read()
    if process.returncode != 128 + signal.SIGTERM or "everything is saved" not in said:
        raise SystemExit(f"the training ended with {process.returncode}:\n{said[-2000:]}")
    check_folder(folder)
    return samples


def sampled(pid: int, seconds: float, epochs: int) -> Sample:
    """What a process holds now.

    Raises:
        SystemExit: It has ended.
    """
    try:
        watched = psutil.Process(pid)
        children = len(watched.children(recursive=True))
        with watched.oneshot():
            memory, threads = watched.memory_info().rss, watched.num_threads()
            return Sample(seconds, memory, threads, watched.num_fds(), children, epochs)
    except psutil.Error as error:
        raise SystemExit(f"the training ended by itself after {seconds:.0f} s") from error


def check_folder(folder: Path) -> None:
    """Makes sure that a stopped run has its last epoch, and no checkpoints besides.

    Raises:
        SystemExit: It has not.
    """
    from jtl.runs.checkpoints import reading
    from jtl.runs.checkpoints.contents import FOLDER

    latest = reading.restore(folder, "latest").epoch
    kept = sorted(path.name for path in (folder / FOLDER).iterdir())
    if latest != done(folder) or len(kept) > 2:  # The latest and the best.
        raise SystemExit(f"after {done(folder)} epochs the checkpoints are {', '.join(kept)}")


def verdict(samples: list[Sample], line_bytes: int = 0) -> dict[str, Any]:
    """What grew after the warm-up: for each of `SHOWN` early and late, and whether it is flat.

    Args:
        samples: Of the whole time.
        line_bytes: What the run keeps in memory of each epoch.
    """
    part = len(samples) // 6
    if not part:
        raise SystemExit("too short a time to tell anything")
    first, last = samples[2 * part : 3 * part], samples[-part:]

    def median(name: str, among: list[Sample]) -> float:
        return statistics.median(getattr(sample, name) for sample in among)

    between = median("epochs", last) - median("epochs", first)
    history = line_bytes * between
    told: dict[str, Any] = {
        "seconds": samples[-1].seconds,
        "epochs": samples[-1].epochs,
        "between": between,
    }
    for name in SHOWN:
        if name == "rss":
            early, late = median(name, first), median(name, last)
            limit = early * MEMORY_GROWTH + MEMORY_SLACK + history
        else:
            # What comes and goes is no leak: that is always more than there ever was.
            early = max(getattr(s, name) for s in first)
            late = min(getattr(s, name) for s in last)
            limit = early
        told[name] = {"early": early, "late": late, "flat": late <= limit}
    return told


def line_bytes(folder: Path) -> int:
    """What the line of an epoch takes in memory."""
    text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    line = json.loads(text[: text.index("\n")])
    return sys.getsizeof(line) + sum(map(sys.getsizeof, line.values()))


def draw(samples: list[Sample], path: Path) -> None:
    """What was held, over time; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
        scale = 1e-6 if name == "rss" else 1.0
        axes.plot([s.seconds / 60 for s in samples], [getattr(s, name) * scale for s in samples])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("minutes")
        axes.set_title(SHOWN[name])
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main() -> int:
    """The exit code: 1 if something grew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (default: 20)")
    parser.add_argument("--out", type=Path, help="writes OUT.json and OUT.png")
    parser.add_argument("--smoke", action="store_true", help="half a minute")
    options = parser.parse_args()
    minutes = 0.4 if options.smoke else options.minutes
    with tempfile.TemporaryDirectory(prefix="jtl-soak-") as scratch:
        data = Path(scratch, "images")
        write_images(data, 48, 32)
        folder = Path(scratch, "run")
        samples = soak(data, folder, minutes)
        told = verdict(samples, line_bytes(folder))
    print(json.dumps(told, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        figures = {**told, "samples": [dataclasses.asdict(sample) for sample in samples]}
        replace_text(Path(f"{options.out}.json"), json.dumps(figures) + "\n")
        draw(samples, Path(f"{options.out}.png"))
    return 0 if all(told[name]["flat"] for name in SHOWN) else 1


if __name__ == "__main__":
    sys.exit(main())
