"""Checkpoints within an epoch, from which a run goes on with the next batch.

A long epoch would be lost as a whole where a run is stopped or killed in it. So what the steps
change is saved within it, by Orbax, in a folder of its own: RUN/midway/STEP. The order of the
batches and all random draws follow from seed, epoch and step; frozen leaves are in the latest
epoch's checkpoint, or in the weights that the run began with. So a checkpoint within an epoch is of
use beside the checkpoints of epochs that it names, and until its own epoch has one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from jtl.common.errors import UserError
from jtl.common.paths import plain_path
from jtl.distributed import processes
from jtl.runs import checkpoint

FOLDER = "midway"
SHARE = 0.02
"""Of the time, that saving within epochs may take."""

State = TypeVar("State")
Sums = TypeVar("Sums")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where in a run a checkpoint within an epoch was taken.

    Attributes:
        step: Steps that the run had taken; the checkpoint's number.
        epoch: That was under way, 1-based.
        batches: Of the epoch, that were done.
        seconds: That these took.
        elapsed: Seconds of the whole run until then.
        checkpoints: The epochs whose checkpoints there were, ascending.
    """

    step: int
    epoch: int
    batches: int
    seconds: float
    elapsed: float
    checkpoints: tuple[int, ...]

    @property
    def latest(self) -> int:
        """The epoch of the latest checkpoint there was, 0 without one."""
        return max(self.checkpoints, default=0)


class Saver:
    """Saves within epochs, seldom enough to cost little."""

    def __init__(self, run_dir: Path, last: Place | None = None):
        """Takes a run's folder, and the place that it goes on from; see `opened`."""
        self._run_dir, self._last = run_dir, last
        self._checkpoints: ocp.CheckpointManager | None = None
        self._open = contextlib.ExitStack()
        self._began = self._saved_at = time.perf_counter()
        # Seconds from the last save's begin until all was on disk; infinite while it is not.
        self._cost = 0.0

    def due(self, saved_at: float) -> bool:
        """Whether it is time to save.

        Args:
            saved_at: When something else of the run was saved, by `time.perf_counter`.
        """
        spacing = max(checkpoint.CHECKPOINT_SECONDS, self._cost / SHARE)
        return time.perf_counter() - max(self._saved_at, saved_at) > spacing

    def save(self, place: Place, state: Any, sums: Any) -> None:
        """Starts saving; what was saved within an epoch before goes once this is on disk.

        Many processes save together, and the first one's place is kept.

        Args:
            place: Where the run stands; its steps are more than at the save before.
            state: The `TrainState` after the last step.
            sums: The sums over the epoch's examples so far.
        """
        self._began, self._cost = time.perf_counter(), math.inf
        items = ocp.args.Composite(
            # Arrays as they are on their devices: each process writes its own.
            state=ocp.args.StandardSave(_saved(state, sums)),
            place=ocp.args.JsonSave(dataclasses.asdict(place)),
        )
        self._opened().save(place.step, args=items)
        self._last, self._saved_at = place, time.perf_counter()

    def outdated(self, begun: float = math.inf) -> bool:
        """Whether the checkpoint's epoch has one itself.

        Args:
            begun: The last epoch of which a checkpoint has been begun.
        """
        if self._last is None or begun < self._last.epoch:
            return False
        return max(checkpoint.saved_epochs(self._run_dir), default=0) >= self._last.epoch

    def remove(self) -> None:
        """Removes what there is; waits until all is on disk before, in each process."""
        self.close()
        self._last = None
        remove(self._run_dir)

    def close(self) -> None:
        """Waits until all is on disk."""
        self._open.close()
        self._checkpoints = None

    def _opened(self) -> ocp.CheckpointManager:
        if self._checkpoints is not None:
            return self._checkpoints
        folder = self._open.enter_context(plain_path((self._run_dir / FOLDER).absolute()))
        # Orbax saves no step before one that it finds, and each process looks for itself.
        last = None if self._last is None else self._last.step
        processes.together(lambda: _remove_others(folder, last))
        opened = self._open.enter_context(_manager(folder, self._written))
        self._checkpoints = opened
        return opened

    def _written(self) -> None:
        self._cost = time.perf_counter() - self._began


@contextlib.contextmanager
def opened(run_dir: Path, last: Place | None = None) -> Iterator[Saver]:
    """What saves within the epochs of a run.

    The end of the `with` block waits until all is on disk, and removes a checkpoint whose epoch has
    one itself; what saves epochs must have ended before.

    Args:
        run_dir: The run's folder.
        last: The place that the run goes on from.
    """
    saver = Saver(run_dir, last)
    try:
        yield saver
    except BaseException as error:
        # Closing waits for the other processes: for ever, if they are gone.
        if not processes.lost(error):
            _end(saver)
        raise
    _end(saver)


