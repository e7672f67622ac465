"""The compiled steps: pure functions over a `TrainState`, donated, differentiated sparsely.

A step takes what the chain's unit before `start` gave (or images) and runs from there. It
differentiates the loss only with respect to the trainable leaves; frozen leaves come in by a
separate argument that the step does not return, so no step can change them.
"""

from __future__ import annotations

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
from jtl.distributed.layout import SINGLE, Layout
from jtl.models.chain import ImageClassifier
from jtl.optim.optimizers import updated


@flax.struct.dataclass
class Average:
    """An exponential moving average of what trains.

    Attributes:
        decay: What an update leaves of the average, float32: as given, but less in the first
            updates, (1 + n) / (10 + n), so that the start is soon forgotten.
        count: Updates it has seen, int32.
        params: Averages of the trainable leaves.
        batch_stats: Averages of the running statistics of the units in train mode.
    """

    decay: jax.Array
    count: jax.Array
    params: ParamTree
    batch_stats: ParamTree

    @classmethod
    def of(cls, decay: float, params: ParamTree, batch_stats: ParamTree) -> Average:
        """An average that begins with copies of what is given."""
        params, batch_stats = jax.tree.map(jnp.array, (params, batch_stats))
        return cls(jnp.float32(decay), jnp.int32(0), params, batch_stats)

    def after(self, params: ParamTree, batch_stats: ParamTree, moved: jax.Array | bool) -> Average:
        """The average after a step, which has made an update if `moved`."""
        decay = jnp.minimum(self.decay, (1.0 + self.count) / (10.0 + self.count))
        keep = jnp.where(moved, decay, 1.0)

        def mean(old: jax.Array, new: jax.Array) -> jax.Array:
            return old + (1.0 - keep) * (new - old)

        return Average(
            self.decay,
            self.count + jnp.asarray(moved, jnp.int32),
            jax.tree.map(mean, self.params, params),
            jax.tree.map(mean, self.batch_stats, batch_stats),
        )


