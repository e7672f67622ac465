"""Trial after trial, as long as the time lasts."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jtl.common.errors import UserError, explain, first_line, out_of_memory
from jtl.common.progress import Display
from jtl.common.quantities import format_seconds
from jtl.common.signals import Interrupted
from jtl.common.text import counted
from jtl.compare.command import read_history
from jtl.config import walk
from jtl.config.options import Config
from jtl.runs import metrics
from jtl.runs.files import CONFIG, SUMMARY, read_json
from jtl.search import selection, space
from jtl.search.clock import Budget
from jtl.search.cost import CostModel, Work
from jtl.search.sampling import Sampler
from jtl.search.space import Candidate
from jtl.search.trials import Store, Trial
from jtl.search.watching import CLOSING_SECONDS, Watched
from jtl.train.observer import Observer

MOST_MISSES = 15
"""Variations in a row that are known or too slow, after which nothing else is expected."""
_POLL_SECONDS = 0.2
_IDLE_SECONDS = 2.0
"""Without a trial after which a process has none to begin, and is not between two of them."""


class Train(Protocol):
    """What trains, such as `jtl.train.fit.fit`."""

    def __call__(
        self,
        config: Config,
        display: Display,
        *,
        background_plots: bool,
        observer: Observer,
    ) -> Any: ...


class Counts(Protocol):
    """What counts operations, such as `jtl.search.workload.Workload`."""

    def of(self, options: dict[str, Any], *, alone: bool = False) -> tuple[Work, int]: ...

    def trained(self, options: dict[str, Any]) -> None: ...


@dataclasses.dataclass(eq=False)
class Engine:
    """Trains trials and writes what becomes of them.

    Attributes:
        folder: The search's.
        base: The options that all trials have in common.
        budget: The time.
        store: The trials.
        workload: Counts what a trial computes.
        cost: Predicts its seconds.
        labels: Of the validation images, int32 [N].
        display: Where progress goes.
        log: Where the trials' own messages go.
        train: What trains a trial.
        note: Called when a trial begins or ends; keeps what time is spent.
        background_plots: As of `jtl.train.fit.fit`.
        too_slow: Variations that were drawn and not begun.
    """

    folder: Path
    base: Config
    budget: Budget
    store: Store
    workload: Counts
    cost: CostModel
    labels: np.ndarray
    display: Display
    log: Display
    train: Train
    note: Callable[[], None] = lambda: None
    background_plots: bool = False
    too_slow: int = 0

    def __post_init__(self) -> None:
        self._observed: set[int] = set()
        """Numbers of the trials whose seconds are known to `cost`."""

    def learn(self) -> None:
        """Takes the seconds of what earlier sessions and other processes have finished."""
        new = [t for t in self.store.with_models() if t.number not in self._observed]
        for trial in new:
            self._observed.add(trial.number)
            if trial.stage == "soup":
                continue
            work, _ = self.workload.of(trial.options)
            folder = self.folder / trial.folder
            features = read_json(folder / SUMMARY)["feature_seconds"]
            seconds = trial.seconds or 0.0
            self.cost.observe(work, read_history(folder), features, seconds, here=False)
            self.workload.trained(trial.options)

    def resume(self) -> None:
        """Goes on with what was interrupted in the plan."""
        for trial in self.store.read():
            if trial.state == "running" and trial.stage == "soup":
                self.store.write(dataclasses.replace(trial, state="failed", message="interrupted"))
                continue
            if trial.state == "running" and trial.sampled is None:
                work, epochs = self.workload.of(trial.options)
                self._claimed(trial, work, epochs)

    def run(self, candidates: Iterable[Candidate]) -> None:
        """Tries what is planned, as far as it fits; of a time that is short, with fewer epochs."""
        for candidate in candidates:
            if self.store.begun(candidate.stage, candidate.name):
                continue
            work, epochs = self.workload.of(candidate.options)
            left = candidate.share * self.budget.left
            if candidate.stage != "probe":
                fitting = self._fitting(work, epochs, left)
                if fitting is None and candidate.most:
                    left = candidate.most * self.budget.left
                    fewest = min(space.FEWEST_EPOCHS, epochs)
                    fitting = fewest if self.cost.fits(work, fewest, left) else None
                if fitting is None:
                    self._not_begun(candidate, work, epochs, left)
                    continue
                if fitting < epochs:
                    candidate, epochs = (
                        dataclasses.replace(
                            candidate, options={**candidate.options, "epochs": fitting}
                        ),
                        fitting,
                    )
            self._begin(candidate, work, epochs)

    def largest_first(self, plan: list[Candidate]) -> list[Candidate]:
        """The plan, from cheap to dear; its last one first if it might have no time later.

        Of a time that is enough for one training of all layers, the cheaper strategies would take
        so much that it could not be begun any more, or with few epochs. Alone, `full` reaches more
        than they do on three of four data sets (`benchmarks/vs_finetuning.py`).
        """
        if not plan:
            return []
        *others, last = plan
        work, epochs = self.workload.of(last.options)
        enough, left = -(-epochs // 2), self.budget.left
        before = 0.0
        for candidate in others:
            if not self.store.begun(candidate.stage, candidate.name):
                seconds = self.cost.seconds(*self.workload.of(candidate.options))
                before += min(seconds, candidate.share * left)
        later = (left - before) * space.SURE_SHARE
        first = self.cost.fits(work, enough, left) and not self.cost.fits(work, epochs, later)
        return [last, *others] if first else plan

    def settle(self, candidates: Iterable[Candidate]) -> None:
        """Waits until no other process trains one of these, as long as there is time."""
        names = {candidate.name for candidate in candidates}
        while self.store.busy(names) and self.budget.left > CLOSING_SECONDS:
            time.sleep(_POLL_SECONDS)

    def others_finish(self, known: int) -> bool:
        """Waits for trials that other processes are training: what fits may be clearer then.

        Args:
            known: The number of trials that had a model before this process ran out of ideas.

        Returns:
            Whether there are more; False once nobody trains any more, or the time is over.
        """
        since = time.monotonic()
        while self.budget.left > CLOSING_SECONDS and time.monotonic() - since < _IDLE_SECONDS:
            if len(self.store.with_models()) > known:
                return True
            if self.store.busy():
                since = time.monotonic()
            time.sleep(_POLL_SECONDS)
        return False

    def vary(self, sampler: Sampler) -> None:
        """Tries variations until the time is over or nothing is left that fits."""
        for trial in self.store.read():
            if trial.state == "running" and trial.sampled is not None:
                work, epochs = self.workload.of(trial.options)
                if (done := self._claimed(trial, work, epochs, sampler)) is not None:
                    sampler.tell(done)
        misses = self.too_slow = 0
        while misses < MOST_MISSES and self.budget.left > CLOSING_SECONDS:
            candidate, number = sampler.ask()
            there = self.store.find(candidate.options)
            if there is not None:
                sampler.refuse(number, there.metric)
                misses += 1
                continue
            try:
                work, epochs = self.workload.of(candidate.options)
                fitting = self._fitting(work, epochs, self.budget.left)
                if fitting is not None and fitting < epochs:
                    options = {**candidate.options, "epochs": fitting}
                    candidate = dataclasses.replace(
                        candidate, options=options, name=space.name(options)
                    )
                    self.workload.of(options)
            except UserError:  # It cannot be: `gradual` needs an epoch for each stage.
                sampler.refuse(number)
                misses += 1
                continue
            if fitting is None:
                sampler.refuse(number)
                self.too_slow += 1
                misses += 1
                continue
            misses = 0
            if (done := self._begin(candidate, work, fitting, sampler, number)) is not None:
                sampler.tell(done)
            else:  # Another process has drawn the same in the meantime.
                sampler.refuse(number)

    def _fitting(self, work: Work, epochs: int, left: float) -> int | None:
        """The epochs that fit in a time; None where it is not worth to begin."""
        if not epochs:
            return 0 if self.cost.fits(work, 0, left) else None
        fitting = self.cost.epochs_within(work, left, epochs)
        return fitting if fitting >= min(space.FEWEST_EPOCHS, epochs) else None

    def _not_begun(self, candidate: Candidate, work: Work, epochs: int, left: float) -> None:
        fewest = min(epochs, space.FEWEST_EPOCHS)
        needed = self.cost.margin * self.cost.seconds(work, fewest)
        told = f" for {fewest} epochs" if epochs > 1 else ""
        message = (
            f"predicted to take up to {format_seconds(needed)}{told}, when there were "
            f"{format_seconds(left)} for it"
        )
        row = Trial(0, candidate.name, candidate.stage, candidate.options, "not begun")
        row = dataclasses.replace(row, predicted=round(needed, 1), message=message)
        if not any(t.name == row.name and not t.number for t in self.store.read()):
            self.display.message(f"not begun: {candidate.name} ({message})")
        self.store.write(row)

    def _begin(
        self,
        candidate: Candidate,
        work: Work,
        epochs: int,
        sampler: Sampler | None = None,
        sampled: int | None = None,
    ) -> Trial | None:
        row = Trial(0, candidate.name, candidate.stage, candidate.options, sampled=sampled)
        return self._claimed(row, work, epochs, sampler)

    def _claimed(
        self, row: Trial, work: Work, epochs: int, sampler: Sampler | None = None
    ) -> Trial | None:
        """Trains a trial, unless another process does or has."""
        predicted = round(self.cost.seconds(work, epochs), 1)
        trial = self.store.claim(dataclasses.replace(row, predicted=predicted))
        if trial is None:
            return None
        self.note()
        about = "" if row.stage == "probe" else f", about {format_seconds(predicted)}"
        self.display.message(f"trial {trial.number}: {trial.name}{about}")
        began = self.budget.spent
        prune = None
        if sampler is not None and trial.sampled is not None:
            prune = sampler.pruning(trial.sampled)
        watched = Watched(
            trial,
            epochs,
            self.cost.epoch_seconds(work),
            self.base.train.metric,
            self.budget,
            self.store,
            self.note,
            prune,
        )
        try:
            run = self.train(
                self._config(trial),
                self.log,
                background_plots=self.background_plots,
                observer=Observer(
                    watched.after_epoch, watched.scored, tests=False, probes=False, reports=False
                ),
            )
            seconds = self.budget.spent - began
            self._observed.add(trial.number)
            trial = self._finished(trial, run, watched, seconds)
            self.cost.observe(work, run.history, run.summary["feature_seconds"], seconds)
            if trial.state == "done" and work.epoch:
                self.cost.compare(predicted, seconds)
            self.workload.trained(trial.options)
        except KeyboardInterrupt as stopped:
            raise Interrupted(
                getattr(stopped, "signal", signal.SIGINT),
                f"Stopped in trial {trial.number}; everything is saved. To resume:\n"
                f"  jtl search {self.again}",
            ) from stopped
        except Exception as error:
            # A trial that fails is not the end of the others.
            memory = out_of_memory(error)
            message = f"not enough memory ({memory})" if memory else explain(error)
            message = message or f"{type(error).__name__}: {first_line(error)}"
            trial = dataclasses.replace(
                trial,
                state="failed",
                seconds=round(self.budget.spent - began, 3),
                message=message,
            )
            self.display.message(f"  failed: {message}")
        self.store.write(trial)
        self.note()
        return trial

    @property
    def again(self) -> str:
        """The rest of the command that goes on with the search."""
        return f"--resume --out {shlex.quote(str(self.folder))}"

    def _config(self, trial: Trial) -> Config:
        folder = self.folder / trial.folder
        resume = "auto" if (folder / CONFIG).is_file() else "never"
        return walk.replace(self.base, {**trial.options, "run_dir": folder, "resume": resume})

    def _finished(self, trial: Trial, run: Any, watched: Watched, seconds: float) -> Trial:
        metric = self.base.train.metric
        value = metrics.score_of(metrics.best_line(run.history, metric), metric)
        logits = self.store.logits(trial)
        interval = selection.interval(metric, logits, self.labels)
        spent = (trial.seconds or 0.0) + seconds
        trial = dataclasses.replace(
            trial,
            state=watched.state,
            seconds=round(spent, 3),
            epochs=0 if run.summary["solver"] == "lbfgs" else len(run.history),
            metric=value,
            interval=interval,
        )
        shown = metrics.rounded(value, len(self.labels)) if metric != "loss" else f"{-value:.3f}"
        epochs = counted(trial.epochs, "epoch")
        ended = {
            "done": "",
            "stopped": f"; stopped after {epochs}, as the time is over",
            "pruned": f"; ended after {epochs}, as others were better by then",
        }[trial.state]
        self.display.message(
            f"  validation {metric.replace('_', ' ')} {shown} after {format_seconds(seconds)}"
            f"{ended}; {_left(self.budget.left)}"
        )
        return trial


def _left(seconds: float) -> str:
    return f"{format_seconds(seconds)} left" if seconds > CLOSING_SECONDS else "no time left"
