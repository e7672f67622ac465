"""Saving a run's checkpoints: what is saved, when, and what all processes decide together.

Permanent checkpoints hold the whole model after the best epoch and after the latest one. A
temporary one holds what the steps of an unfinished epoch have changed, so that a long epoch is not
lost where a run is stopped or killed in it; it is of use until its own epoch has a permanent one.
The order of the batches and all random draws follow from seed, epoch and step.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from jtl.common import huge_pages
from jtl.common.paths import plain_path
from jtl.common.signals import Stop
from jtl.distributed import processes
from jtl.distributed.sharding import SINGLE, DataSharding
from jtl.runs.checkpoints import managers
from jtl.runs.checkpoints.contents import (
    FOLDER,
    TEMPORARY_FOLDER,
    EpochProgress,
    Snapshot,
    temporary_items,
)
from jtl.runs.checkpoints.reading import saved_epochs

if TYPE_CHECKING:
    from jtl.runs.run import Run


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
    """When checkpoints are saved, and how often processes ask each other.

    Attributes:
        seconds: An epoch that ends this long after the last save is saved, so that at most this
            much training is lost when a run is killed. Within epochs, the shortest time between
            two saves.
        share: Of the time, that saving within epochs may take.
        snapshot_seconds: What a longer epoch gave is copied until it is saved: a later one may
            diverge.
        sync_seconds: How long steps go on at the least before the processes ask each other again.
    """

    seconds: float = 30.0
    share: float = 0.02
    snapshot_seconds: float = 2.0
    sync_seconds: float = 1.0


DEFAULT_POLICY = CheckpointPolicy()


class SyncDecision(NamedTuple):
    """What all processes do after the same step.

    Attributes:
        save: Whether it is time for a temporary checkpoint.
        remove: Whether the one there is of no use any more.
    """

    save: bool
    remove: bool


class Checkpointer:
    """Saves a run; all is on disk at the end of the `with` block, however that ends.

    A signal reaches one process, and each has its own clock; what follows must follow in all of
    them after the same step. So they ask each other, for which every one waits until its last step
    is done: not after each step, but about once a second, counted in steps that are the same for
    all. One process by itself goes by what it knows, after every step.
    """

    def __init__(
        self,
        run: Run,
        metadata: dict[str, Any],
        *,
        stop: Stop,
        saved_epoch: int = 0,
        sharding: DataSharding = SINGLE,
        policy: CheckpointPolicy | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        """Prepares to save; the folder is touched when the `with` block begins.

        Args:
            run: New, or resumed.
            metadata: What a reader needs to rebuild the model; JSON.
            stop: The signals that this process got.
            saved_epoch: The epoch of the latest permanent checkpoint, 0 without one.
            sharding: The devices, all of which write, where they are of many processes.
            policy: When to save; default `DEFAULT_POLICY`.
            clock: Seconds.
        """
        self._run, self._metadata, self._stop, self._sharding = run, metadata, stop, sharding
        self._policy, self._clock = policy or DEFAULT_POLICY, clock
        self._open = contextlib.ExitStack()
        self._permanent: ocp.CheckpointManager | None = None
        self._temporary: ocp.CheckpointManager | None = None
        self._saved_epoch, self._last = saved_epoch, run.resumed_at
        self._saved_at = self._temporary_at = self._began = clock()
        # Seconds from the last temporary save's begin until all was on disk; infinite until then.
        self._cost = 0.0
        # The best epoch and the last long one, while they are not on disk.
        self._best: Snapshot | None = None
        self._recent: Snapshot | None = None
        self._signal: int | None = None
        # Steps from one time of asking to the next, and those since the last.
        self._every, self._taken, self._since = 1, 0, clock()

    def __enter__(self) -> Checkpointer:
        """Opens the folder of permanent checkpoints, and removes what a killed run left there."""
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(plain_path((self._run.folder / FOLDER).absolute()))
            self._permanent = managers.permanent_manager(folder)
            self._open = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Waits until all is on disk."""
        # Closing waits for the other processes: for ever, if they are gone.
        if error is None or not processes.is_peer_failure(error):
            with self._open as stack:
                stack.callback(self._end_temporary)
                stack.callback(self._end_permanent)

    # What all processes decide together

    @property
    def signal(self) -> int | None:
        """The signal for which all stop."""
        return self._signal if processes.is_distributed() else self._stop.signal

    def begin_epoch(self) -> None:
        """An epoch begins."""
        self._taken, self._since = 0, self._clock()

    def count_step(self) -> bool:
        """Counts a step; whether all processes are to decide after it."""
        self._taken += 1
        return not processes.is_distributed() or self._taken >= self._every

    def decide(self) -> SyncDecision:
        """What to do after a step; clocks and disk are the first process's.

        The next time is after as many steps as took `sync_seconds` now, but at most twice as many
        as this time: the first ones are slow.
        """
        seconds = self._clock() - self._since
        known = [seconds, self.temporary_due, self.temporary_outdated, self._stop.signal or 0]
        told = processes.all_gather(known)
        seconds, save, remove, _ = told[0]
        self._heed(told[:, -1].max())
        pace = self._taken * self._policy.sync_seconds / max(float(seconds), 1e-6)
        self._every = int(min(max(pace, 1), 2 * self._taken))
        self.begin_epoch()
        return SyncDecision(bool(save), bool(remove))

    def decide_after_epoch(self, line: dict[str, Any]) -> bool:
        """Whether the epoch that has ended is to be saved; its `seconds` become the first's."""
        told = processes.all_gather([line["seconds"], self.permanent_due, self._stop.signal or 0])
        if len(told) > 1:
            line["seconds"] = float(told[0, 0])
        self._heed(told[:, -1].max())
        return bool(told[0, 1])

    def _heed(self, signal: float) -> None:
        if signal and processes.is_distributed():
            self._signal = int(signal)
            self._stop.agreed = True

    # Permanent checkpoints

    @property
    def permanent_due(self) -> bool:
        """Whether the last save is long ago."""
        return self._clock() - self._saved_at > self._policy.seconds

    def keep(self, epoch: int, seconds: float, snapshot: Callable[[], Snapshot]) -> None:
        """Copies what an epoch has just given, where it may have to be saved later."""
        best = self._run.best_epoch() == epoch
        self._recent = None
        if best or seconds > self._policy.snapshot_seconds:
            self._recent = snapshot()
            self._best = self._recent if best else self._best

    def save(self, epoch: int, snapshot: Callable[[], Snapshot]) -> None:
        """Saves the epoch that has just ended, and the best one before it."""
        if self._saved_epoch == epoch:
            return
        if self._best is not None and self._best.epoch < epoch:
            self.write(self._best)
        self.write(snapshot())
        self._best = self._recent = None
        if self.permanent_due:  # In a long training, that is.
            huge_pages.give_back()
        self._saved_at = self._clock()

    def save_kept(self) -> None:
        """Saves the best epoch and the last one, as far as they have been kept."""
        for kept in (self._best, self._recent):
            if kept is not None:
                self.write(kept)

    def save_diverged(self) -> None:
        """Saves the good epochs as far as they have been kept; the steps since led nowhere."""
        self.remove_temporary()
        self.save_kept()

    def write(self, snapshot: Snapshot) -> None:
        """Starts writing a permanent checkpoint, unless there is that one or a later one."""
        if snapshot.epoch <= self._saved_epoch:
            return
        assert self._permanent is not None
        line = self._run.history[snapshot.epoch - 1]
        metrics = {key: line[key] for key in ("val_accuracy", "val_loss")}
        # Orbax orders by one number; ours is that a later best is better than an earlier one.
        best = self._run.best_epoch(snapshot.epoch)
        metrics["best"] = float(snapshot.epoch if snapshot.epoch == best else 0)
        variables, opt_state = snapshot.variables, snapshot.opt_state
        if processes.is_distributed():
            # What is on all devices is written in parts, by all processes.
            variables, opt_state = self._sharding.replicate((variables, opt_state))
        items: dict[str, Any] = {
            "variables": ocp.args.PyTreeSave(variables),
            "meta": ocp.args.JsonSave({**self._metadata, "start": snapshot.start}),
        }
        if jax.tree.leaves(opt_state):  # Orbax refuses a tree without leaves.
            items["opt_state"] = ocp.args.StandardSave(opt_state)
        self._run.sync()
        self._permanent.save(snapshot.epoch, metrics=metrics, args=ocp.args.Composite(**items))
        self._saved_epoch = snapshot.epoch

    def wait(self) -> None:
        """Waits until the permanent checkpoints that have been begun are on disk."""
        assert self._permanent is not None
        self._permanent.wait_until_finished()

    # Temporary checkpoints

    @property
    def temporary_due(self) -> bool:
        """Whether it is time to save within an epoch: seldom enough to cost little."""
        spacing = max(self._policy.seconds, self._cost / self._policy.share)
        return self._clock() - max(self._temporary_at, self._saved_at) > spacing

    @property
    def temporary_outdated(self) -> bool:
        """Whether the epoch of the temporary checkpoint has a permanent one."""
        return self._saved_epoch >= self._last_epoch and self._is_outdated()

    @property
    def _last_epoch(self) -> float:
        return math.inf if self._last is None else self._last.epoch

    def _is_outdated(self) -> bool:
        return max(saved_epochs(self._run.folder), default=0) >= self._last_epoch

    def save_temporary(self, progress: Callable[[], EpochProgress]) -> None:
        """Saves within an epoch; many processes jointly, after the same step.

        What was saved within an epoch before goes once this is on disk.
        """
        # What the position names must be there before it.
        self.save_kept()
        self.wait()
        at, state, sums = progress()
        at = dataclasses.replace(at, checkpoints=tuple(saved_epochs(self._run.folder)))
        manager = self._opened_temporary()
        self._began, self._cost = self._clock(), math.inf
        items = ocp.args.Composite(
            # Arrays as they are on their devices: each process writes its own.
            state=ocp.args.StandardSave(temporary_items(state, sums)),
            place=ocp.args.JsonSave(dataclasses.asdict(at)),
        )
        manager.save(at.step, args=items)
        self._last, self._temporary_at = at, self._clock()

    def remove_temporary(self) -> None:
        """Removes the temporary checkpoint; waits until it is on disk before, in each process."""
        self._close_temporary()
        self._last = None
        managers.remove_temporary(self._run.folder)

    def _close_temporary(self) -> None:
        if self._temporary is not None:
            self._temporary.close()
            self._temporary = None

    def _end_temporary(self) -> None:
        self._close_temporary()
        if self._is_outdated():
            self.remove_temporary()

    def _end_permanent(self) -> None:
        if self._permanent is not None:
            self._permanent.close()
            managers.delete_removed(Path(self._permanent.directory))

    def _opened_temporary(self) -> ocp.CheckpointManager:
        if self._temporary is None:
            path = (self._run.folder / TEMPORARY_FOLDER).absolute()
            folder = self._open.enter_context(plain_path(path))
            # Orbax saves no step before one that it finds, and each process looks for itself.
            last = None if self._last is None else self._last.step
            processes.run_together(lambda: managers.remove_others(folder, last))
            self._temporary = managers.temporary_manager(folder, self._written)
        return self._temporary

    def _written(self) -> None:
        self._cost = self._clock() - self._began