AUXILIARY_WEIGHT = 0.4
"""Of the loss of an auxiliary head beside that of the head, as PyTorch's tutorial weighs it."""


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
        step: Steps taken, int32.
        params: The trainable leaves.
        batch_stats: The running statistics of the units in train mode.
        opt_state: The optimizer's state for `params`.
        rng: Key that the randomness of steps derives from: dropout with the step's number,
            augmentation also with epoch and example.
        not_finite: Number of the first step, from 1 on, whose loss was not finite; 0 for none.
        average: The moving average, where one is kept.
    """

    step: jax.Array
    params: ParamTree
    batch_stats: ParamTree
    opt_state: Any
    rng: jax.Array
    not_finite: jax.Array
    average: Average | None = None


@flax.struct.dataclass
class Metrics:
    """Sums over examples, so that they add up over batches of any size."""

    loss: jax.Array | np.float32
    correct: jax.Array | np.int32
    count: jax.Array | np.int32

    @classmethod
    def zero(cls) -> Metrics:
        """The sums over no examples."""
        # NumPy's, which go with arrays on any devices.
        return cls(np.float32(0), np.int32(0), np.int32(0))

    def __add__(self, other: Metrics) -> Metrics:
        return jax.tree.map(jnp.add, self, other)

    def means(self) -> dict[str, float]:
        """{"loss", "accuracy"} as Python numbers; waits for the device."""
        loss, correct, count = jax.device_get((self.loss, self.correct, self.count))
        count = max(int(count), 1)
        return {"loss": float(loss) / count, "accuracy": int(correct) / count}


def init_state(
    params: ParamTree,
    batch_stats: ParamTree,
    tx: optax.GradientTransformation,
    seed: int = 0,
    ema: float = 0.0,
    layout: Layout = SINGLE,
) -> TrainState:
    """A fresh state before the first step; optimizer slots for `params` alone.

    Args:
        params: The trainable leaves.
        batch_stats: The running statistics of the units in train mode.
        tx: The optimizer.
        seed: Of the randomness of steps.
        ema: Decay of a moving average; 0 for none.
        layout: The devices, on all of which `params` and `batch_stats` are.
    """

    # One program: leaf by leaf it would be one for every shape.
    @jax.jit
    def begin(params: ParamTree, seed: np.uint32) -> tuple[Any, jax.Array]:
        return layout.whole((tx.init(params), jax.random.key(seed)))

    opt_state, rng = begin(params, np.uint32(seed))
    average = layout.put_whole(Average.of(ema, params, batch_stats)) if ema else None
    step, not_finite = (layout.put_whole(np.int32(0)) for _ in range(2))
    return TrainState(step, params, batch_stats, opt_state, rng, not_finite, average)


def _train_step(
    state: TrainState,
    frozen: ParamTree,
    x: jax.Array,
    labels: jax.Array,
    examples: jax.Array | None = None,
    epoch: jax.Array | int | None = None,
    peaks: Mapping[str, jax.Array] | None = None,
    class_weights: jax.Array | None = None,
    *,
    model: ImageClassifier,
    tx: optax.GradientTransformation,
    start: str | None,
    train_units: frozenset[str],
    prepare: Callable[[jax.Array], jax.Array] | None = None,
    augment: Augmentation | None = None,
    smoothing: float = 0.0,
    layout: Layout = SINGLE,
) -> tuple[TrainState, Metrics]:
    """One update; see `train_step`."""
    x, labels = layout.split((x, labels))
    targets = labels
    if augment is not None:
        assert examples is not None
        assert epoch is not None
        x, targets = augment(state.rng, x, labels, examples, epoch, state.step)
    elif prepare is not None:
        x = prepare(x)
    x = layout.split(x)

    def loss_fn(trainable: ParamTree):
        variables = {
            "params": merge(trainable, frozen["params"]),
            "batch_stats": merge(state.batch_stats, frozen["batch_stats"]),
        }
        logits, updates = model.apply(
            variables,
            x,
            start=start,
            train=train_units,
            mutable=["batch_stats", "auxiliary"],
            rngs={"dropout": jax.random.fold_in(state.rng, state.step)},
        )
        losses = _losses(logits, targets, smoothing=smoothing)
        objective = _losses(logits, targets, class_weights, smoothing).mean()
        for beside in jax.tree.leaves(updates.get("auxiliary", {})):
            objective += (
                AUXILIARY_WEIGHT * _losses(beside, targets, class_weights, smoothing).mean()
            )
        return objective, (logits, losses.sum(), updates.get("batch_stats", {}))

    gradient = jax.grad(loss_fn, has_aux=True)
    grads, (logits, loss_sum, batch_stats) = gradient(state.params)
    given = {} if peaks is None else {"peaks": peaks}
    update = optax.with_extra_args_support(tx).update
    updates, opt_state = update(grads, state.opt_state, state.params, **given)
    params: Any = optax.apply_updates(state.params, updates)
    # Frozen units return their statistics as they came; only live ones are kept.
    batch_stats = prune(batch_stats, within(train_units))
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
    # Of mixed images the class that has most of them.
    dominant = targets if targets.ndim == 1 else jnp.argmax(targets, -1)
    correct = jnp.sum(jnp.argmax(logits, -1) == dominant, dtype=jnp.int32)
    return layout.whole((state, Metrics(loss_sum, correct, jnp.int32(len(labels)))))


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


_STATIC = ("model", "tx", "start", "train_units", "prepare", "smoothing", "layout")

train_step = jax.jit(_train_step, static_argnames=(*_STATIC, "augment"), donate_argnames="state")
"""One update.

