"""What a run keeps, the best epoch, the last one and where a long one stands; going on from it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from jtl.common import memory
from jtl.common.trees import ParamTree
from jtl.distributed import processes
from jtl.models.inference import Metrics
from jtl.runs import checkpoint, midway
from jtl.runs.run import Run
from jtl.train.setup import Task, image_inputs
from jtl.train.trainer import Part, Trainer, last_step_of

LONG_EPOCH_SECONDS = 2.0
"""What a longer epoch gave is kept until it is saved: a later one may diverge."""


class Kept(NamedTuple):
    """What an epoch gave, on the host."""

    epoch: int
    variables: ParamTree
    opt_state: Any
    start: str | None


class Keeper:
    """Decides what is saved, and when; see `opened`."""

    def __init__(
        self,
        task: Task,
        run: Run,
        checkpoints: ocp.CheckpointManager,
        within: midway.Saver,
        saved_epoch: int,
    ):
        """Takes a run and what saves its epochs, until now `saved_epoch`, and within them."""
        self._task, self._run = task, run
        self._checkpoints, self._within = checkpoints, within
        self._saved_epoch, self._saved_at = saved_epoch, time.perf_counter()
        # The best epoch and the last long one, while they are not on disk.
        self._best: Kept | None = None
        self._last: Kept | None = None

    @property
    def overdue(self) -> bool:
        """Whether the last save is long ago."""
        return time.perf_counter() - self._saved_at > checkpoint.CHECKPOINT_SECONDS

    def keep(self, epoch: int, seconds: float, trainer: Trainer) -> None:
        """Copies what an epoch has just given, where it may have to be saved later."""
        best = self._run.best_epoch() == epoch
        self._last = None
        if best or seconds > LONG_EPOCH_SECONDS:
            # The next step donates the state: what is kept must be a copy.
            variables, opt_state = jax.device_get((trainer.variables(), trainer.saved_state()))
            self._last = Kept(epoch, variables, opt_state, trainer.inputs.start)
            self._best = self._last if best else self._best

    def save(self, epoch: int, trainer: Trainer) -> None:
        """Saves the epoch that has just ended, and the best one before it."""
        if self._saved_epoch == epoch:
            return
        if self._best is not None and self._best.epoch < epoch:
            self.write(self._best)
        variables, opt_state = jax.device_get((trainer.variables(), trainer.saved_state()))
        self.write(Kept(epoch, variables, opt_state, trainer.inputs.start))
        self._best = self._last = None
        if self.overdue:  # In a long training, that is.
            memory.give_back()
        self._saved_at = time.perf_counter()

    def save_kept(self) -> None:
        """Saves the best epoch and the last one, as far as they have been kept."""
        for kept in (self._best, self._last):
            if kept is not None:
                self.write(kept)

    @property
    def due(self) -> bool:
        """Whether it is time to save within an epoch."""
        return self._within.due(self._saved_at)

    @property
    def outdated(self) -> bool:
        """Whether there is a checkpoint within an epoch that has one itself."""
        return self._within.outdated(self._saved_epoch)

    def tidy(self) -> None:
        """Removes the checkpoint within an epoch."""
        self._within.remove()

    def save_within(self, epoch: int, part: Part, trainer: Trainer, elapsed: float) -> None:
        """Saves within an epoch; many processes jointly, after the same step.

        Args:
            epoch: That is under way.
            part: What is done of it.
            trainer: As it has left the last step.
            elapsed: Seconds of the whole run.

        Raises:
            Diverged: A step's loss was not finite.
        """
        trainer.check_finite()
        # What the place names must be there before it.
        self.save_kept()
        self._checkpoints.wait_until_finished()
        place = midway.Place(
            step=(epoch - 1) * trainer.steps_per_epoch + part.batches,
            epoch=epoch,
            batches=part.batches,
            seconds=part.seconds,
            elapsed=elapsed,
            checkpoints=tuple(checkpoint.saved_epochs(self._run.folder)),
        )
        self._within.save(place, trainer.state, part.sums)

    def diverged(self) -> None:
        """Saves the good epochs as far as they have been kept; their steps led nowhere."""
        self._within.remove()
        self.save_kept()

    def write(self, kept: Kept) -> None:
        """Starts writing a checkpoint, unless that epoch or a later one has been saved."""
        if kept.epoch <= self._saved_epoch:
            return
        line = self._run.history[kept.epoch - 1]
        metrics = {key: line[key] for key in ("val_accuracy", "val_loss")}
        # Orbax orders by one number; ours is that a later best is better than an earlier one.
        best = self._run.best_epoch(kept.epoch)
        metrics["best"] = float(kept.epoch if kept.epoch == best else 0)
        meta = {**self._task.meta(), "start": kept.start}
        variables, opt_state = kept.variables, kept.opt_state
        if processes.several():
            # What is on all devices is written in parts, by all processes.
            variables, opt_state = self._task.layout.put_whole((variables, opt_state))
        checkpoint.save(self._checkpoints, kept.epoch, variables, opt_state, metrics, meta)
        self._saved_epoch = kept.epoch


@contextlib.contextmanager
def opened(task: Task, run: Run, saved_epoch: int = 0) -> Iterator[Keeper]:
    """What a run keeps is on disk at the end of the `with` block, however that ends.

    Args:
        task: The run's fixed parts.
        run: New, or resumed.
        saved_epoch: The epoch of its latest checkpoint, 0 without one.
    """
    with (
        midway.opened(run.folder, run.resumed_at) as within,
        checkpoint.manager(run.folder) as checkpoints,
    ):
        yield Keeper(task, run, checkpoints, within, saved_epoch)


def start_of(task: Task, run: Run) -> tuple[ParamTree, Any, int]:
    """What the first phase that is left starts from.

    Returns:
        The variables; what is to be restored, as `Trainer.saved_state`, or at a phase's end the
        optimizer's state; and the epoch of these. At a phase's end the variables are those of its
        last step.
    """
    done = len(run.history) if run.resumed_at is None else run.resumed_at.latest
    if not done:
        return task.variables, None, 0
    plan = task.plan_of(done)
    # The optimizer's state has one structure, whatever the steps start from.
    template = Trainer(task, plan, image_inputs(task), task.variables)
    latest = checkpoint.restore(run.folder, "latest", template.saved_state())
    if done < plan.last_epoch:
        return latest.variables, latest.opt_state, done
    return *last_step_of(plan, latest.variables, latest.opt_state), done


def part_of(run: Run, place: midway.Place, trainer: Trainer) -> Part:
    """Brings a trainer to a place within an epoch; what is done of the epoch there."""
    trainer.state, sums = midway.restore(run.folder, place, trainer.state, Metrics.zero())
    return Part(place.batches, sums, place.seconds)
