"""Trainings of the tiny backbone in real processes, and what their folders hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jtl.runs.checkpoints import reading
from support import commands, tiny_train
from support.paths import SUPPORT

SCRIPT = SUPPORT / "tiny_train.py"
BOUND = 300.0
TIMES = ("seconds", "images_per_second", "elapsed")


def arguments(
    data: Path, folder: Path, *more: str, mask: str = "full", epochs: int = 6
) -> list[str]:
    return [
        *("--model=tiny", f"--weights={data.parent / 'weights'}", f"--data=folder:{data}"),
        *("--batch-size=4", f"--mask={mask}", f"--epochs={epochs}", f"--run-dir={folder}", *more),
    ]


def started(words: list[str], **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *words],
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=BOUND)
    return process.returncode, out, err


def run(words: list[str], **environment: str) -> tuple[int, str, str]:
    return ended(started(words, **environment))


def stopped(words: list[str], step: int) -> int:
    """`run` with a SIGTERM after so many steps, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_train.signal_itself(patch, step, signal.SIGTERM)
        return commands.main("train", *words)


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(x).items() if k not in TIMES} for x in lines]


def assert_same(folder: Path, whole: Path) -> None:
    assert figures(folder) == figures(whole)
    for which in ("latest", "best"):
        ours, theirs = (reading.restore(x, which) for x in (folder, whole))
        assert ours.epoch == theirs.epoch
        jax.tree.map(np.testing.assert_array_equal, ours.variables, theirs.variables)
