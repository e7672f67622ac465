"""`python -m jtl.train` in a process that knows the tiny backbone, and may get a signal in a step.

`TINY_SIGNAL=STEP:NUMBER` sends the process itself a signal when it has dispatched so many steps one
by one. `TINY_SAVES` saves within an epoch after every step. One of several processes asks the
others after every step. Command lines with `--then` between them run one after the other.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import signal
import sys
from typing import Any

import pytest

from jtl.cli import app
from jtl.config.options import Config
from jtl.models import registry
from jtl.runs import agreement, midway
from jtl.train import command as train
from jtl.train.trainer import Trainer
from support import tiny


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
    save = midway.Saver.save

    def waiting(saver: midway.Saver, *args: Any) -> None:
        save(saver, *args)
        saver._opened().wait_until_finished()

    patch.setattr(midway.Saver, "save", waiting)
    patch.setattr(midway.Saver, "due", lambda *_: True)


def commands() -> list[list[str]]:
    told: list[list[str]] = [[]]
    for word in sys.argv[1:]:
        told.append([]) if word == "--then" else told[-1].append(word)
    return told


if __name__ == "__main__":
    registry._ENTRIES[tiny.ENTRY.name] = tiny.ENTRY
    # What shells start in the background ignores it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    patch = pytest.MonkeyPatch()
    patch.setattr(agreement, "ASK_SECONDS", 0.0)
    if "TINY_SAVES" in os.environ:
        save_after_every_step(patch)
    if asked := os.environ.get("TINY_SIGNAL"):
        signal_itself(patch, *map(int, asked.split(":")))
    code = 0
    for arguments in commands():
        sys.argv[1:] = arguments
        code = code or app.main(Config, train.command, prog="tiny_train")
    app.end(code)
