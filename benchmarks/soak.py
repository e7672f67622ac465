"""Does a long training keep its memory, threads and files?

    python benchmarks/soak.py                        # 20 minutes
    python benchmarks/soak.py --minutes 120 --out results/soak
    python benchmarks/soak.py --smoke                # half a minute, to see that it works

Trains the last stage on a few small, augmented pictures without end, and counts the process's
resident memory, threads and open files every second. After the given time the training is ended
with SIGTERM and must end with 143 and a whole checkpoint. The first third of the time is for
warming up; from there to the end memory may grow by a hundredth and 4 MB, threads and files not at
all (medians of the second and the last sixth are compared). Exits 1 where one grew.
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

from harness import pictures

MEMORY_GROWTH, MEMORY_SLACK = 1.01, 4e6
"""A line of the history is kept in memory for every epoch: some kilobytes a minute."""
SHOWN = {"rss": "resident memory, MB", "threads": "threads", "files": "open files"}


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process holds at a time, in seconds since its first epoch."""

    seconds: float
    rss: int
    threads: int
    files: int
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
    process = subprocess.Popen(
        command(data, folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    watched, metrics, samples = psutil.Process(process.pid), folder / "metrics.jsonl", []
    try:
        while not metrics.is_file() and process.poll() is None:
            time.sleep(0.1)
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < 60 * minutes:
            with watched.oneshot():
                samples.append(
                    Sample(
                        time.monotonic() - began,
                        watched.memory_info().rss,
                        watched.num_threads(),
                        watched.num_fds(),
                        metrics.read_bytes().count(b"\n"),
                    )
                )
            time.sleep(every)
        if process.poll() is None:
            process.terminate()
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
    if process.returncode != 128 + signal.SIGTERM or "which is saved" not in told:
        raise SystemExit(f"the training ended with {process.returncode}:\n{told[-2000:]}")
    return samples


def verdict(samples: list[Sample]) -> dict[str, Any]:
    """What grew after the warm-up: for each of `SHOWN` the medians, and whether they are flat."""
    part = len(samples) // 6
    if not part:
        raise SystemExit("too short a time to tell anything")
    told: dict[str, Any] = {"seconds": samples[-1].seconds, "epochs": samples[-1].epochs}
    for name in SHOWN:
        early = statistics.median(getattr(s, name) for s in samples[2 * part : 3 * part])
        late = statistics.median(getattr(s, name) for s in samples[-part:])
        limit = early * MEMORY_GROWTH + MEMORY_SLACK if name == "rss" else early
        told[name] = {"early": early, "late": late, "flat": late <= limit}
    return told


def draw(samples: list[Sample], path: Path) -> None:
    """Memory, threads and files over time; a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), SHOWN, strict=True):
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
        data = Path(scratch, "pictures")
        pictures.generate(data, 48, 32)
        samples = soak(data, Path(scratch, "run"), minutes)
    told = verdict(samples)
    print(json.dumps(told, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        figures = {**told, "samples": [dataclasses.asdict(sample) for sample in samples]}
        Path(f"{options.out}.json").write_text(json.dumps(figures) + "\n", encoding="utf-8")
        draw(samples, Path(f"{options.out}.png"))
    return 0 if all(told[name]["flat"] for name in SHOWN) else 1


if __name__ == "__main__":
    sys.exit(main())
