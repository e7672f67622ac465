"""A run's checkpoints: the best and the latest epoch, each a whole model, through Orbax."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp

from jtl.common import hashes
from jtl.common.errors import UserError
from jtl.common.paths import plain_path
from jtl.common.trees import ParamTree
from jtl.distributed import processes

FOLDER = "checkpoints"
_JOINTLY = "jointly"
"""In what a checkpoint says of itself: whether many processes wrote it."""
CHECKPOINT_SECONDS = 30.0
"""At the most this much training is lost when a run is killed, at epoch granularity."""
FINGERPRINTS = "files.json"
"""In every checkpoint: SHA-256 of each of its items' files, by path."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A checkpoint read back.

    Attributes:
        epoch: The epoch after which it was taken, 1-based.
        variables: {"params", "batch_stats"}, the whole trees, float32 NumPy arrays.
        meta: What `save` was given as `meta`.
        opt_state: The optimizer's state, where it was asked for.
    """

    epoch: int
    variables: ParamTree
    meta: dict[str, Any]
    opt_state: Any = None


@contextlib.contextmanager
def manager(run_dir: Path) -> Iterator[ocp.CheckpointManager]:
    """An Orbax manager that keeps the latest checkpoint and the best one.

    Steps are epochs. Saving goes on in the background; the end of the `with` block waits for it.
    Many processes write one checkpoint together, into a folder that all of them see.
    """
    with plain_path(Path(run_dir, FOLDER).absolute()) as folder:
        opened = _manager(folder)
        try:
            yield opened
        except BaseException as error:
            # Closing waits for the other processes: for ever, if they are gone.
            if not processes.lost(error):
                opened.close()
            raise
        opened.close()


def _manager(folder: Path) -> ocp.CheckpointManager:

    def best(metrics: Any) -> float:
        return metrics["best"]

    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        best_fn=best,
        best_mode="max",
        cleanup_tmp_directories=True,
        # Called when all is written, before the checkpoint gets its final name.
        async_options=ocp.AsyncOptions(
            post_finalization_callback=lambda: write_fingerprints(folder)
        ),
        # `max_to_keep` with `best_fn` would drop the latest one, and a resume with it.
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(1), policies.BestN(get_metric_fn=best, n=1)]
        ),
    )
    return ocp.CheckpointManager(folder, options=options)


def write_fingerprints(folder: Path) -> None:
    """Notes SHA-256 of the files in every checkpoint that is whole but for its name."""
    for unfinished in folder.glob("*.orbax-checkpoint-tmp*"):
        # Beside the items' folders there is only a note that Orbax goes on to change.
        files = {k: v for k, v in hashes.of_files(unfinished).items() if "/" in k}
        text = json.dumps(files, indent=2)
        (unfinished / FINGERPRINTS).write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def _opened(run_dir: Path) -> Iterator[ocp.CheckpointManager]:
    """The manager of a folder with checkpoints; it reads their metrics at once."""
    with plain_path((run_dir / FOLDER).absolute()) as folder:
        try:
            opened = _manager(folder)
        except Exception as error:
            reasons = {path: damage(path) for path in folder.iterdir() if path.is_dir()}
            damaged = [f"{path.name} ({reason})" for path, reason in reasons.items() if reason]
            which = ", ".join(sorted(damaged)) or type(error).__name__
            raise UserError(
                f"the checkpoints in '{run_dir}' cannot be read: {which}. Remove the damaged "
                "checkpoint's folder to go on with the other one, or train again."
            ) from error
        with opened:
            yield opened


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None where they are as they were written."""
    try:
        files = json.loads((checkpoint / FINGERPRINTS).read_text(encoding="utf-8"))
        return hashes.damage(checkpoint, files)
    except (OSError, ValueError, AttributeError):
        return f"its {FINGERPRINTS} is missing or unreadable"


def numbers(folder: Path) -> list[int]:
    """The numbers of a folder's finished checkpoints, ascending, by their names alone."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())


def saved_epochs(run_dir: Path) -> list[int]:
    """The epochs of a run's finished checkpoints, ascending; they are not opened."""
    return numbers(run_dir / FOLDER)


