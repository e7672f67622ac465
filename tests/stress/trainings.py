"""Trainings in real processes that end in seconds, and what they have come to."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PHASES, EPOCHS = 4, 2
"""Of a training, and of each phase; a checkpoint is saved after each."""
TIMES = ("seconds", "images_per_second", "elapsed")
"""What no two runs have in common of an epoch's figures."""
OFTEN = """
import runpy
from jtl.runs.checkpoints import saving
saving.DEFAULT_POLICY = saving.CheckpointPolicy(seconds=0.0, share=float("inf"))
runpy.run_module("jtl.train", run_name="__main__", alter_sys=True)
"""
"""Trains, and saves as often as the disk takes it."""


def write_images(folder: Path, count: int, size: int, classes: int = 3) -> Path:
    """A folder of classes with noisy one-coloured PNGs, `count` of them altogether."""
    draw = np.random.default_rng(0)
    for index in range(count):
        kind = index % classes
        pixels = draw.integers(0, 150, (size, size, 3), np.uint8)
        pixels[..., kind % 3] += np.uint8(60 + 30 * (kind // 3))
        path = folder / f"class-{kind}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def program(*, often: bool = False) -> list[str]:
    """`python -m jtl.train`, which may save more often."""
    return [sys.executable, *(("-c", OFTEN) if often else ("-m", "jtl.train"))]


def command(
    data: Path,
    folder: Path,
    *,
    smoke: bool = False,
    often: bool = False,
    by: Sequence[str] | None = None,
) -> list[str]:
    """A training of four phases.

    Args:
        data: Class folders of images.
        folder: Of the run.
        smoke: Whether only heads train, which compiles little.
        often: Whether it saves as often as the disk takes it, and step by step.
        by: The program and its first options; default jtl's default backbone by `program`.
    """
    # Augmented images take heads through epochs step by step.
    augment = ("--augment", "light") if smoke and often else ()
    masks = ("head_only", "head_only" if smoke else "last_stage")
    phases = ";".join(f"{EPOCHS},{masks[i % 2]},1e-{2 + i % 2}" for i in range(PHASES))
    return [
        *(*(by or program(often=often)), "--data", f"folder:{data}", "--image-size", "32"),
        *("--phases", phases, "--batch-size", "4", "--ema", "0.9", "--accumulate", "2"),
        *("--run-dir", str(folder), *augment),
    ]


def run(arguments: list[str]) -> None:
    """A process that must end well."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stderr}")


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The figures of the epochs that are done; a line that is being written is none."""
    metrics = folder / "metrics.jsonl"
    text = metrics.read_text(encoding="utf-8") if metrics.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def done(folder: Path) -> int:
    """How many epochs are done."""
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.is_file() else 0


def final_bits(folder: Path) -> dict[str, Any]:
    """What a run has come to.

    Returns:
        The arrays of its best and its latest checkpoint, the optimizer's of the latter among them,
        as bytes; and the figures of all epochs, without times.
    """
    import jax
    import orbax.checkpoint as ocp

    from jtl.runs.checkpoints import reading
    from jtl.runs.checkpoints.contents import FOLDER

    found: dict[str, Any] = {
        "figures": [{k: v for k, v in line.items() if k not in TIMES} for line in lines_of(folder)]
    }
    for which in ("best", "latest"):
        restored = reading.restore(folder, which)
        found[f"{which} epoch"] = restored.epoch
        found[which] = [leaf.tobytes() for leaf in jax.tree.leaves(restored.variables)]
    kept = folder / FOLDER / str(found["latest epoch"]) / "opt_state"
    with ocp.PyTreeCheckpointer() as checkpointer:
        state = checkpointer.restore(kept.absolute())
    found["optimizer"] = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
    return found
