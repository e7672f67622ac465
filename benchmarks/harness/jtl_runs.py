"""Whole trainings by `python -m jtl.train`, each in a process of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import machine
from harness.runs import Ended, timed


@dataclasses.dataclass(frozen=True)
class Trained:
    """A training that has ended well.

    Attributes:
        ended: Its process.
        summary: The content of `summary.json`.
        epochs: The lines of `metrics.jsonl`, each with `at`: seconds from the process's start to
            the end of the epoch, evaluation included.
    """

    ended: Ended
    summary: dict[str, Any]
    epochs: list[dict[str, Any]]

    def values(self, key: str) -> list[Any]:
        """A figure of every epoch."""
        return [line[key] for line in self.epochs]


def train(
    options: Sequence[str],
    scratch: Path,
    cache: Path,
    variables: Mapping[str, str] | None = None,
) -> Trained:
    """Trains, reads what the run tells, and removes its folder.

    Args:
        options: Of `python -m jtl.train`, but `--run-dir`.
        scratch: A folder for the run.
        cache: As in `JTL_CACHE`; stays.
        variables: More of the process's environment.

    Raises:
        SystemExit: The training failed; its message is shown.
    """
    run = scratch / f"run-{uuid.uuid4().hex}"
    command = [sys.executable, "-m", "jtl.train", *options, f"--run-dir={run}"]
    metrics = run / "metrics.jsonl"
    environment = machine.environment(JTL_CACHE=str(cache), **(variables or {}))
    ended = timed(command, environment, metrics)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    epochs = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    shutil.rmtree(run)
    if not summary["frozen_unchanged"]:
        raise SystemExit(f"frozen leaves have changed: {' '.join(command)}")
    assert ended.first_seconds is not None
    # A run counts its seconds from when its data and weights are there.
    before = ended.first_seconds - epochs[0]["elapsed"]
    return Trained(ended, summary, [{**line, "at": before + line["elapsed"]} for line in epochs])
