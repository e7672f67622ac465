"""One run on its way: its phases, epochs and checkpoints, from the first step to the summary."""

from __future__ import annotations

import functools
import math
import shlex
import time
from typing import Any, NoReturn

import jax
import numpy as np

from jtl.cache.phase_inputs import PhaseInputs
from jtl.common.errors import UserError, out_of_memory
from jtl.common.progress import Display
from jtl.common.signals import Interrupted, Stop
from jtl.common.trees import ParamTree
from jtl.distributed import processes
from jtl.freeze.phase_plan import PhasePlan
from jtl.runs import console_text, selective
from jtl.runs.calibration import probabilities
from jtl.runs.checkpoints import reading
from jtl.runs.checkpoints.contents import EpochProgress, Restored, Snapshot, TemporaryCheckpoint
from jtl.runs.checkpoints.managers import remove_temporary
from jtl.runs.checkpoints.saving import Checkpointer
from jtl.runs.plot_worker import PlotWorker
from jtl.runs.report import PLOTS
from jtl.runs.run import Run
from jtl.train import after_results, automatic, memory_estimate, profiling
from jtl.train.observer import Observer
from jtl.train.restore import restored_part, snapshot_of, start_of
from jtl.train.run_records import run_content, summarize
from jtl.train.setup import Setup, feature_cache
from jtl.train.trainer import Diverged, PartialEpoch, Trainer


