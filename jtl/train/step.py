"""The compiled steps: pure functions over a `TrainState`, donated, differentiated sparsely.

A step takes what the chain's unit before `start` gave (or images) and runs from there. It
differentiates the loss only with respect to the trainable leaves; frozen leaves come in by a
separate argument that the step does not return, so no step can change them.

A new option of the step is a new field of `TrainStep`, and a line where `Trainer` makes it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jtl.common.trees import ParamTree, merge, prune, within
from jtl.data.augment import Augmentation
from jtl.distributed.sharding import SINGLE, DataSharding
from jtl.freeze import lora
from jtl.models.chain import ImageClassifier
from jtl.models.inference import Metrics
from jtl.optim.optimizers import updated
from jtl.train.state import TrainState

AUXILIARY_WEIGHT = 0.4
"""The weight of an auxiliary head's loss beside the head's, as in PyTorch's tutorial."""


@flax.struct.dataclass
class Constants:
    """All that the steps of a phase read and leave as it is.

    Attributes:
        params: The frozen leaves of the units that run.
        batch_stats: The running statistics of these units that no step changes.
        peaks: The highest learning rate of every label, float32 scalars, for optimizers that end
            with `optim.scale_by_peak`; None for others. Operands, not parts of the program: a
            run with another learning rate has its program already.
        class_weights: How much each class counts in the loss, float32 [num_classes]; None for
            the same. Where examples have several classes, how much having one counts.
    """

    params: ParamTree
    batch_stats: ParamTree
    peaks: Mapping[str, jax.Array | np.float32] | None = None
    class_weights: jax.Array | None = None


@flax.struct.dataclass
class Batch:
    """The examples of one step, or all of an epoch that is one program.

    Attributes:
        x: Images or features at the step's `start`, [N, ...].
        labels: int32 [N]; or 0 and 1, [N, num_classes], where examples have several classes.
        examples: Indices of the examples in their split, int32 [N]; for augmentation alone.
        epoch: Which random draw of the images is taken, int32; for augmentation alone.
    """

    x: Any
    labels: Any
    examples: Any = None
    epoch: Any = None


@flax.struct.dataclass
class StepMetrics(Metrics):
    """What a step tells: sums over its examples, and norms over all trainable params together.

    Attributes:
        gradient_norm: Before clipping.
        update_norm: Of what the params have moved by; 0 where the gradient was only accumulated.
        param_norm: After the update.
    """

    gradient_norm: jax.Array | np.float32 = np.float32(0)
    update_norm: jax.Array | np.float32 = np.float32(0)
    param_norm: jax.Array | np.float32 = np.float32(0)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """What a training step is compiled for, and the step: `state, metrics = step(...)`.

    Compared by value: steps that are equal share their compiled program.

    Attributes:
        model: The classifier.
        tx: The optimizer.
        start: Path of the first unit to run; None for the first of all.
        train_units: Paths of the units in train mode: with dropout.
        stats_units: Paths of the units that normalize with the batch's statistics.
        prepare: Makes the chain's input from `Batch.x`, such as uint8 images into normalized
            ones; None takes it as it is.
        augment: Makes the chain's input from uint8 images instead of `prepare`, at random, and
            may mix labels.
        smoothing: Share of a label that is spread evenly over all classes; of several labels,
            over yes and no of each.
        multilabel: Whether examples have several classes.
        lora_scale: Factor of what adapters among the params add to kernels; see `jtl.freeze.lora`.
        sharding: The devices that share the batch; N must be a multiple of them.
    """

    model: ImageClassifier
    tx: optax.GradientTransformation
    start: str | None
    train_units: frozenset[str]
    stats_units: frozenset[str]
    prepare: Callable[[jax.Array], jax.Array] | None = None
    augment: Augmentation | None = None
    smoothing: float = 0.0
    sharding: DataSharding = SINGLE
    multilabel: bool = False
    lora_scale: float = 1.0

    def __call__(
        self, state: TrainState, constants: Constants, batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        """One update.

        Args:
            state: Donated; use the returned one.
            constants: Frozen leaves, learning rates, class weights.
            batch: Its examples.

        Returns:
            The new state; the sums of loss (without class weights) and hits before the update,
            and norms.
        """
        return train_step(state, constants, batch, step=self)

    def epoch(
        self, state: TrainState, constants: Constants, table: Batch, batches: np.ndarray
    ) -> tuple[TrainState, StepMetrics]:
        """Many updates in one dispatch, over data that lie on the device.

        Args:
            state: Donated; use the returned one.
            constants: As of one update.
            table: All examples; they may be divided among the devices.
            batches: Indices of the examples of each step, int32 [steps, batch_size].

        Returns:
            The new state; the sums over all steps, and the norms of the last one.
        """
        return train_epoch(state, constants, table, batches, step=self)

    def update(
        self, state: TrainState, constants: Constants, batch: Batch
    ) -> tuple[TrainState, StepMetrics]:
        """The update as it is traced."""
        x, labels = self.sharding.sharded((batch.x, batch.labels))
        targets = labels
        if self.augment is not None:
            x, targets = self.augment(state.rng, x, labels, batch.examples, batch.epoch, state.step)
        elif self.prepare is not None:
            x = self.prepare(x)
        x = self.sharding.sharded(x)
        gradient = jax.grad(self._loss, has_aux=True)
        grads, (logits, loss_sum, batch_stats) = gradient(
            state.params, state, constants, x, targets
        )
        given = {} if constants.peaks is None else {"peaks": constants.peaks}
        update = optax.with_extra_args_support(self.tx).update
        updates, opt_state = update(grads, state.opt_state, state.params, **given)
        params: Any = optax.apply_updates(state.params, updates)
        # Frozen units return their statistics as they came; only live ones are kept.
        batch_stats = prune(batch_stats, within(self.stats_units))
        average = state.average
        if average is not None:
            average = average.after(params, batch_stats, updated(opt_state))
        fails = (state.not_finite == 0) & ~jnp.isfinite(loss_sum)
        state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            rng=state.rng,
            not_finite=jnp.where(fails, state.step + 1, state.not_finite),
            average=average,
        )
        if self.multilabel:
            hits = jnp.all((logits > 0) == (targets > 0.5), -1)
        else:  # Of mixed images the class that has most of them.
            dominant = targets if targets.ndim == 1 else jnp.argmax(targets, -1)
            hits = jnp.argmax(logits, -1) == dominant
        correct = jnp.sum(hits, dtype=jnp.int32)
        # Of the trainable leaves alone, so that no norm needs a frozen leaf's gradient.
        norms = map(_norm, (grads, updates, params))
        metrics = StepMetrics(loss_sum, correct, jnp.int32(len(labels)), *norms)
        return self.sharding.replicated((state, metrics))

    def _loss(
        self,
        trainable: ParamTree,
        state: TrainState,
        constants: Constants,
        x: jax.Array,
        targets: jax.Array,
    ) -> tuple[jax.Array, Any]:
        """What is minimized; and beside it (logits, sum of the plain losses, statistics)."""
        variables = {
            "params": lora.merged(merge(trainable, constants.params), self.lora_scale),
            "batch_stats": merge(state.batch_stats, constants.batch_stats),
        }
        logits, updates = self.model.apply(
            variables,
            x,
            start=self.start,
            train=self.train_units,
            stats=self.stats_units,
            mutable=["batch_stats", "auxiliary"],
            rngs={"dropout": jax.random.fold_in(state.rng, state.step)},
        )
        weights, of = constants.class_weights, _binary_losses if self.multilabel else _losses
        losses = of(logits, targets, smoothing=self.smoothing)
        objective = of(logits, targets, weights, self.smoothing).mean()
        for beside in jax.tree.leaves(updates.get("auxiliary", {})):
            objective += AUXILIARY_WEIGHT * of(beside, targets, weights, self.smoothing).mean()
        return objective, (logits, losses.sum(), updates.get("batch_stats", {}))


