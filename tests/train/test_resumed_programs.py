"""A resumed run finds the programs that it compiled before it was stopped, in real processes."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("warm_starts")]

COMPILED = ("jit__train_step", "jit_train_epoch", "jit_forward", "jit_score")
"""What takes long to compile in larger networks."""


def program(name: str) -> str:
    """What a file of the cache is named after, without its key."""
    return name.rpartition("-")[0]


def train(data: Path, cache: Path, *options: str, signal_at: str | None = None) -> set[str]:
    """A training in a process of its own; the names of the programs that the cache holds then."""
    env = {
        **os.environ,
        "JTL_CACHE": str(cache / "jtl"),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    if signal_at:
        env["TINY_SIGNAL"] = f"{signal_at}:{signal.SIGTERM:d}"
    command = [sys.executable, "-m", "support.tiny_train", *options]
    ended = subprocess.run(
        command, env=env, capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert ended.returncode == (128 + signal.SIGTERM if signal_at else 0), ended.stderr
    programs = {path.name.removesuffix("-cache") for path in cache.glob("*-cache")}
    return {name for name in programs if name.rpartition("-")[0] in COMPILED}


def words(data: Path, mask: str) -> list[str]:
    return [
        *("--model", "tiny", "--weights", str(data.parent / "weights")),
        *("--data", f"folder:{data}", "--mask", mask, "--batch-size", "4"),
        *("--epochs", "4", "--optimizer", "adamw"),
    ]


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """The programs of a run that nobody stops, by name."""

    @functools.cache
    def programs(mask: str) -> list[str]:
        folder = tmp_path_factory.mktemp("whole")
        options = [*words(tiny_data, mask), "--run-dir", str(folder / "run")]
        return sorted(map(program, train(tiny_data, folder / "cache", *options)))

    return programs


# Nine images in batches of two: the signal comes within the second epoch, or at its end.
@pytest.mark.parametrize(("mask", "step"), [("full", "6"), ("full", "8"), ("last_stage", "6")])
def test_a_resumed_run_compiles_nothing_anew(
    tiny_data: Path, whole: Callable[[str], list[str]], tmp_path: Path, mask: str, step: str
):
    run, cache = tmp_path / "run", tmp_path / "cache"
    options = words(tiny_data, mask)
    before = train(tiny_data, cache, *options, "--run-dir", str(run), signal_at=step)
    assert {program(name) for name in before} >= {"jit__train_step", "jit_forward"}
    after = train(tiny_data, cache, "--resume", "--run-dir", str(run))
    assert before <= after
    # By name: the keys of two cache folders differ.
    assert sorted(map(program, after)) == whole(mask)
    assert (run / "summary.json").exists()
