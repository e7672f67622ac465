"""The compiled forward pass, and the score of what it gives."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jtl.common.trees import ParamTree
from jtl.distributed.sharding import SINGLE, DataSharding
from jtl.models.chain import ImageClassifier


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
        return Metrics(
            jnp.add(self.loss, other.loss),
            jnp.add(self.correct, other.correct),
            jnp.add(self.count, other.count),
        )

    def means(self) -> dict[str, float]:
        """{"loss", "accuracy"} as Python numbers; waits for the device."""
        loss, correct, count = jax.device_get((self.loss, self.correct, self.count))
        count = max(int(count), 1)
        return {"loss": float(loss) / count, "accuracy": int(correct) / count}


@functools.partial(jax.jit, static_argnames=("model", "start", "stop", "prepare", "sharding"))
def forward(
    variables: ParamTree,
    x: jax.Array,
    *,
    model: ImageClassifier,
    start: str | None = None,
    stop: str | None = None,
    prepare: Callable[[jax.Array], jax.Array] | None = None,
    sharding: DataSharding = SINGLE,
) -> jax.Array:
    """Inference from unit `start` up to but without `stop`: features or float32 logits.

    Of features every device of `sharding` has its part, logits are whole on each.
    """
    x = sharding.sharded(x)
    if prepare is not None:
        x = prepare(x)
    y: Any = model.apply(variables, x, start=start, stop=stop)
    return sharding.replicated(y) if stop is None else sharding.sharded(y)


@functools.partial(jax.jit, static_argnames=("model", "prepare", "sharding"))
def forward_with_features(
    variables: ParamTree,
    x: jax.Array,
    *,
    model: ImageClassifier,
    prepare: Callable[[jax.Array], jax.Array],
    sharding: DataSharding = SINGLE,
) -> tuple[jax.Array, jax.Array]:
    """Inference on whole images: float32 logits [N, num_classes] and pooled features [N, C]."""
    end = feature_end(model)
    maps: Any = model.apply(variables, prepare(sharding.sharded(x)), stop=end)
    logits: Any = model.apply(variables, maps, start=end)
    return sharding.replicated(logits), sharding.replicated(pool_features(maps))


def feature_end(model: ImageClassifier) -> str:
    """Path of the unit that takes the backbone's last feature map [N, H, W, C]."""
    paths = [unit.path for unit in model.units()]
    return next(path for path in ("pool", "classifier", "head") if path in paths)


def pool_features(maps: jax.Array | np.ndarray) -> jax.Array:
    """Feature maps [N, H, W, C] averaged over their pixels, or vectors [N, C]: float32 [N, C]."""
    return jnp.mean(maps, axis=tuple(range(1, maps.ndim - 1)), dtype=jnp.float32)


@jax.jit
def score(logits: jax.Array, labels: jax.Array) -> Metrics:
    """Sums over a batch; examples labelled -1 are padding and do not count.

    Args:
        logits: [N, num_classes].
        labels: int32 [N]; or 0 and 1 [N, num_classes] where examples have several classes: then
            they are right if they are so of every class.
    """
    import optax  # Late: who only predicts does without.

    targets = jnp.maximum(labels, 0)
    if labels.ndim > 1:
        real = labels[:, 0] >= 0
        losses = optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)
        hits = real & jnp.all((logits > 0) == (targets > 0), -1)
    else:
        real = labels >= 0
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        hits = real & (jnp.argmax(logits, -1) == labels)
    return Metrics(
        jnp.sum(jnp.where(real, losses, 0.0)),
        jnp.sum(hits, dtype=jnp.int32),
        jnp.sum(real, dtype=jnp.int32),
    )