def _end(saver: Saver) -> None:
    saver.close()
    if saver.outdated():
        saver.remove()


def found(run_dir: Path, tell: Callable[[str], None]) -> Place | None:
    """The place to go on from, or None where no checkpoint within an epoch can be used.

    Args:
        run_dir: The run's folder.
        tell: Told of a checkpoint that is damaged, or that lacks those of the epochs before.
    """
    epochs = checkpoint.saved_epochs(run_dir)
    for step in reversed(checkpoint.numbers(run_dir / FOLDER)):
        which = f"the checkpoint within an epoch '{run_dir / FOLDER / str(step)}'"
        if reason := checkpoint.damage(run_dir / FOLDER / str(step)):
            tell(f"{which} cannot be used: {reason}")
            continue
        try:
            # By itself: Orbax's managers are for what all processes read together.
            at: Any = run_dir / FOLDER / str(step) / "place"
            told = ocp.JsonCheckpointHandler().restore(at)
            place = Place(**{**told, "checkpoints": tuple(told["checkpoints"])})
        except Exception as error:  # Orbax raises many types for what it cannot read.
            tell(f"{which} cannot be used: {_first_line(error)}")
            continue
        latest = max(epochs, default=0)
        if place.epoch <= latest:
            continue
        if place.latest != latest or not set(place.checkpoints) <= set(epochs):
            named = ", ".join(map(str, place.checkpoints)) or "none"
            tell(f"{which} cannot be used: it belongs to other checkpoints of epochs ({named})")
            continue
        return place
    return None


def check_same_place(place: Place | None) -> None:
    """Makes sure that all processes go on from the same place.

    Raises:
        UserError: They have found different ones.
    """
    told = processes.gathered([place.epoch, place.batches] if place else [0, 0])
    if (told != told[0]).any():
        seen = ", ".join(f"{batches:g} of epoch {epoch:g}" for epoch, batches in told)
        raise UserError(
            f"the processes find different checkpoints within an epoch (after batch {seen}): the "
            "run's folder must be on a file system that all of them see."
        )


def restore(run_dir: Path, place: Place, state: State, sums: Sums) -> tuple[State, Sums]:
    """Reads what was saved at a place.

    Args:
        run_dir: The run's folder.
        place: As `found` gave it.
        state: A `TrainState` of the phase, for the structure and the key.
        sums: Sums of the structure that was saved.

    Raises:
        UserError: It cannot be read.
    """
    # As NumPy's, sums go with arrays on any devices.
    template = _saved(state, jax.tree.map(np.asarray, sums))
    try:
        restored = _read(run_dir, place.step, state=ocp.args.StandardRestore(template))["state"]
    except Exception as error:  # As in `found`.
        folder = run_dir / FOLDER
        raise UserError(
            f"the checkpoint within epoch {place.epoch}, '{folder / str(place.step)}', cannot be "
            f"read: {_first_line(error)}. Remove '{folder}' to go on after epoch {place.latest}."
        ) from error
    sums = restored.pop("sums")
    return dataclasses.replace(state, **restored), sums  # pyright: ignore[reportArgumentType]


def remove(run_dir: Path) -> None:
    """Removes the checkpoints within epochs; one that is half removed is found by nobody."""
    if not processes.first():
        return
    gone = run_dir / f"{FOLDER}.removed"
    shutil.rmtree(gone, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        (run_dir / FOLDER).rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def is_kept(run_dir: Path) -> bool:
    """Whether there is a finished checkpoint within an epoch."""
    return bool(checkpoint.numbers(run_dir / FOLDER))


def _saved(state: Any, sums: Any) -> dict[str, Any]:
    """All that changes within an epoch; the key follows from the seed."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    del fields["rng"]
    return {**{key: tree for key, tree in fields.items() if tree is not None}, "sums": sums}


def _manager(folder: Path, written: Callable[[], None] = lambda: None) -> ocp.CheckpointManager:

    def finalized() -> None:
        checkpoint.write_fingerprints(folder)
        written()

    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=finalized),
    )
    return ocp.CheckpointManager(folder, options=options)


def _read(run_dir: Path, step: int, **items: Any) -> Any:
    with plain_path((run_dir / FOLDER).absolute()) as folder, _manager(folder) as checkpoints:
        return checkpoints.restore(step, args=ocp.args.Composite(**items))


def _remove_others(folder: Path, step: int | None) -> None:
    if not processes.first():
        return
    for other in checkpoint.numbers(folder):
        if other != step:
            shutil.rmtree(folder / str(other), ignore_errors=True)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
