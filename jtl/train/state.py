"""What the steps of a phase change: params, statistics, the optimizer's state, averages."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jtl.common.trees import ParamTree
from jtl.distributed.sharding import SINGLE, DataSharding


@flax.struct.dataclass
class Average:
    """An exponential moving average of what trains.

    Attributes:
        decay: What an update leaves of the average, float32: as given, but less in the first
            updates, (1 + n) / (10 + n), so that the start is soon forgotten.
        count: Updates it has seen, int32.
        params: Averages of the trainable leaves.
        batch_stats: Averages of the running statistics of the units that use batch statistics.
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


@flax.struct.dataclass
class TrainState:
    """All that a step changes.

    Attributes:
        step: Steps taken, int32.
        params: The trainable leaves.
        batch_stats: The running statistics of the units that use batch statistics.
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

    def saved(self) -> Any:
        """What a checkpoint holds beside the model's variables, to go on from."""
        if self.average is None:
            return self.opt_state
        return {
            "opt_state": self.opt_state,
            "params": self.params,
            "batch_stats": self.batch_stats,
            "count": self.average.count,
        }


def init_state(
    params: ParamTree,
    batch_stats: ParamTree,
    tx: optax.GradientTransformation,
    seed: int = 0,
    ema: float = 0.0,
    sharding: DataSharding = SINGLE,
) -> TrainState:
    """A fresh state before the first step; optimizer slots for `params` alone.

    Args:
        params: The trainable leaves.
        batch_stats: The running statistics of the units that use batch statistics.
        tx: The optimizer.
        seed: Of the randomness of steps.
        ema: Decay of a moving average; 0 for none.
        sharding: The devices, on all of which `params` and `batch_stats` are.
    """

    # One program: leaf by leaf it would be one for every shape.
    @jax.jit
    def begin(params: ParamTree, batch_stats: ParamTree, seed: np.uint32) -> tuple[Any, ...]:
        average = Average.of(ema, params, batch_stats) if ema else None
        return sharding.replicated((tx.init(params), jax.random.key(seed), average))

    opt_state, rng, average = begin(params, batch_stats, np.uint32(seed))
    step, not_finite = (sharding.replicate(np.int32(0)) for _ in range(2))
    return TrainState(step, params, batch_stats, opt_state, rng, not_finite, average)
