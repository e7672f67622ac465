"""Whole trainings of jtl and of a peer, each in a process of its own, as a user waits for them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.datasets import Images
from harness.machine import BENCHMARKS, environment, product_rate
from harness.runs import Ended, timed
from harness.steps import compare

EPOCHS = 10
LR, OTHER_LR = 1e-3, 3e-3

Group = Callable[["Job", int], dict[str, tuple[Ended, Ended]]]
"""From a job and the repeat's number to a pair of ended processes for each arm."""


@dataclasses.dataclass(frozen=True)
class TrainingSettings:
    """What a training's row was measured with."""

    images: int
    pictures: str
    batch: int
    size: int
    repeats: int


@dataclasses.dataclass(frozen=True)
class Job:
    """What both sides of one comparison work on.

    Attributes:
        model: A backbone of jtl.
        weights: The checkpoint that both sides start from, in the peer's format.
        images: What is trained on.
        few: One training batch and some validation images.
        batch: Images in each training step.
        size: Height and width of the input in pixels.
        peer: `pytorch` or `keras`: which peers/*_train.py stands beside jtl.
        scratch: A folder for caches and runs.
    """

    model: str
    weights: Path
    pictures: Images
    few: Images
    batch: int
    size: int
    peer: str
    scratch: Path

    def ours(
        self,
        mask: str,
        epochs: int,
        lr: float,
        cache: Path,
        *,
        few: bool = False,
        watch: bool = False,
    ) -> Ended:
        """The command of jtl.

        Args:
            mask: As in `--mask`.
            epochs: As in `--epochs`.
            lr: As in `--lr`.
            cache: As in `JTL_CACHE`.
            few: Whether to train on one batch only.
            watch: Whether the time to the first step is wanted.
        """
        run = self.scratch / f"run-{uuid.uuid4().hex}"
        first = run.with_name(f"{run.name}-first") if watch else None
        command = [sys.executable, "-m", "jtl.train"]
        if first is not None:
            script = BENCHMARKS / "peers" / "jtl_first_step.py"
            command = [sys.executable, str(script), str(first)]
        command += [f"--mask={mask}", f"--run-dir={run}"]
        # The peers augment nothing.
        command += [f"--data=folder:{self._data(few)}", "--augment=none"]
        command += self._options(epochs, lr)
        ended = timed(command, environment(JTL_CACHE=str(cache)), first)
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        assert (summary["epochs"], summary["frozen_unchanged"]) == (epochs, True), summary
        shutil.rmtree(run)
        return ended

    def theirs(self, mask: str, epochs: int, lr: float, few: bool = False) -> Ended:
        """The peer's script."""
        run = self.scratch / f"run-{uuid.uuid4().hex}"
        script = BENCHMARKS / "peers" / f"{self.peer}_train.py"
        command = [sys.executable, str(script), f"--mask={mask}", f"--out={run}"]
        command += [f"--data={self._data(few)}", *self._options(epochs, lr)]
        ended = timed(command, environment(), run / "log.jsonl")
        lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(lines[-1])["epoch"] == epochs, lines
        shutil.rmtree(run)
        return ended

    def cold(self) -> Path:
        """A cache folder with nothing in it: no features, programs or converted weights."""
        return self.scratch / f"cache-{uuid.uuid4().hex}"

    def _data(self, few: bool) -> Path:
        return (self.few if few else self.pictures).folder

    def _options(self, epochs: int, lr: float) -> list[str]:
        return [
            f"--model={self.model}",
            f"--weights={self.weights}",
            f"--epochs={epochs}",
            f"--batch-size={self.batch}",
            f"--image-size={self.size}",
            f"--lr={lr}",
        ]


def last_stage(job: Job, repeat: int) -> dict[str, tuple[Ended, Ended]]:
    """Ten epochs of the last stage and the head."""
    ours, theirs = _both(
        repeat,
        lambda: job.ours("last_stage", EPOCHS, LR, job.cold()),
        lambda: job.theirs("last_stage", EPOCHS, LR),
    )
    return {"last_stage_10": (ours, theirs)}


