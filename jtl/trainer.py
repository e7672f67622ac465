"""The epochs of one phase."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl import optim, steps
from jtl.arms import Arm, cut_of
from jtl.data.pipeline import Examples, Features, Views, ahead, draw_of, shuffled
from jtl.features import evaluate
from jtl.freeze.groups import is_head
from jtl.freeze.split import Tree, merge
from jtl.plan import PhasePlan, began
from jtl.task import Task


class Trainer:
    """One phase on the device: its state, its compiled steps, its epochs.

    Attributes:
        state: What the steps change.
        frozen: The leaves that they do not.
        tx: The optimizer.
        peaks: The highest learning rate of every label, which a step takes beside `tx`.
    """

    def __init__(self, task: Task, plan: PhasePlan, arm: Arm, variables: Tree):
        """Starts a phase from whole `variables`, with fresh optimizer state."""
        self.task, self.plan, self.arm = task, plan, arm
        train = task.config.train
        self._per_epoch = steps_per_epoch(task)
        # The schedules are shares of the highest rates: see `optim.scale_by_peak`.
        self._shares = {
            label: optim.schedule(
                train.schedule, 1.0, plan.phase.epochs * self._per_epoch, self._steps_before(label)
            )
            for label in plan.learning_rates
        }
        self.peaks = {label: np.float32(rate) for label, rate in plan.learning_rates.items()}
        self._highest = self._highest_rates()
        weights = task.class_weights
        self._class_weights = None if weights is None else jnp.asarray(weights)
        self.val_logits: np.ndarray | None = None
        """Of the last epoch's evaluation, [N, num_classes]."""
        self.tx = optim.build(
            plan.labels, {label: self._transform(label) for label in self._shares}
        )
        params, stats, self.frozen = jax.device_put(
            (
                plan.trainable_params(variables),
                plan.live_batch_stats(variables),
                plan.frozen(variables),
            )
        )
        self.state = steps.init_state(params, stats, self.tx, train.seed)
        first_step = (plan.first_epoch - 1) * self._per_epoch
        self.state = dataclasses.replace(self.state, step=jnp.int32(first_step))

    @property
    def optimizer_bytes(self) -> int:
        """Memory of the optimizer's state."""
        return sum(x.nbytes for x in jax.tree.leaves(self.state.opt_state))

    def variables(self) -> Tree:
        """The whole trees, trained and frozen leaves together, on the device."""
        trained = {"params": self.state.params, "batch_stats": self.state.batch_stats}
        return {key: merge(self.frozen[key], trained[key]) for key in trained}

    def carry_over(self, opt_state: Any) -> None:
        """Takes the state of leaves that go on training from the phase before."""
        carried = optim.carry(opt_state, self.state.opt_state, began)
        # Copies: the step donates its state, and two states must not share a buffer.
        self.state = dataclasses.replace(self.state, opt_state=jax.tree.map(jnp.copy, carried))

    def restore(self, epoch: int, opt_state: Any) -> None:
        """Goes on after `epoch` with the optimizer's state of a checkpoint."""
        self.state = dataclasses.replace(
            self.state, step=jnp.int32(epoch * self._per_epoch), opt_state=jax.device_put(opt_state)
        )

    def epoch(
        self,
        epoch: int,
        train: Examples,
        val: Examples,
        leave: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any] | None:
        """Trains one epoch and evaluates it.

        Args:
            epoch: 1-based, through all phases; decides the order of the examples.
            train: Examples to train on, as the arm takes them.
            val: Examples to evaluate on.
            leave: Asked after every step but the last whether to leave the epoch as it is.

        Returns:
            The epoch's line of `metrics.jsonl`; None if it was left.
        """
        config = self.task.config.train
        began_at = time.perf_counter()
        if isinstance(train, Views):
            train = train.of_epoch(epoch)
        batches = shuffled(len(train), config.batch_size, config.seed, epoch)
        sums = self._steps(epoch, train, batches, leave)
        if sums is None:
            return None
        total = sums.means()  # Waits for the last step.
        seconds = time.perf_counter() - began_at
        scores, self.val_logits = evaluate(
            val,
            self.variables(),
            model=self.task.model,
            start=self.arm.start,
            prepare=self.arm.prepare,
            batch_size=self.arm.eval_batch,
        )
        return {
            "epoch": epoch,
            "mask": self.plan.phase.mask,
            "train_loss": total["loss"],
            "train_accuracy": total["accuracy"],
            "val_loss": scores["loss"],
            "val_accuracy": scores["accuracy"],
            "learning_rate": float(self._highest[epoch - self.plan.first_epoch]),
            "seconds": seconds,
            "images_per_second": batches.size / seconds,
        }

    def _steps(
        self, epoch: int, train: Examples, batches: np.ndarray, leave: Callable[[], bool]
    ) -> steps.Metrics | None:
        common: dict[str, Any] = dict(
            model=self.task.model,
            tx=self.tx,
            peaks=self.peaks,
            class_weights=self._class_weights,
            start=self.arm.start,
            train_units=self.plan.split.train_units,
            prepare=self.arm.prepare,
        )
        if isinstance(train, Features) and train.on_device and self.arm.start == "head":
            labels = jnp.asarray(train.labels)
            self.state, total = steps.train_epoch(
                self.state, self.frozen, train.values, labels, jnp.asarray(batches), **common
            )
            return total
        augment = self.task.inputs.augmentation if self.arm.start is None else None
        # Without features that had no room, a run is still the same.
        views = self.task.inputs.views if cut_of(self.plan.split) is not None else 0
        draw = np.int32(draw_of(epoch, views))
        total = steps.Metrics.zero()
        for images, (number, indices) in zip(
            ahead(train, list(batches)), enumerate(batches, 1), strict=True
        ):
            drawn_by = (None, None) if augment is None else (indices, draw)
            self.state, metrics = steps.train_step(
                self.state,
                self.frozen,
                images,
                train.labels[indices],
                *drawn_by,
                **common,
                augment=augment,
            )
            total = total + metrics
            if number < len(batches) and leave():
                return None
        return total

    def _transform(self, label: str) -> optax.GradientTransformation:
        config = self.task.config.train
        tx = optim.transform(config.optimizer, self._shares[label], config.weight_decay)
        if config.l2_sp and not is_head(label):
            tx = optax.chain(optim.l2_sp(config.l2_sp, self.task.variables["params"]), tx)
        return optax.chain(tx, optim.scale_by_peak(label))

    def _steps_before(self, label: str) -> int:
        """Steps that a label's leaves have trained before this phase."""
        first = self.task.plans[began(label)].first_epoch
        return (self.plan.first_epoch - first) * self._per_epoch

    def _highest_rates(self) -> np.ndarray:
        """The highest learning rate of every epoch's last step, in the order of the epochs."""
        taken = np.arange(1, self.plan.phase.epochs + 1) * self._per_epoch - 1
        rates = [
            # Compiled as a whole: operation by operation it would be a dozen programs.
            self.peaks[label]
            * np.broadcast_to(jax.jit(share)(taken + self._steps_before(label)), taken.shape)
            for label, share in self._shares.items()
        ]
        return np.max(rates, axis=0)


def steps_per_epoch(task: Task) -> int:
    """Whole batches in an epoch; at least one, of what there is."""
    return max(len(task.dataset.train) // task.config.train.batch_size, 1)