def latest_epoch(run_dir: Path) -> int:
    """The epoch of a run's latest checkpoint, 0 without one."""
    if not (run_dir / FOLDER).is_dir():
        return 0
    with _opened(run_dir) as checkpoints:
        return checkpoints.latest_step() or 0


def save(
    checkpoints: ocp.CheckpointManager,
    epoch: int,
    variables: ParamTree,
    opt_state: Any,
    metrics: dict[str, float],
    meta: dict[str, Any],
) -> None:
    """Starts saving a checkpoint; it is whole on disk once the manager is closed or waited for.

    Args:
        checkpoints: As `manager` gives it.
        epoch: The epoch that has ended; saved once, ascending.
        variables: The whole {"params", "batch_stats"}, frozen leaves included, so that
            reading a run needs no mask.
        opt_state: The optimizer's state.
        metrics: At least `best`: the higher, the better the checkpoint.
        meta: What else a reader needs to rebuild the model; JSON.
    """
    items: dict[str, Any] = {
        "variables": ocp.args.PyTreeSave(variables),
        "meta": ocp.args.JsonSave({**meta, _JOINTLY: processes.several()}),
    }
    if jax.tree.leaves(opt_state):  # Orbax refuses a tree without leaves.
        items["opt_state"] = ocp.args.StandardSave(opt_state)
    checkpoints.save(epoch, metrics=metrics, args=ocp.args.Composite(**items))


def restore(
    run_dir: Path, which: Literal["best", "latest"] = "best", opt_state: Any = None
) -> Restored:
    """Reads a run's checkpoint.

    Args:
        run_dir: The run's folder.
        which: The checkpoint of best validation accuracy, or the latest.
        opt_state: A state of the structure that was saved, to get the optimizer's state too.

    Raises:
        UserError: `run_dir` is no run, or its checkpoints are missing or damaged.
    """
    if not (run_dir / FOLDER).is_dir():
        raise UserError(
            f"'{run_dir}' is not a run: it has no '{FOLDER}' folder. Give a folder that "
            "`python -m jtl.train` wrote."
        )
    with _opened(run_dir) as checkpoints:
        epoch = checkpoints.best_step() if which == "best" else checkpoints.latest_step()
        if epoch is None:
            raise UserError(
                f"'{run_dir}' holds no finished checkpoint: go on with it (`python "
                f"-m jtl.train --resume --run-dir {run_dir}`), or train again."
            )
        unreadable = f"the checkpoint of epoch {epoch} in '{run_dir}' cannot be read: "
        if reason := damage(run_dir / FOLDER / str(epoch)):
            raise UserError(unreadable + reason)
        try:
            saved = _read(checkpoints, epoch, opt_state)
        # Orbax and TensorStore raise many types for what they cannot read (another version's
        # checkpoint, a failing disk); all mean the same here.
        except Exception as error:
            raise UserError(unreadable + (str(error).splitlines() or [""])[0]) from error
    variables = jax.tree.map(np.asarray, saved["variables"])
    state = None if opt_state is None else saved["opt_state"]
    return Restored(epoch, variables, saved["meta"], state)


def _read(checkpoints: ocp.CheckpointManager, epoch: int, opt_state: Any) -> dict[str, Any]:
    """The items of a checkpoint."""
    meta = checkpoints.restore(epoch, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
    # As NumPy arrays, as they were saved; a standard restore puts them on a device.
    numpy = None
    if meta.pop(_JOINTLY, False):
        # Saved from many devices, and Orbax would put them there again.
        handler = ocp.PyTreeCheckpointHandler()
        saved: Any = handler.metadata(checkpoints.directory / str(epoch) / "variables")
        numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), saved.tree)
    items: dict[str, Any] = {"variables": ocp.args.PyTreeRestore(restore_args=numpy)}
    if opt_state is not None:
        items["opt_state"] = ocp.args.StandardRestore(opt_state)
    restored: Any = checkpoints.restore(epoch, args=ocp.args.Composite(**items))
    return {**restored, "meta": meta}