def head_only(job: Job, repeat: int) -> dict[str, tuple[Ended, Ended]]:
    """Ten epochs of the head; the same command again; again with another learning rate.

    The peer keeps nothing between runs, so that one run of it stands beside all three.
    """

    def three() -> list[Ended]:
        cache = job.cold()
        cold = job.ours("head_only", EPOCHS, LR, cache)
        second = job.ours("head_only", EPOCHS, LR, cache, watch=True)
        return [cold, second, job.ours("head_only", EPOCHS, OTHER_LR, cache)]

    (cold, second, warm), theirs = _both(repeat, three, lambda: job.theirs("head_only", EPOCHS, LR))
    return {
        "head_only_10_cold": (cold, theirs),
        "head_only_10_warm": (warm, theirs),
        "second_start": (second, theirs),
    }


def head_only_once(job: Job, repeat: int) -> dict[str, tuple[Ended, Ended]]:
    """One epoch of the head."""
    ours, theirs = _both(
        repeat,
        lambda: job.ours("head_only", 1, LR, job.cold()),
        lambda: job.theirs("head_only", 1, LR),
    )
    return {"head_only_1_cold": (ours, theirs)}


def second_start_full(job: Job, repeat: int) -> dict[str, tuple[Ended, Ended]]:
    """The longest program to compile: everything trains. One step, then the same again."""

    def twice() -> Ended:
        cache = job.cold()
        job.ours("full", 1, LR, cache, few=True)
        return job.ours("full", 1, LR, cache, few=True, watch=True)

    ours, theirs = _both(repeat, twice, lambda: job.theirs("full", 1, LR, few=True))
    return {"second_start_full": (ours, theirs)}


def _both(repeat: int, ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[Any, Any]:
    """Runs both; who is first alternates."""
    if repeat % 2 == 0:
        return ours(), theirs()
    other = theirs()
    return ours(), other


GROUPS: dict[Group, tuple[str, ...]] = {
    head_only_once: ("head_only_1_cold",),
    head_only: ("head_only_10_cold", "head_only_10_warm", "second_start"),
    last_stage: ("last_stage_10",),
    second_start_full: ("second_start_full",),
}
"""What is measured together, and the arms that come of it."""
ARMS = tuple(arm for arms in GROUPS.values() for arm in arms)
TO_FIRST_STEP = ("second_start", "second_start_full")
"""Arms whose time ends with the first step, not with the process."""


def measure(job: Job, group: Group, settings: TrainingSettings) -> list[dict[str, Any]]:
    """The rows of a group of arms."""
    rate = product_rate()
    pairs: dict[str, list[tuple[Ended, Ended]]] = {arm: [] for arm in GROUPS[group]}
    for repeat in range(settings.repeats):
        for arm, pair in group(job, repeat).items():
            pairs[arm].append(pair)
        for cache in job.scratch.glob("cache-*"):
            shutil.rmtree(cache)
    rows = []
    for arm, taken in pairs.items():
        seconds = [[_waited(arm, ended) for ended in side] for side in zip(*taken, strict=True)]
        row = {
            "kind": "training",
            "model": job.model,
            "arm": arm,
            "settings": dataclasses.asdict(settings),
            **compare(*seconds),
            "product_gflops": rate,
        }
        for side, ended in zip(("ours", "theirs"), zip(*taken, strict=True), strict=True):
            row[side]["median_seconds"] = statistics.median(row[side]["seconds"])
            row[side]["peak_bytes"] = max(one.peak_bytes for one in ended)
        rows.append(row)
    return rows


def _waited(arm: str, ended: Ended) -> float:
    if arm not in TO_FIRST_STEP:
        return ended.seconds
    assert ended.first_seconds is not None
    return ended.first_seconds