_SMALL = 1 << 16
"""Elements of a leaf that costs less to copy than a reduction of its own costs to compile."""


def _norm(tree: Any) -> jax.Array:
    """The norm of all leaves together, by few reductions.

    XLA compiles each by itself. A reduction for every leaf, three norms of them, were two thirds of
    a step's program, and most leaves are a normalization's scale or offset.
    """
    leaves = jax.tree.leaves(tree)
    parts = [leaf for leaf in leaves if leaf.size > _SMALL]
    if small := [leaf.ravel() for leaf in leaves if leaf.size <= _SMALL]:
        parts.append(jnp.concatenate(small))
    return jnp.sqrt(sum((jnp.sum(jnp.square(part)) for part in parts), jnp.float32(0)))


def _losses(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array | None = None,
    smoothing: float = 0.0,
) -> jax.Array:
    """Cross entropy [N] with classes int32 [N], or with their shares [N, num_classes].

    Smoothed labels come first; then the logarithm of each class's probability counts as much as
    `weights` [num_classes] says.
    """
    if smoothing:
        if targets.ndim == 1:
            targets = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
        targets = optax.smooth_labels(targets, smoothing)
    if targets.ndim > 1:
        shares = targets if weights is None else targets * weights.reshape(1, -1)
        return optax.softmax_cross_entropy(logits, shares)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return losses if weights is None else losses * weights[targets]


def _binary_losses(
    logits: jax.Array,
    targets: jax.Array,
    weights: jax.Array | None = None,
    smoothing: float = 0.0,
) -> jax.Array:
    """Sigmoid cross entropy, the mean over the classes: [N].

    Smoothed labels come first; then the logarithm of a class's probability counts as much as
    `weights` [num_classes] says, that of its absence once.
    """
    targets = targets.astype(logits.dtype)
    targets = (1 - smoothing) * targets + smoothing / 2 if smoothing else targets
    if weights is None:
        return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)
    present = jax.nn.log_sigmoid(logits) * weights.reshape(1, -1)
    return -(targets * present + (1 - targets) * jax.nn.log_sigmoid(-logits)).mean(-1)


def _train_step(
    state: TrainState, constants: Constants, batch: Batch, *, step: TrainStep
) -> tuple[TrainState, StepMetrics]:
    return step.update(state, constants, batch)


train_step = jax.jit(_train_step, static_argnames="step", donate_argnames="state")
"""`TrainStep.__call__`, compiled."""


@functools.partial(jax.jit, static_argnames="step", donate_argnames="state")
def train_epoch(
    state: TrainState, constants: Constants, table: Batch, batches: jax.Array, *, step: TrainStep
) -> tuple[TrainState, StepMetrics]:
    """`TrainStep.epoch`, compiled."""
    sharding = step.sharding

    def body(state: TrainState, indices: jax.Array):
        x, labels = sharding.take(table.x, indices), sharding.take(table.labels, indices)
        return step.update(state, constants, Batch(x, labels))

    state, metrics = lax.scan(body, state, batches)
    last = jax.tree.map(lambda values: values[-1], metrics)
    sums = {name: getattr(metrics, name) for name in ("loss", "correct", "count")}
    sums = jax.tree.map(lambda values: values.sum(0, dtype=values.dtype), sums)
    return sharding.replicated((state, dataclasses.replace(last, **sums)))
