"""The compiled steps, held against plain JAX and Optax."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.common.trees import lookup, merge
from jtl.models.inference import Metrics, forward, score
from jtl.optim import optimizers
from jtl.train import step
from jtl.train.state import TrainState, init_state
from jtl.train.step import Batch, Constants
from support import tiny
from weights_convert.convert.rules import leaf_paths

BATCH = 6
# Params are of order one and a step of 0.05; two programs for one step round differently.
STEP_BOUND = 1e-6
# Five steps spread the rounding of 16 features, or of four blocks.
EPOCH_BOUND = {"head_only": 2e-6, "full": 1e-4}


def groups(name: str = "adamw"):
    return {label: optimizers.transform(name, 0.05, 0.1) for label in ("head", "backbone")}


class Arm:
    """The arguments of a step under a mask, from images or from features at the cut."""

    def __init__(self, mask: str, *, wrap=lambda tx: tx, optimizer="adamw", cached=False):
        self.parts = tiny.parts(mask)
        self.variables = tiny.variables()
        self.train_units = self.parts.cut.train_units
        self.tx = wrap(optimizers.build(self.parts.labels, groups(optimizer)))
        self.static = dict(
            model=tiny.MODEL,
            tx=self.tx,
            start=self.parts.cut.unit if cached else None,
            train_units=self.train_units,
            stats_units=self.parts.cut.stats_units,
            prepare=None if cached else tiny.PREPARE,
        )

    def state(self) -> TrainState:
        # Fresh arrays every time, since steps donate them.
        params, stats = jax.device_put((self.parts.params, self.parts.live_stats))
        return init_state(params, stats, self.tx)

    def frozen(self, **options) -> step.Constants:
        return step.Constants(**jax.device_put(self.parts.frozen), **options)

    def step(self) -> step.TrainStep:
        return step.TrainStep(**self.static)


def batch(index: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return tiny.images(BATCH, seed=10 + index), tiny.labels(BATCH, seed=20 + index)


def run(arm: Arm, count: int):
    state = arm.state()
    for index in range(count):
        state, metrics = arm.step()(state, arm.frozen(), Batch(*batch(index)))
    return state, metrics


@functools.partial(jax.jit, static_argnames=("mask", "optimizer"))
def reference_step(params, stats, images, labels, *, mask, optimizer):
    """One step as Flax's guides write it: the whole tree, plain jax.grad, then a selection."""
    parts = tiny.parts(mask)
    tx = optimizers.transform(optimizer, 0.05, 0.1)

    def loss_fn(everything):
        logits, updates = tiny.MODEL.apply(
            {"params": everything, "batch_stats": stats},
            tiny.PREPARE(images),
            train=parts.cut.train_units,
            mutable=["batch_stats"],
        )
        one_hot = jax.nn.one_hot(labels, len(tiny.CLASSES))
        losses = -jnp.sum(one_hot * jax.nn.log_softmax(logits), -1)
        return losses.mean(), (logits, losses, updates["batch_stats"])

    grads, (logits, losses, new_stats) = jax.grad(loss_fn, has_aux=True)(params)
    own = {
        path: lookup(params, path)
        for path in leaf_paths(params)
        if lookup(parts.labels, path) != "frozen"
    }
    updates, _ = tx.update({path: lookup(grads, path) for path in own}, tx.init(own), own)
    paths = ["/".join(path) for path in own]
    changed = dict(zip(paths, optax.apply_updates(own, updates).values(), strict=True))
    return changed, new_stats, losses.sum(), (logits.argmax(-1) == labels).sum()


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("mask", ["head_only", "full"])
def test_a_step_equals_plain_jax(mask, optimizer):
    arm = Arm(mask, optimizer=optimizer)
    variables = arm.variables
    images, labels = batch()
    expected, stats, loss_sum, correct = reference_step(
        variables["params"],
        variables["batch_stats"],
        images,
        labels,
        mask=mask,
        optimizer=optimizer,
    )
    state, metrics = arm.step()(arm.state(), arm.frozen(), Batch(images, labels))
    assert int(state.step) == 1
    assert {"/".join(path) for path in leaf_paths(state.params)} == set(expected)
    for path, leaf in expected.items():
        keys = tuple(path.split("/"))
        got, before = lookup(state.params, keys), lookup(variables["params"], keys)
        # AdamW's first step divides gradients by themselves: an entry whose gradient is rounding
        # noise goes anywhere within a step. Here none is.
        np.testing.assert_allclose(got, leaf, rtol=0, atol=STEP_BOUND, err_msg=path)
        assert np.abs(leaf - before).max() > 1e-3, path
    live = {p for p in leaf_paths(stats) if "/".join(p[:-2]) in arm.train_units}
    assert set(leaf_paths(state.batch_stats)) == live
    for path in live:
        np.testing.assert_allclose(lookup(state.batch_stats, path), lookup(stats, path), rtol=1e-5)
    assert float(metrics.loss) == pytest.approx(float(loss_sum), rel=1e-5)
    assert (int(metrics.correct), int(metrics.count)) == (int(correct), BATCH)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_state_never_holds_frozen_leaves(optimizer):
    arm = Arm("head_only", optimizer=optimizer)
    state, _ = run(arm, 5)
    head = {("head", "logits", "kernel"), ("head", "logits", "bias")}
    assert set(leaf_paths(state.params)) == head
    assert state.batch_stats == {}
    slots = {"adamw": 2, "sgd": 1}[optimizer]
    shapes = [leaf.shape for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(shapes) == sorted([(16, 3), (3,)] * slots)


def test_statistics_of_trained_units_move_and_of_frozen_units_do_not():
    full = Arm("full")
    state, _ = run(full, 1)
    before = full.variables["batch_stats"]
    assert set(leaf_paths(state.batch_stats)) == set(leaf_paths(before))
    for path in leaf_paths(before):
        assert np.all(lookup(state.batch_stats, path) != lookup(before, path)), path

    # One stage in train mode: its statistics alone are in the state.
    units = frozenset({"stage2/block1", "head"})
    stats = {"stage2": before["stage2"]}
    frozen = step.Constants({}, {k: v for k, v in before.items() if k != "stage2"})
    params = jax.device_put(full.variables["params"])
    state = init_state(params, jax.device_put(stats), full.tx)
    static = {**full.static, "train_units": units, "stats_units": units}
    state, _ = step.TrainStep(**static)(state, frozen, Batch(*batch()))
    assert set(state.batch_stats) == {"stage2"}
    mean = ("stage2", "block1", "bn", "mean")
    assert np.all(lookup(state.batch_stats, mean) != lookup(before, mean))


@pytest.mark.parametrize("cached", [False, True])
def test_a_step_compiles_once(cached):
    arm = Arm("head_only", cached=cached)
    state = arm.state()
    before = step.train_step._cache_size()
    for index in range(4):
        images, labels = batch(index)
        x = np.full((BATCH, 16), index, np.float32) if cached else images
        state, _ = arm.step()(state, arm.frozen(), Batch(x, labels))
    assert step.train_step._cache_size() == before + 1
    # An equal step, newly made, need no new program: masks of equal values are equal.
    static = {**arm.static, "train_units": frozenset(list(arm.train_units))}
    static["prepare"] = None if cached else type(tiny.PREPARE)(tiny.SIZE, tiny.PREPROCESSING)
    x = np.zeros((BATCH, 16), np.float32) if cached else batch()[0]
    step.TrainStep(**static)(state, arm.frozen(), Batch(x, batch()[1]))
    assert step.train_step._cache_size() == before + 1
    # This counts: another batch size is another program.
    arm.step()(arm.state(), arm.frozen(), Batch(x[:2], batch()[1][:2]))
    assert step.train_step._cache_size() == before + 2


@pytest.mark.parametrize(
    ("mask", "weights"), [("head_only", None), ("head_only", (4.0, 1.0, 0.25)), ("full", None)]
)
def test_an_epoch_is_its_steps_one_after_the_other(mask, weights):
    weights = None if weights is None else jnp.asarray(weights)
    cached = mask == "head_only"
    arm = Arm(mask, optimizer="sgd", cached=cached)
    x = tiny.images(20)
    if cached:
        x = np.asarray(forward(
            arm.variables, x, model=tiny.MODEL, stop="head", prepare=tiny.PREPARE
        ))  # fmt: skip
    labels = tiny.labels(20)
    batches = np.random.default_rng(0).permutation(20).astype(np.int32).reshape(5, 4)
    constants = arm.frozen(class_weights=weights)
    table = Batch(jnp.asarray(x), jnp.asarray(labels))
    together, sums = arm.step().epoch(arm.state(), constants, table, batches)
    state, total = arm.state(), Metrics.zero()
    for indices in batches:
        state, metrics = arm.step()(state, constants, Batch(x[indices], labels[indices]))
        total = total + metrics
    assert int(together.step) == int(state.step) == 5
    assert jax.tree.structure(together) == jax.tree.structure(state)
    together, state = (tree.replace(rng=None) for tree in (together, state))
    for left, right in zip(*map(jax.tree.leaves, (together, state)), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=EPOCH_BOUND[mask])
    assert float(sums.loss) == pytest.approx(float(total.loss), rel=1e-5)
    assert (int(sums.correct), int(sums.count)) == (int(total.correct), 20)
    for name in ("gradient_norm", "update_norm", "param_norm"):
        assert float(getattr(sums, name)) == pytest.approx(float(getattr(metrics, name)), rel=1e-3)
    start = arm.state().params["head"]["logits"]["kernel"]
    assert float(jnp.abs(state.params["head"]["logits"]["kernel"] - start).max()) > 0.01


@pytest.mark.parametrize("mask", ["head_only", "full"])
def test_norms_are_those_of_the_trainable_leaves(mask):
    arm = Arm(mask)
    labels = set(jax.tree.leaves(arm.parts.labels)) - {"frozen"}
    tx = optimizers.build(arm.parts.labels, dict.fromkeys(labels, optax.sgd(0.1)))
    params, stats = jax.device_put((arm.parts.params, arm.parts.live_stats))
    before = jax.device_get(params)
    taken = dataclasses.replace(arm.step(), tx=tx)
    state, metrics = taken(init_state(params, stats, tx), arm.frozen(), Batch(*batch()))
    moved = jax.tree.map(np.subtract, jax.device_get(state.params), before)

    def norm(tree) -> float:
        return (
            sum(float(np.sum(np.square(leaf, dtype=np.float64))) for leaf in jax.tree.leaves(tree))
            ** 0.5
        )

    assert norm(moved) > 1e-3
    assert float(metrics.update_norm) == pytest.approx(norm(moved), rel=1e-4)
    assert float(metrics.gradient_norm) == pytest.approx(norm(moved) / 0.1, rel=1e-4)
    assert float(metrics.param_norm) == pytest.approx(norm(state.params), rel=1e-5)


def test_the_state_is_donated_and_nothing_else():
    head_only = Arm("head_only")
    state, frozen = head_only.state(), head_only.frozen()
    images, labels = map(jnp.asarray, batch())
    new, _ = head_only.step()(state, frozen, Batch(images, labels))
    assert state.params["head"]["logits"]["kernel"].is_deleted()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((new, frozen, images, labels)))
    jax.tree.map(np.testing.assert_array_equal, frozen, Constants(**head_only.parts.frozen))