class Training:
    """One run on its way: its phases, and the examples at hand."""

    def __init__(
        self,
        setup: Setup,
        run: Run,
        display: Display,
        stop: Stop,
        plotter: PlotWorker,
        observer: Observer = Observer(),
    ):
        """Takes a setup, and a run that is new or has a checkpoint to go on from."""
        self.setup, self.run, self.display, self.stop = setup, run, display, stop
        self.plotter, self.observer = plotter, observer
        self.feature_seconds = 0.0
        # Of the sessions before this one, as far as they count.
        self._earlier = run.history[-1]["elapsed"] if run.history else 0.0
        if run.resumed_at is not None:
            self._earlier = run.resumed_at.elapsed
        self._began = time.perf_counter()
        self._cache = feature_cache(setup, display)
        self._inputs: PhaseInputs | None = None  # Of train and val, for the phase.
        self._cut: str | None = None
        self._warned = False
        # Of the best epoch, where it is of this session.
        self._val_logits: np.ndarray | None = None

    def run_phases(self) -> None:
        """Trains every phase that is left, and writes the results."""
        if self.setup.config.train.solver == "lbfgs":
            self._solve()
        elif not self._out_of_patience(len(self.run.history)):
            self._train()
        self._finish(self._elapsed())

    def _header(self) -> str:
        return console_text.epoch_header(console_text.measured(self.setup.dataset.multilabel)[0])

    def _elapsed(self) -> float:
        """Seconds of all sessions of the run."""
        return self._earlier + time.perf_counter() - self._began

    def _out_of_patience(self, epoch: int) -> bool:
        patience = self.setup.config.train.patience
        if not (patience and epoch):
            return False
        improved = self.run.improved_epoch(self.setup.config.train.min_delta)
        # Who adds epochs wants all before them trained, whenever it was that they were added.
        extended = self.setup.config.train.extended
        planned = self.setup.epochs - extended[-1] if extended else 0
        return epoch - max(improved, planned) >= patience

    def _train(self) -> None:
        variables, saved, saved_epoch = start_of(self.setup, self.run)
        done = len(self.run.history)
        # Unreadable images show here, before anything is written.
        first = self.setup.plan_of(done + 1) if done < self.setup.epochs else self.setup.plans[-1]
        self.read_inputs(first, variables)
        with (
            self._checkpoints(saved_epoch) as self._checkpointer,
            self.display.track(
                "training", self.setup.epochs, "epochs", header=self._header()
            ) as self._advance,
        ):
            self._advance(done, "resumed") if done else None
            for plan in self.setup.plans:
                if plan.last_epoch <= done:
                    continue
                inputs = self.read_inputs(plan, variables)
                trainer, part = Trainer(self.setup, plan, inputs, variables), None
                if plan is first and (at := self.run.resumed_at) is not None:
                    part = restored_part(self.run, at, trainer)
                    self.display.message(f"Resuming from epoch {at.epoch}, batch {at.batches}")
                elif saved is not None and plan.first_epoch <= done:
                    trainer.restore(done, saved)
                elif saved is not None:
                    trainer.carry_over(saved)
                stopped = self._phase(trainer, max(plan.first_epoch, done + 1), part)
                variables, saved = trainer.last_variables(), trainer.state.opt_state
                del trainer, inputs  # What the next phase does not need is freed before it reads.
                if stopped:
                    break
            self.run.draw(self.setup.dataset.spec, len(self.setup.dataset.val), self.plotter)

    def _checkpoints(self, saved_epoch: int = 0) -> Checkpointer:
        return Checkpointer(
            self.run,
            self.setup.meta(),
            stop=self.stop,
            saved_epoch=saved_epoch,
            sharding=self.setup.sharding,
        )

    def _solve(self) -> None:
        """Fits the linear head to the optimum; the whole is one epoch of the run."""
        from jtl.train import linear_probe  # SciPy's optimizers take half a second to import.

        plan = self.setup.plans[0]
        inputs = self.read_inputs(plan, self.setup.variables)
        line, variables, self._val_logits = linear_probe.solve(self.setup, inputs)
        self.run.open(lambda: run_content(self.setup), self.setup.dataset)
        self._log({**line, "optimizer_bytes": 0}, plan, inputs)
        tried, (name, key) = len(line["path"]), console_text.measured("val_map" in line)
        chosen = f"the best of {tried} L2 penalties (" if tried > 1 else "the L2 penalty ("
        self.display.message(
            f"Fitted the head with {chosen}{line['l2']:g}): validation {name} "
            f"{line[key]:.3f}, loss {line['val_loss']:.3f}"
        )
        with self._checkpoints() as checkpointer:
            checkpointer.write(Snapshot(1, variables, {}, inputs.start))
            self.run.draw(self.setup.dataset.spec, len(self.setup.dataset.val), self.plotter)

    def read_inputs(self, plan: PhasePlan, variables: ParamTree) -> PhaseInputs:
        """Reads train and val, unless the phase before had the same cut."""
        cut = plan.cut.features_at
        if self._inputs is None or self._cut != cut:
            self._inputs = None  # Frees the features of the cut before.
            splits = {"train": self.setup.dataset.train, "val": self.setup.dataset.val}
            began = time.perf_counter()
            try:
                self._inputs = self._cache.read(
                    cut, self.setup.plain(jax.device_get(variables)), splits
                )
            except Interrupted as stopped:
                if cut is None or self._cache.folder is None:
                    raise
                raise Interrupted(
                    stopped.signal,
                    "Stopped while computing features; those computed so far are saved, and the "
                    "same command continues from there",
                ) from stopped
            self.feature_seconds += time.perf_counter() - began if self._inputs.cached else 0.0
            self._cut = cut
        return self._inputs

    def _phase(self, trainer: Trainer, first: int, part: PartialEpoch | None) -> bool:
        """Runs a phase's epochs from `first` on, of which `part` is done already.

        Returns:
            Whether patience ended the run.
        """
        self.run.open(lambda: run_content(self.setup), self.setup.dataset)
        profiling.trace_phase(trainer, first, self.run.folder, self.display)
        checkpointer = self._checkpointer
        with self.stop.deferred():
            for epoch in range(first, trainer.plan.last_epoch + 1):
                line = self._epoch(epoch, trainer, part if epoch == first else None)
                due = checkpointer.decide_after_epoch(line)
                if self._finished(epoch, line, trainer, due):
                    return True
                if checkpointer.signal is not None and epoch < self.setup.epochs:
                    checkpointer.save(epoch, functools.partial(snapshot_of, epoch, trainer))
                    self._stop(checkpointer.signal, f"after epoch {epoch}/{self.setup.epochs}")
        return False

    def _epoch(self, epoch: int, trainer: Trainer, part: PartialEpoch | None) -> dict[str, Any]:
        """Trains one epoch, or what is left of it."""
        checkpointer = self._checkpointer
        checkpointer.begin_epoch()

        def between(part: PartialEpoch) -> None:
            if not checkpointer.count_step():
                return
            if processes.is_distributed():
                trainer.check_finite()  # As they wait for the step anyway.
            decision = checkpointer.decide()
            if decision.remove:
                checkpointer.remove_temporary()
            if decision.save or checkpointer.signal is not None:
                trainer.check_finite()
                checkpointer.save_temporary(lambda: self._progress(epoch, part, trainer))
            if checkpointer.signal is not None:
                batch = f"batch {part.batches}/{trainer.steps_per_epoch}"
                self._stop(checkpointer.signal, f"at epoch {epoch}/{self.setup.epochs}, {batch}")

        before = self.run.history[trainer.plan.first_epoch - 1 : epoch - 1]
        losses = [line["val_loss"] for line in before]
        try:
            return trainer.epoch(epoch, between, losses, part)
        except Diverged as error:
            self._diverged(epoch, self._format_step(error.step, trainer), trainer)
        except Exception as error:
            if out_of_memory(error) is None:
                raise
            raise UserError(memory_estimate.advice(trainer, error)) from error

    def _progress(self, epoch: int, part: PartialEpoch, trainer: Trainer) -> EpochProgress:
        position = TemporaryCheckpoint(
            step=(epoch - 1) * trainer.steps_per_epoch + part.batches,
            epoch=epoch,
            batches=part.batches,
            seconds=part.seconds,
            elapsed=self._elapsed(),
            checkpoints=(),
        )
        return EpochProgress(position, trainer.state, part.sums)

    def _finished(self, epoch: int, line: dict[str, Any], trainer: Trainer, due: bool) -> bool:
        """Logs an epoch and saves what is due; True if patience ends the run."""
        if not math.isfinite(line["train_loss"] + line["val_loss"]):
            figures = f"train {line['train_loss']}, validation {line['val_loss']}"
            self._diverged(epoch, f"after the last step of epoch {epoch} ({figures})", trainer)
        used = {"optimizer_bytes": trainer.optimizer_bytes}
        self._log({**line, **used}, trainer.plan, trainer.inputs)
        best = self.run.best_epoch() == epoch
        row = console_text.epoch_row(line, self.setup.epochs, best=best)
        self._advance(1, console_text.epoch_note(line), row)
        if not self._warned and (warning := automatic.mismatch(self.setup, trainer.plan, line)):
            self._warned = True
            self.display.message(f"warning: {warning}")
        if best:
            self._val_logits = trainer.val_logits
        snapshot = functools.partial(snapshot_of, epoch, trainer)
        self._checkpointer.keep(epoch, line["seconds"], snapshot)
        stop = self.observer.after_epoch(self.run.history[-1]) or self._out_of_patience(epoch)
        # At a phase's end too: the next one may be of a size that runs out of memory.
        if stop or due or epoch == trainer.plan.last_epoch:
            self._checkpointer.save(epoch, snapshot)
        return stop

    def _stop(self, signal: int, where: str) -> NoReturn:
        """Ends the run, of which all until `where` is saved or being saved."""
        processes.shut_down_together()
        folder = shlex.quote(str(self.run.folder))
        raise Interrupted(
            signal,
            f"Stopped {where}; everything is saved. To resume:\n"
            f"  jtl train --resume --run-dir {folder}",
        )

    @staticmethod
    def _format_step(step: int, trainer: Trainer) -> str:
        each = trainer.steps_per_epoch
        epoch, within = divmod(step - 1, each)
        return f"in step {step} (epoch {epoch + 1}, step {within + 1} of {each} in it)"

    def _diverged(self, epoch: int, where: str, trainer: Trainer) -> NoReturn:
        """Keeps the last good epoch and stops the run."""
        kept = "nothing was saved, because no epoch was complete"
        self._checkpointer.save_diverged()
        if self.run.history:
            best = self.run.best_epoch()
            kept = f"the best epoch before it, epoch {best}, is saved in '{self.run.folder}'"
        rate = max(trainer.plan.learning_rates.values())
        processes.shut_down_together()
        raise UserError(
            f"the loss became NaN or infinite {where}, at learning rates up to {rate:g}; {kept}. "
            "Try a lower --lr, a longer --warmup or --clip-norm 1."
        )

    def _log(self, line: dict[str, Any], plan: PhasePlan, inputs: PhaseInputs) -> None:
        facts: dict[str, Any] = {"cut": plan.cut.unit, "cached_prefix": inputs.cached}
        added = len(self.setup.config.train.extended)
        if added and plan in self.setup.plans[-added:]:
            facts["extended"] = True
        self.run.log({**line, **facts, "elapsed": round(self._elapsed(), 3)})

    def _finish(self, train_seconds: float) -> None:
        """Reads the best epoch back, so that what is reported is what is on disk."""
        remove_temporary(self.run.folder)
        best = reading.restore(self.run.folder)
        if self._val_logits is None:
            _, self._val_logits = self._evaluated("val", best)
        self.observer.scored(self._val_logits)
        probed: dict[str, float] = {}
        if self.observer.probes and automatic.fine_tunes(self.setup):
            from jtl.train import linear_probe

            probed = linear_probe.accuracies(self.setup, self._cache, self._inputs)
        reports = self.observer.reports and processes.is_primary()
        # Before the memory of what they are computed from is free for the test split.
        features = after_results.at_hand(self.setup, best, self._inputs) if reports else None
        test_accuracy, logits = None, {"val": self._val_logits}
        if self.observer.tests and self.setup.dataset.test is not None:
            self._inputs = None
            scores, logits["test"] = self._evaluated("test", best)
            test_accuracy = scores["accuracy"]
        measured = {
            "optimizer_bytes": max(line["optimizer_bytes"] for line in self.run.history),
            "test_accuracy": test_accuracy,
            "train_seconds": train_seconds,
            "feature_seconds": self.feature_seconds,
            "features_reused": self._cache.reused,
            "probe_accuracies": probed,
        }
        summary = summarize(self.setup, best, self.run.history, logits, measured)
        if processes.is_primary() and not self.setup.dataset.multilabel:
            shares = probabilities(self._val_logits, summary["temperature"]).max(-1)
            right = self._val_logits.argmax(-1) == self.setup.dataset.val.labels
            selective.save(self.run.folder, best.epoch, selective.steps(shares, right))
        self.run.finish(summary, PLOTS if reports else ())
        if reports:
            how = features, self.plotter, self.display
            after_results.put_off(self.setup, self.run, best, self._val_logits, *how)
        if (note := console_text.probe_note(self.run.summary)) is not None:
            self.display.message(note)

    def _evaluated(self, split: str, best: Restored) -> tuple[dict[str, float], np.ndarray]:
        """Scores and logits of the best epoch on a split."""
        start, images = best.meta["start"], getattr(self.setup.dataset, split)
        inputs = self._cache.read(start, best.variables, {split: images})
        return inputs.evaluate(split, self.setup.sharding.replicate(best.variables))
