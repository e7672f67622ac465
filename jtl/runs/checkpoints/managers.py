"""Orbax's part in saving a run: which checkpoints it keeps, and how others go."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from jtl.common import hashes
from jtl.distributed import processes
from jtl.runs.checkpoints.contents import FINGERPRINTS, TEMPORARY_FOLDER
from jtl.runs.checkpoints.reading import numbers

_REMOVED = "removed"
"""Where checkpoints are moved before they are deleted, so that no reader finds a part of one."""


def write_fingerprints(folder: Path) -> None:
    """Notes SHA-256 of the files in every checkpoint that is whole but for its name."""
    for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
        # Beside the items' folders there is only a note that Orbax goes on to change.
        files = {k: v for k, v in hashes.of_files(unfinished).items() if "/" in k}
        text = json.dumps(files, indent=2)
        (unfinished / FINGERPRINTS).write_text(text + "\n", encoding="utf-8")


def remove_temporary(run_dir: Path) -> None:
    """Removes temporary checkpoints; one that is half removed is found by nobody."""
    if not processes.is_primary():
        return
    removed = run_dir / f"{TEMPORARY_FOLDER}.removed"
    shutil.rmtree(removed, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        (run_dir / TEMPORARY_FOLDER).rename(removed)
    shutil.rmtree(removed, ignore_errors=True)


def permanent_manager(folder: Path) -> ocp.CheckpointManager:
    """An Orbax manager that keeps the latest checkpoint and the best one; its steps are epochs."""

    def best(metrics: Any) -> float:
        return metrics["best"]

    def finalized() -> None:
        write_fingerprints(folder)
        delete_removed(folder)

    delete_removed(folder)
    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        best_fn=best,
        best_mode="max",
        cleanup_tmp_directories=True,
        todelete_subdir=_REMOVED,
        # Called when all is written, before the checkpoint gets its final name.
        async_options=ocp.AsyncOptions(post_finalization_callback=finalized),
        # `max_to_keep` with `best_fn` would drop the latest one, and a resume with it.
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(1), policies.BestN(get_metric_fn=best, n=1)]
        ),
    )
    return ocp.CheckpointManager(folder, options=options)


def temporary_manager(folder: Path, written: Callable[[], None]) -> ocp.CheckpointManager:
    """An Orbax manager that keeps one checkpoint; its steps are the run's."""

    def finalized() -> None:
        write_fingerprints(folder)
        written()

    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=finalized),
    )
    return ocp.CheckpointManager(folder, options=options)


def delete_removed(folder: Path) -> None:
    """Deletes the permanent checkpoints that have been moved out of the readers' way."""
    if processes.is_primary():
        shutil.rmtree(folder / _REMOVED, ignore_errors=True)


def remove_others(folder: Path, step: int | None) -> None:
    """Removes all temporary checkpoints but that of a step: Orbax saves none before another."""
    if not processes.is_primary():
        return
    for other in numbers(folder):
        if other != step:
            shutil.rmtree(folder / str(other), ignore_errors=True)
