"""`python -m jtl.train` in a process that knows the tiny backbone, and may get a signal in a step.

`TINY_SIGNAL=STEP:NUMBER` sends the process itself a signal when it has dispatched so many steps one
by one, `TINY_FEATURES=BATCHES:NUMBER` when features of so many batches are computed. `TINY_SAVES`
saves within an epoch after every step, `TINY_OFTEN` as often as the disk takes it. One of several
processes asks the others after every step. Command lines with `--then` between them run one after
the other.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import functools
import signal
import sys
from typing import Any

import pytest

from jtl.cache import features
from jtl.cli import app
from jtl.config.options import Config
from jtl.models import registry
from jtl.runs.checkpoints import saving
from jtl.train import command as train
from jtl.train import loop
from jtl.train.trainer import Trainer
from support import quick, tiny


def signal_itself(patch: pytest.MonkeyPatch, at: int, number: int) -> None:
    taken, step = 0, Trainer._step

    def counted(trainer: Trainer, *args: Any) -> Any:
        nonlocal taken
        metrics, taken = step(trainer, *args), taken + 1
        if taken == at:
            os.kill(os.getpid(), number)
        return metrics

    patch.setattr(Trainer, "_step", counted)


def save_after_every_step(patch: pytest.MonkeyPatch) -> None:
    class Waiting(saving.Checkpointer):
        temporary_due = True

        def save_temporary(self, progress: Any) -> None:
            super().save_temporary(progress)
            self._opened_temporary().wait_until_finished()

    patch.setattr(loop, "Checkpointer", Waiting)


def signal_in_features(patch: pytest.MonkeyPatch, at: int, number: int) -> None:
    extract = features.extract

    def counted(*args: Any, **options: Any) -> Any:
        for batch, rows in enumerate(extract(*args, **options), 1):
            yield rows
            if batch == at:
                os.kill(os.getpid(), number)

    patch.setattr(features, "extract", counted)


def commands() -> list[list[str]]:
    told: list[list[str]] = [[]]
    for word in sys.argv[1:]:
        told.append([]) if word == "--then" else told[-1].append(word)
    return told


if __name__ == "__main__":
    registry.ENTRIES[tiny.ENTRY.name] = tiny.ENTRY
    # What shells start in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    patch = pytest.MonkeyPatch()
    often = {"seconds": 0.0, "share": float("inf")} if "TINY_OFTEN" in os.environ else {}
    policy = saving.CheckpointPolicy(sync_seconds=0.0, **often)
    patch.setattr(saving, "DEFAULT_POLICY", policy)
    if "TINY_SAVES" in os.environ:
        save_after_every_step(patch)
    if asked := os.environ.get("TINY_FEATURES"):
        signal_in_features(patch, *map(int, asked.split(":")))
    if asked := os.environ.get("TINY_SIGNAL"):
        signal_itself(patch, *map(int, asked.split(":")))
    quick.spare(patch)
    quick.lower_and_keep(patch)
    command = functools.partial(train.command, background_plots=False)
    code = 0
    for arguments in commands():
        sys.argv[1:] = arguments
        code = code or app.main(Config, command, prog="tiny_train")
    app.end(code)
