"""jtl's side of a step: a worker process.

python benchmarks/peers/jtl_steps.py MODEL ARM BATCH SIZE CLASSES [LIBRARY]

ARM is `forward`, or a mask for a train step with SGD and momentum, from images; with `_bfloat16` it
computes in that format, and `_compiled` after it says that PyTorch compiles. LIBRARY is whose
conventions (strides, biases, epsilon) the network follows; default PyTorch's.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

import numpy as np

from harness import product, workers


def random_images(batch: int, size: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalized images NHWC and labels, random."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, size, size, 3), dtype=np.float32)
    return images, rng.integers(0, classes, batch).astype(np.int32)


def split(arm: str) -> tuple[str, str, bool]:
    """What an arm computes, in which number format, and whether PyTorch compiles it."""
    computed, compiled = arm.removesuffix("_compiled"), arm.endswith("_compiled")
    what = computed.removesuffix("_bfloat16")
    return what, "float32" if what == computed else "bfloat16", compiled


def conventions(model: str, library: str) -> dict[str, Any]:
    """What a library's weights demand of the network."""
    from jtl import models
    from weights_convert.convert.tables import TABLES

    family = models.get(model).family
    table = next(t for t in TABLES if (t.family, t.library) == (family, library))
    return dict(table.conventions)


class Forward:
    """A frozen backbone with its head, in inference mode."""

    def __init__(self, model: Any, variables: Any, images: Any):
        import jax

        from jtl.models.inference import forward

        self.function: Any = forward
        self.options: dict[str, Any] = {"model": model}
        self.arguments = (jax.device_put(variables), images)
        self.optimizer_bytes = 0

    def take(self) -> None:
        """One forward."""
        self.dispatch().block_until_ready()

    def dispatch(self) -> Any:
        """The same without waiting for it; what it will give."""
        return self.function(*self.arguments, **self.options)


class Step:
    """A train step under a mask."""

    def __init__(self, mask: str, model: Any, variables: Any, images: Any, labels: Any):
        import jax
        import jax.numpy as jnp
        import optax

        from jtl.common.trees import prune, within
        from jtl.freeze import FROZEN, find_cut, label_tree, parse
        from jtl.freeze.cut import trainable
        from jtl.optim import optimizers
        from jtl.train import step
        from jtl.train.state import init_state

        tree = label_tree(parse(mask, model.units()), variables["params"])
        groups = set(jax.tree.leaves(tree)) - {FROZEN}
        optimizer = optax.sgd(0.01, momentum=0.9)
        tx = optimizers.build(tree, dict.fromkeys(groups, optimizer))
        cut = find_cut(tree, model.units())
        trains, live = trainable(tree), within(cut.stats_units)
        params, stats, frozen = jax.tree.map(
            jnp.array,
            (
                prune(variables["params"], trains),
                prune(variables["batch_stats"], live),
                {
                    "params": prune(variables["params"], lambda leaf: not trains(leaf)),
                    "batch_stats": prune(variables["batch_stats"], lambda leaf: not live(leaf)),
                },
            ),
        )
        state = init_state(params, stats, tx)
        self.optimizer_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state.opt_state))
        self.function: Any = step.train_step
        self.options = dict(step=step.TrainStep(model, tx, None, cut.train_units, cut.stats_units))
        self.arguments = (state, step.Constants(**frozen), step.Batch(images, labels))

    def take(self) -> None:
        """One step; the state moves on."""
        self.dispatch().block_until_ready()

    def dispatch(self) -> Any:
        """The same without waiting for it; the loss that it will give."""
        state, metrics = self.function(*self.arguments, **self.options)
        self.arguments = (state, *self.arguments[1:])
        return metrics.loss


def flops(arm: Forward | Step) -> float:
    """XLA's count for the program, in which no foreign call hides work."""
    import jax

    from jtl import onednn

    jax.clear_caches()
    with onednn.disabled():
        traced = jax.jit(functools.partial(inspect.unwrap(arm.function), **arm.options))
        analysis: Any = traced.lower(*arm.arguments).cost_analysis()
    return float(analysis["flops"])


def main(name: str, arm: str, batch: int, size: int, classes: int, library: str = "") -> None:
    """Serves the steps of an arm."""
    made: list[Forward | Step] = []

    def prepare() -> workers.Prepared:
        import jax.numpy as jnp

        from jtl import models
        from jtl.models.initialization import initialize

        images, labels = map(jnp.asarray, random_images(batch, size, classes))
        what, dtype, _ = split(arm)
        images = images.astype(dtype)
        follows = conventions(name, library) if library else None
        model = models.create(name, num_classes=classes, conventions=follows)
        variables = initialize(model, None, size=size, seed=0)
        if what == "forward":
            made.append(Forward(model, variables, images))
        else:
            made.append(Step(what, model, variables, images, labels))
        return made[0].take, {"optimizer_bytes": made[0].optimizer_bytes}

    workers.serve(prepare, product.of_jax, lambda: flops(made[0]))


if __name__ == "__main__":
    batch, size, classes = map(int, sys.argv[3:6])
    main(sys.argv[1], sys.argv[2], batch, size, classes, *sys.argv[6:])