Args:
    state: Donated; use the returned one.
    frozen: {"params", "batch_stats"}: the frozen leaves of the units that run.
    x: Images or features at `start`, [N, ...].
    labels: int32 [N].
    examples: Indices of the examples in their split, int32 [N]; for `augment` alone.
    epoch: Number of the epoch; for `augment` alone.
    peaks: The highest learning rate of every label, float32 scalars, for optimizers that end
        with `optim.scale_by_peak`; None for others.
    class_weights: How much each class counts in the loss, float32 [num_classes]; None for the same.
    model, tx, start, train_units: Static: the classifier, the optimizer, the path of the
        first unit to run, the paths of the units in train mode.
    prepare: Static: makes the chain's input from `x`, such as uint8 images into normalized
        ones; None takes `x` as it is.
    augment: Static: makes the chain's input from uint8 images instead of `prepare`, at random,
        and may mix labels.
    smoothing: Static: share of a label that is spread evenly over all classes.
    layout: Static: the devices that share the batch; N must be a multiple of them.

Returns:
    The new state, and the sums of loss (without class weights) and hits before the update.
"""


@functools.partial(jax.jit, static_argnames=_STATIC, donate_argnames="state")
def train_epoch(
    state: TrainState,
    frozen: ParamTree,
    x: jax.Array,
    labels: jax.Array,
    batches: jax.Array,
    peaks: Mapping[str, jax.Array] | None = None,
    class_weights: jax.Array | None = None,
    *,
    model: ImageClassifier,
    tx: optax.GradientTransformation,
    start: str | None,
    train_units: frozenset[str],
    prepare: Callable[[jax.Array], jax.Array] | None = None,
    smoothing: float = 0.0,
    layout: Layout = SINGLE,
) -> tuple[TrainState, Metrics]:
    """Many updates in one dispatch, over data that lie on the device.

    Args:
        state: Donated; use the returned one.
        frozen: As in `train_step`.
        x: All examples [N, ...].
        labels: All labels, int32 [N].
        batches: Indices of the examples of each step, int32 [steps, batch_size].
        peaks: As in `train_step`.
        class_weights: As in `train_step`.
        model: As in `train_step`, like the rest.
        tx: The optimizer.
        start: Path of the first unit to run.
        train_units: Paths of the units in train mode.
        prepare: Applied to each step's part of `x`.
        smoothing: As in `train_step`.
        layout: As in `train_step`; `x` may be divided among the devices.
    """

    def body(state: TrainState, indices: jax.Array):
        return _train_step(
            state,
            frozen,
            layout.rows(x, indices),
            layout.rows(labels, indices),
            peaks=peaks,
            class_weights=class_weights,
            model=model,
            tx=tx,
            start=start,
            train_units=train_units,
            prepare=prepare,
            smoothing=smoothing,
            layout=layout,
        )

    state, metrics = lax.scan(body, state, batches)
    return layout.whole((state, jax.tree.map(lambda sums: sums.sum(0, dtype=sums.dtype), metrics)))


@functools.partial(jax.jit, static_argnames=("model", "start", "stop", "prepare", "layout"))
def forward(
    variables: ParamTree,
    x: jax.Array,
    *,
    model: ImageClassifier,
    start: str | None = None,
    stop: str | None = None,
    prepare: Callable[[jax.Array], jax.Array] | None = None,
    layout: Layout = SINGLE,
) -> jax.Array:
    """Inference from unit `start` up to but without `stop`: features or float32 logits.

    Of features every device of `layout` has its part, logits are whole on each.
    """
    x = layout.split(x)
    if prepare is not None:
        x = prepare(x)
    y: Any = model.apply(variables, x, start=start, stop=stop)
    return layout.whole(y) if stop is None else layout.split(y)


@jax.jit
def score(logits: jax.Array, labels: jax.Array) -> Metrics:
    """Sums over a batch; examples labelled -1 are padding and do not count."""
    real = labels >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    hits = real & (jnp.argmax(logits, -1) == labels)
    return Metrics(
        jnp.sum(jnp.where(real, losses, 0.0)),
        jnp.sum(hits, dtype=jnp.int32),
        jnp.sum(real, dtype=jnp.int32),
    )
