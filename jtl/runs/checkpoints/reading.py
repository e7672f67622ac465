"""Reading a run's checkpoints.

A reader may come while the run trains. So nothing here writes, removes or locks anything; it goes
by the names that Orbax gives to finished checkpoints, and looks again if one disappears.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np

from jtl.common import hashes
from jtl.common.errors import UserError, first_line
from jtl.common.orbax_arrays import read_by_orbax, read_tree
from jtl.common.paths import plain_path
from jtl.runs.checkpoints.contents import (
    FINGERPRINTS,
    FOLDER,
    FORMAT_VERSION,
    TEMPORARY_FOLDER,
    WITH_ADAPTERS,
    WITH_TWO_DTYPES,
    Restored,
    TemporaryCheckpoint,
    temporary_items,
)
from jtl.runs.files import missing_run
from jtl.runs.lock import is_written_by_another

ATTEMPTS = 50
"""How often a reader chooses a checkpoint that a training run has replaced before it is read."""

_State = TypeVar("_State")
_Sums = TypeVar("_Sums")


def numbers(folder: Path) -> list[int]:
    """The numbers of a folder's finished checkpoints, ascending, by their names alone."""
    try:
        names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if name.isdecimal())


def saved_epochs(run_dir: Path) -> list[int]:
    """The epochs of a run's permanent checkpoints, ascending; they are not opened."""
    return numbers(run_dir / FOLDER)


def has_any(run_dir: Path) -> bool:
    """Whether there is a finished checkpoint of either kind."""
    return bool(saved_epochs(run_dir) or numbers(run_dir / TEMPORARY_FOLDER))


def damage(checkpoint: Path, without: str | None = None) -> str | None:
    """What is wrong with a checkpoint's files; None where they are as they were written.

    Args:
        checkpoint: Its folder.
        without: An item that is not looked at.
    """
    try:
        files = json.loads((checkpoint / FINGERPRINTS).read_text(encoding="utf-8"))
        files = {k: v for k, v in files.items() if not (without and k.startswith(f"{without}/"))}
        return hashes.damage(checkpoint, files)
    except (OSError, ValueError, AttributeError):
        return f"its {FINGERPRINTS} is missing or unreadable"


class _Replaced(Exception):
    """The run has removed a checkpoint between its being chosen and its being read."""


def restore(
    run_dir: Path, which: Literal["best", "latest"] = "best", opt_state: Any = None
) -> Restored:
    """Reads a run's permanent checkpoint; the run may be training.

    Args:
        run_dir: The run's folder.
        which: The checkpoint of best validation accuracy, or the latest.
        opt_state: A tree of the structure that was saved, to get the optimizer's state too.

    Raises:
        UserError: `run_dir` is no run, or it has no checkpoint that can be used: none is finished,
            or it is damaged or of another version.
    """
    if (message := missing_run(run_dir)) is not None:
        raise UserError(message)
    if not (run_dir / FOLDER).is_dir():
        raise UserError(
            f"'{run_dir}' is not a run: it has no '{FOLDER}' folder. Name a folder that `jtl "
            "train` wrote."
        )
    for _ in range(ATTEMPTS):
        try:
            epoch = _chosen(run_dir, which)
            with contextlib.ExitStack() as stack:
                return _restored(run_dir, epoch, opt_state, stack)
        except _Replaced:
            time.sleep(0.01)
    raise UserError(
        f"the checkpoints in '{run_dir}' change faster than jtl can read them. Try again, or "
        "wait until the run has ended."
    )


def check(run_dir: Path) -> None:
    """Makes sure that the notes which tell a run's checkpoints apart can be read.

    Raises:
        UserError: They are damaged.
    """
    _scores(run_dir)


def _chosen(run_dir: Path, which: Literal["best", "latest"]) -> int:
    scores = _scores(run_dir)
    if not scores:
        raise UserError(
            f"'{run_dir}' has no finished checkpoint. Continue the run (`jtl train "
            f"--resume --run-dir {run_dir}`), or train again."
        )
    if which == "latest":
        return max(scores)
    return max(scores, key=lambda epoch: (scores[epoch], epoch))


