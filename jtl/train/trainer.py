"""The epochs of one phase."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jtl.cache.phase_inputs import PhaseInputs
from jtl.common.trees import ParamTree, merge
from jtl.data.loader import Examples, Features, Views, prefetch
from jtl.data.sampler import batches_of, draw_of
from jtl.freeze import lora
from jtl.freeze.phase_plan import PhasePlan, first_phase
from jtl.models.inference import Metrics
from jtl.optim import optimizers
from jtl.runs import metrics
from jtl.train import step as steps
from jtl.train.phase_optimizer import PhaseOptimizer
from jtl.train.setup import Setup
from jtl.train.state import Average, TrainState, init_state

FINITE_SECONDS = 2.0
"""How often a long epoch is asked whether its losses are finite, for which it must wait."""


class Diverged(ArithmeticError):
    """A step's loss was not finite.

    Attributes:
        step: The step's number, 1-based, through the whole run.
    """

    def __init__(self, step: int):
        super().__init__(f"the loss of step {step} is not finite")
        self.step = step


class PartialEpoch(NamedTuple):
    """How far an epoch is.

    Attributes:
        batches: That are done.
        sums: Over their examples.
        seconds: That they took.
    """

    batches: int
    sums: Metrics
    seconds: float


class Trainer:
    """One phase on the device: its state, its compiled steps, its epochs.

    Attributes:
        state: What the steps change.
        constants: What they read: frozen leaves, learning rates, class weights.
        step: The step, with the optimizer.
        steps_per_epoch: Batches in an epoch.
        val_logits: Of the last epoch's evaluation, [N, num_classes].
    """

    def __init__(self, setup: Setup, plan: PhasePlan, inputs: PhaseInputs, variables: ParamTree):
        """Starts a phase from whole `variables`, with fresh optimizer state."""
        self.setup, self.plan, self.inputs = setup, plan, inputs
        config = setup.config
        self.steps_per_epoch = setup.steps_per_epoch
        optimizer = PhaseOptimizer(setup, plan)
        self._highest = optimizer.highest_rates()
        self.val_logits: np.ndarray | None = None
        self._last = steps.StepMetrics.zero()
        tx = optimizer.transform()
        sharding = setup.sharding
        params, stats, frozen, weights = sharding.replicate(
            (
                plan.trainable_params(variables),
                plan.live_batch_stats(variables),
                plan.frozen(variables),
                setup.class_weights,
            )
        )
        self.constants = steps.Constants(**frozen, peaks=self._peaks(), class_weights=weights)
        self.step = steps.TrainStep(
            model=setup.model,
            tx=tx,
            start=inputs.start,
            train_units=plan.cut.train_units,
            stats_units=plan.cut.stats_units,
            prepare=inputs.prepare,
            augment=setup.inputs.augmentation if inputs.start is None else None,
            smoothing=plan.recipe.label_smoothing,
            sharding=sharding,
            multilabel=setup.dataset.multilabel,
            lora_scale=1.0 if setup.adapters is None else setup.adapters.scale,
        )
        self.state = init_state(params, stats, tx, config.train.seed, plan.recipe.ema, sharding)
        first_step = np.int32((plan.first_epoch - 1) * self.steps_per_epoch)
        self.state = dataclasses.replace(self.state, step=sharding.replicate(first_step))

    @property
    def optimizer_bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self.state.opt_state))

    def variables(self) -> ParamTree:
        """The whole trees so far, on the device; averages where they are kept.

        With adapters where there are some, which `evaluate` merges.
        """
        return self._whole(self.state if self.state.average is None else self.state.average)

    def last_variables(self) -> ParamTree:
        """The whole trees as the last step left them, from which the next phase begins."""
        return self._whole(self.state)

    def _whole(self, trained: TrainState | Average) -> ParamTree:
        frozen = self.constants
        return {
            "params": merge(frozen.params, trained.params),
            "batch_stats": merge(frozen.batch_stats, trained.batch_stats),
        }

    def carry_over(self, opt_state: Any) -> None:
        """Takes the state of leaves that go on training from the phase before."""
        carried = optimizers.carry(opt_state, self.state.opt_state, first_phase)
        # Copies: the step donates its state, and two states must not share a buffer.
        self.state = dataclasses.replace(self.state, opt_state=jax.tree.map(jnp.copy, carried))

    def restore(self, epoch: int, saved: Any) -> None:
        """Goes on after `epoch` of a checkpoint, whose variables this phase has started from."""
        put = self.setup.sharding.replicate
        state, step = self.state, put(np.int32(epoch * self.steps_per_epoch))
        saved = put(saved)
        if state.average is None:
            self.state = dataclasses.replace(state, step=step, opt_state=saved)
            return
        average = dataclasses.replace(state.average, count=saved.pop("count"))
        self.state = dataclasses.replace(state, step=step, average=average, **saved)

    def epoch(
        self,
        epoch: int,
        between: Callable[[PartialEpoch], None] = lambda part: None,
        losses: Sequence[float] = (),
        part: PartialEpoch | None = None,
    ) -> dict[str, Any]:
        """Trains one epoch and evaluates it.

        Args:
            epoch: 1-based, through all phases; decides the order of the examples.
            between: Called after every step but the last, if steps are dispatched one by one; may
                raise to leave the epoch.
            losses: Validation losses of the phase's epochs before.
            part: What is done of the epoch already, where it goes on from there.

        Returns:
            The epoch's line of `metrics.jsonl`.

        Raises:
            Diverged: A step's loss was not finite.
        """
        scale = self.plan.recipe.scale_after(losses)
        began_at = time.perf_counter() - (part.seconds if part else 0.0)
        train, batches = self._order_of(epoch)
        sums = self._steps(epoch, train, batches, between, scale, part)
        total = sums.means()  # Waits for the last step.
        self.check_finite()
        seconds = time.perf_counter() - began_at
        scores, self.val_logits = self.evaluate()
        return {
            "epoch": epoch,
            "mask": self.plan.phase.mask,
            "train_loss": total["loss"],
            "train_accuracy": total["accuracy"],
            "val_loss": scores["loss"],
            "val_accuracy": scores["accuracy"],
            **metrics.in_line(
                self.setup.config.train.metric, self.val_logits, self.setup.dataset.val.labels
            ),
            "learning_rate": float(scale * self._highest[epoch - self.plan.first_epoch]),
            **self._norms(),
            "seconds": seconds,
            "images_per_second": batches.size / seconds,
        }

    def _peaks(self, scale: float = 1.0) -> dict[str, jax.Array]:
        """The highest learning rate of every label, at a share of it."""
        rates = self.plan.learning_rates
        return self.setup.sharding.replicate(
            {label: np.float32(scale * np.float32(rate)) for label, rate in rates.items()}
        )

    def _norms(self) -> dict[str, float]:
        """Those of the last step, over all trainable params together."""
        last = jax.device_get(self._last)
        names = ("gradient_norm", "update_norm", "param_norm")
        return {name: float(getattr(last, name)) for name in names}

    def evaluate(self) -> tuple[dict[str, float], np.ndarray]:
        """Scores and logits of the validation images by `variables`."""
        variables = self.variables()
        if self.setup.adapters is not None:  # Merged on the device: they are not copied.
            params = lora.merged_on_device(variables["params"], scale=self.step.lora_scale)
            variables = {**variables, "params": params}
        return self.inputs.evaluate("val", variables)

    def check_finite(self) -> None:
        """Waits for the last step; raises `Diverged` if a step's loss was not finite."""
        if step := int(jax.device_get(self.state.not_finite)):
            raise Diverged(step)

    def _steps(
        self,
        epoch: int,
        train: Examples,
        batches: np.ndarray,
        between: Callable[[PartialEpoch], None],
        scale: float,
        part: PartialEpoch | None = None,
    ) -> Metrics:
        """Takes the steps that are left of an epoch; the sums over all of it."""
        done, began_at = 0, time.perf_counter()
        if part is not None:
            done, began_at = part.batches, began_at - part.seconds
            self.state = self.setup.sharding.replicate(self.state)
        left = batches[done:]
        constants = dataclasses.replace(self.constants, peaks=self._peaks(scale))
        if self._at_once(train):
            assert isinstance(train, Features)
            put = self.setup.sharding.replicate
            table, left = steps.Batch(train.values, put(train.labels)), put(left)
            with jax.transfer_guard("disallow"):
                self.state, self._last = self.step.epoch(self.state, constants, table, left)
            return part.sums + self._last if part else self._last
        total = self.setup.sharding.replicate(part.sums if part else Metrics.zero())
        looked_at = time.perf_counter()
        several = self.setup.sharding.spans_processes
        for images, (number, indices) in zip(
            prefetch(train, list(left), self.setup.sharding), enumerate(left, done + 1), strict=True
        ):
            with (
                jax.profiler.StepTraceAnnotation("train", step_num=number),
                jax.transfer_guard("disallow"),
            ):
                batch = self._batch(epoch, images, train.labels[indices], indices)
                total = total + self._step(constants, batch)
            if number < len(batches):
                between(PartialEpoch(number, total, time.perf_counter() - began_at))
            # Many processes look where they ask each other, so that all do.
            if not several and time.perf_counter() - looked_at > FINITE_SECONDS:
                self.check_finite()
                looked_at = time.perf_counter()
        return total

    def _step(self, constants: steps.Constants, batch: steps.Batch) -> steps.StepMetrics:
        self.state, self._last = self.step(self.state, constants, batch)
        return self._last

    def _batch(
        self, epoch: int, images: Any, labels: np.ndarray, indices: np.ndarray
    ) -> steps.Batch:
        """The examples `indices`, `images` (or features) and `labels`, on the device."""
        put = self.setup.sharding.replicate
        if isinstance(images, np.ndarray):  # Of several devices the loader has put them.
            images = jax.device_put(images)
        if self.step.augment is None:
            return steps.Batch(images, put(labels))
        # Without features that had no room, a run is still the same.
        views = self.setup.inputs.views if self.plan.cut.features_at else 0
        draw = np.int32(draw_of(epoch, views))
        return steps.Batch(images, *put((labels, indices, draw)))

    def run_steps(self, epoch: int, count: int) -> int:
        """Takes the first steps of an epoch, or all of one that is a single dispatch.

        Returns:
            How many.
        """
        train, batches = self._order_of(epoch)
        if not self._at_once(train):
            batches = batches[:count]
        self._steps(epoch, train, batches, lambda part: None, 1.0)
        return len(batches)

    def _order_of(self, epoch: int) -> tuple[Examples, np.ndarray]:
        """What an epoch trains on, and its batches [steps_per_epoch, batch]."""
        train = self._train(epoch)
        options = self.setup.config.train
        balanced = options.sampler == "balanced"
        batches = batches_of(train.labels, options.batch, options.seed, epoch, balanced=balanced)
        return train, batches[: self.steps_per_epoch]

    def _train(self, epoch: int) -> Examples:
        train = self.inputs.examples["train"]
        return train.of_epoch(epoch) if isinstance(train, Views) else train

    def _at_once(self, train: Examples) -> bool:
        """Whether an epoch is a single dispatch."""
        return isinstance(train, Features) and train.on_device and self.inputs.start == "head"

    def try_step(self, epoch: int, indices: np.ndarray, scale: float) -> float:
        """One step by itself, at a multiple of the learning rates; its mean loss before."""
        train = self._train(epoch)
        constants = dataclasses.replace(self.constants, peaks=self._peaks(scale))
        [images] = prefetch(train, [indices], self.setup.sharding)
        batch = self._batch(epoch, images, train.labels[indices], indices)
        return self._step(constants, batch).means()["loss"]


def last_step_of(plan: PhasePlan, variables: ParamTree, saved: Any) -> tuple[ParamTree, Any]:
    """Variables and optimizer state as a phase's last step left them.

    Args:
        plan: The phase.
        variables: Of a checkpoint after its last epoch.
        saved: `TrainState.saved` in that checkpoint.
    """
    if not (isinstance(saved, dict) and "opt_state" in saved):
        return variables, saved
    frozen = plan.frozen(variables)
    return {key: merge(frozen[key], saved[key]) for key in frozen}, saved["opt_state"]