def flops(lowered) -> float:
    return lowered.compile().cost_analysis()["flops"]


def step_flops(arm: Arm) -> float:
    shapes = jax.eval_shape(arm.state), jax.eval_shape(arm.frozen), Batch(*batch())
    return flops(step.train_step.lower(*shapes, step=arm.step()))


def clipped(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    # Needs every gradient it is given, so that the compiler cannot drop any as unused.
    return optax.chain(optax.clip_by_global_norm(1.0), tx)


@pytest.mark.slow
@pytest.mark.usefixtures("xla_only")
def test_frozen_leaves_are_not_differentiated():
    head_only, full = Arm("head_only", wrap=clipped), Arm("full", wrap=clipped)
    images, labels = batch()
    once = flops(forward.lower(head_only.variables, images, model=tiny.MODEL, prepare=tiny.PREPARE))

    @jax.jit
    def differentiates_everything(params, stats, opt_state):
        """Freezing by zeroed updates alone: what the sparse step is there to avoid."""

        def loss_fn(params):
            logits = tiny.MODEL.apply(
                {"params": params, "batch_stats": stats}, tiny.PREPARE(images), train=False
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        updates, opt_state = head_only.tx.update(jax.grad(loss_fn)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params, stats = (head_only.variables[key] for key in ("params", "batch_stats"))
    everything = flops(differentiates_everything.lower(params, stats, head_only.tx.init(params)))
    sparse = step_flops(head_only)
    # Backward costs about twice forward.
    assert everything > 2 * once
    assert step_flops(full) > 2 * once
    assert once < sparse < 1.1 * once


@pytest.mark.usefixtures("xla_only")
def test_the_cached_step_runs_only_the_head():
    arm = Arm("head_only", cached=True)
    labels = batch()[1]
    features = np.zeros((BATCH, 16), np.float32)
    shapes = jax.eval_shape(arm.state), jax.eval_shape(arm.frozen)
    cached = flops(step.train_step.lower(*shapes, Batch(features, labels), step=arm.step()))
    assert cached < 0.05 * step_flops(Arm("head_only"))


def test_features_and_images_train_the_same_head():
    from_images, cached = Arm("head_only"), Arm("head_only", cached=True)
    images, labels = batch()
    features = forward(
        cached.variables, images, model=tiny.MODEL, stop="head", prepare=tiny.PREPARE
    )
    left, _ = from_images.step()(from_images.state(), from_images.frozen(), Batch(images, labels))
    right, _ = cached.step()(cached.state(), cached.frozen(), Batch(features, labels))
    for a, b in zip(*map(jax.tree.leaves, (left.params, right.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_score_ignores_padding():
    logits = jnp.array([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0], [9.0, 0.0, 0.0]])
    labels = jnp.array([0, 2, 2, -1], jnp.int32)
    metrics = score(logits, labels)
    losses = -np.log(
        [
            np.exp(2) / (np.exp(2) + 2),
            1 / (np.exp(3) + 2),
            np.exp(1) / (np.exp(1) + 2),
        ]
    )
    assert float(metrics.loss) == pytest.approx(losses.sum(), rel=1e-6)
    assert (int(metrics.correct), int(metrics.count)) == (2, 3)
    nothing = score(logits, jnp.full(4, -1, jnp.int32))
    assert jax.device_get((nothing.loss, nothing.correct, nothing.count)) == (0, 0, 0)


def test_padding_that_overflows_does_not_count():
    logits = jnp.array([[1.0, 0.0], [jnp.inf, 0.0]])
    metrics = score(logits, jnp.array([0, -1], jnp.int32))
    assert float(metrics.loss) == pytest.approx(np.log1p(np.exp(-1)), rel=1e-6)


def test_metrics_add_up():
    a = Metrics(jnp.float32(3), jnp.int32(2), jnp.int32(4))
    b = Metrics(jnp.float32(1), jnp.int32(4), jnp.int32(4))
    assert (a + b).means() == {"loss": 0.5, "accuracy": 0.75}
    assert Metrics.zero().means() == {"loss": 0.0, "accuracy": 0.0}


@pytest.mark.parametrize("cut", ["stage1/block1", "stage2", "pool", "head"])
def test_forward_in_two_parts(cut):
    variables, images = tiny.variables(), tiny.images(4)
    run_part = functools.partial(forward, variables, model=tiny.MODEL)
    whole = run_part(images, prepare=tiny.PREPARE)
    parts = run_part(run_part(images, stop=cut, prepare=tiny.PREPARE), start=cut)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5)
    assert float(jnp.std(whole)) > 0.1


def test_merged_trees_are_whole():
    arm = Arm("head_only")
    frozen = arm.parts.frozen
    assert set(leaf_paths(merge(arm.parts.params, frozen["params"]))) == set(
        leaf_paths(arm.variables["params"])
    )