def _scores(run_dir: Path) -> dict[int, float]:
    """How good each permanent checkpoint is, by epoch; the later of two best is the better one."""
    scores, bad = {}, []
    for epoch in saved_epochs(run_dir):
        folder = run_dir / FOLDER / str(epoch)
        try:
            scores[epoch] = float(_read_json(folder / "metrics" / "metrics")["best"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            if not folder.exists():
                raise _Replaced from error
            bad.append(f"{epoch} ({damage(folder) or 'its metrics are missing or unreadable'})")
    if bad:
        raise UserError(
            f"the checkpoints in '{run_dir}' cannot be read: {', '.join(bad)}. Delete the "
            "damaged checkpoint's folder to continue from the other one, or train again."
        )
    return scores


def _restored(run_dir: Path, epoch: int, opt_state: Any, stack: contextlib.ExitStack) -> Restored:
    saved = path = run_dir / FOLDER / str(epoch)
    without = "opt_state" if opt_state is None else None
    try:
        if is_written_by_another(run_dir):
            # TensorStore's threads would go on to complain of files that are gone meanwhile.
            with contextlib.suppress(OSError):  # No room for a copy.
                room = stack.enter_context(tempfile.TemporaryDirectory(prefix="jtl-"))
                ignore = shutil.ignore_patterns(without) if without else None
                path = Path(shutil.copytree(saved, Path(room, saved.name), ignore=ignore))
        if reason := damage(path, None if path == saved else without):
            raise ValueError(reason)
        meta = _read_json(path / "meta" / "metadata")
        meta.pop("jointly", None)  # Written by earlier versions.
        readable = (FORMAT_VERSION, WITH_ADAPTERS, WITH_TWO_DTYPES)
        if (version := meta.get("format_version", FORMAT_VERSION)) not in readable:
            raise ValueError(
                f"its format is version {version}, but this version of jtl reads versions "
                f"{FORMAT_VERSION} to {WITH_TWO_DTYPES}"
            )
        sha256 = hashes.sha256(path / FINGERPRINTS)
        with plain_path(path.absolute()) as folder:
            return Restored(epoch, *_read_arrays(folder, meta, opt_state), sha256)
    # Orbax and TensorStore raise many types for what they cannot read (another version's
    # checkpoint, a failing disk); all mean the same here.
    except Exception as error:
        if not saved.exists():
            raise _Replaced from error
        raise UserError(
            f"the checkpoint of epoch {epoch} in '{run_dir}' cannot be read: {first_line(error)}"
        ) from error


def _read_arrays(folder: Path, meta: dict[str, Any], opt_state: Any) -> tuple[Any, Any, Any]:
    """The variables, the metadata and the optimizer's state, where it is asked for."""
    variables = read_tree(folder / "variables")
    if opt_state is None or not jax.tree.leaves(opt_state):
        return variables, meta, opt_state  # A tree without leaves is not saved.
    return variables, meta, read_by_orbax(folder / "opt_state", opt_state)


def find_temporary(run_dir: Path, message: Callable[[str], None]) -> TemporaryCheckpoint | None:
    """The temporary checkpoint to go on from, or None where none can be used.

    Args:
        run_dir: The run's folder.
        message: Told of one that is damaged, or lacks the permanent checkpoints beside it.
    """
    epochs = saved_epochs(run_dir)
    for step in reversed(numbers(run_dir / TEMPORARY_FOLDER)):
        path = run_dir / TEMPORARY_FOLDER / str(step)
        which = f"the checkpoint within an epoch '{path}'"
        try:
            if reason := damage(path):
                raise ValueError(reason)
            stored = _read_json(path / "place" / "metadata")
            at = TemporaryCheckpoint(**{**stored, "checkpoints": tuple(stored["checkpoints"])})
        except (OSError, ValueError, TypeError, LookupError) as error:
            message(f"{which} cannot be used: {first_line(error)}")
            continue
        latest = max(epochs, default=0)
        if at.epoch <= latest:
            continue
        if at.latest != latest or not set(at.checkpoints) <= set(epochs):
            named = ", ".join(map(str, at.checkpoints)) or "none"
            message(f"{which} cannot be used: it belongs to other epoch checkpoints ({named})")
            continue
        return at
    return None


def restore_temporary(
    run_dir: Path, at: TemporaryCheckpoint, state: _State, sums: _Sums
) -> tuple[_State, _Sums]:
    """Reads a temporary checkpoint.

    Args:
        run_dir: The run's folder.
        at: As `find_temporary` gave it.
        state: A `TrainState` of the phase, for the structure, the places of arrays and the key.
        sums: Sums of the structure that was saved.

    Raises:
        UserError: It cannot be read.
    """
    import orbax.checkpoint as ocp  # Late: who only predicts does without.

    path = run_dir / TEMPORARY_FOLDER / str(at.step)
    # As NumPy's, sums go with arrays on any devices.
    template = temporary_items(state, jax.tree.map(np.asarray, sums))
    try:
        with plain_path(path.absolute()) as folder:
            args = ocp.args.StandardRestore(template)
            handler: Any = ocp.StandardCheckpointHandler()
            restored = handler.restore(folder / "state", args=args)
    except Exception as error:  # As in `_restored`.
        raise UserError(
            f"the checkpoint within epoch {at.epoch}, '{path}', cannot be read: "
            f"{first_line(error)}. Delete '{path.parent}' to continue after epoch {at.latest}."
        ) from error
    sums = restored.pop("sums")
    return dataclasses.replace(state, **restored), sums  # pyright: ignore[reportArgumentType]


def _read_json(path: Path) -> dict[str, Any]:
    """An object without NaN or infinity, which no JSON has and no figure here may be.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such object.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{path.parent.name} contains {constant}, which is not a number")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    if not isinstance(content, dict):
        raise ValueError(f"{path.parent.name} does not contain a JSON object")
    return content
