"""Optimizers over a label tree, given whole or in part."""

from __future__ import annotations

import inspect
import math
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.optim import optimizers
from jtl.optim.schedules import Schedule

LABELS = {
    "stem": {"kernel": "frozen", "bias": "frozen"},
    "stage1": {"kernel": "backbone", "bias": "frozen"},
    "head": {"kernel": "head"},
}
PARAMS = {
    "stem": {"kernel": jnp.array([[1.0, -2.0], [3.0, 4.0]]), "bias": jnp.array([0.5, 0.25])},
    "stage1": {"kernel": jnp.array([[2.0], [-1.0]]), "bias": jnp.array([7.0])},
    "head": {"kernel": jnp.array([[0.1, 0.2, 0.3]])},
}
GRADS = jax.tree.map(lambda leaf: 0.5 * leaf + 1.0, PARAMS)
TRAINABLE = {"stage1": ("kernel",), "head": ("kernel",)}
TRANSFORMS = {
    "adamw": lambda rate: optimizers.transform("adamw", rate, 0.1),
    "adam": lambda rate: optimizers.transform("adam", rate, 0.1),
    "sgd": lambda rate: optimizers.transform("sgd", rate, 0.1),
}
each_transform = pytest.mark.parametrize("name", TRANSFORMS)


def restrict(tree):
    return {unit: {leaf: tree[unit][leaf] for leaf in TRAINABLE[unit]} for unit in TRAINABLE}


def groups(name):
    return {"backbone": TRANSFORMS[name](0.01), "head": TRANSFORMS[name](0.1)}


def run(tx, params, grads, steps=3):
    """The updates of every step, and the last state."""
    state, all_updates = tx.init(params), []
    for _ in range(steps):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        all_updates.append(updates)
    return all_updates, state


def arrays(state):
    return [leaf for leaf in jax.tree.leaves(state) if getattr(leaf, "ndim", 0)]


def assert_equal(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


@each_transform
def test_the_whole_tree_and_the_trainable_part_get_equal_updates(name):
    tx = optimizers.build(LABELS, groups(name))
    whole, _ = run(tx, PARAMS, GRADS)
    part, _ = run(tx, restrict(PARAMS), restrict(GRADS))
    assert_equal([restrict(updates) for updates in whole], part)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(part))


@each_transform
def test_frozen_leaves_get_zero_updates_and_own_no_state(name):
    updates, state = run(optimizers.build(LABELS, groups(name)), PARAMS, GRADS)
    for step in updates:
        for leaf in (step["stem"]["kernel"], step["stem"]["bias"], step["stage1"]["bias"]):
            np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))
    _, part_state = run(optimizers.build(LABELS, groups(name)), restrict(PARAMS), restrict(GRADS))
    slots = {"adamw": 2, "adam": 2, "sgd": 1}[name]
    expected = sorted([(2, 1), (1, 3)] * slots)
    assert sorted(leaf.shape for leaf in arrays(state)) == expected
    assert sorted(leaf.shape for leaf in arrays(part_state)) == expected


def test_a_plain_optimizer_over_everything_would_fail_the_last_test():
    _, state = run(TRANSFORMS["adamw"](0.1), PARAMS, GRADS)
    assert len(arrays(state)) == 2 * len(jax.tree.leaves(PARAMS))


@each_transform
def test_equals_plain_optax_group_by_group(name):
    updates, _ = run(optimizers.build(LABELS, groups(name)), restrict(PARAMS), restrict(GRADS))
    for unit, rate in (("stage1", 0.01), ("head", 0.1)):
        params, grads = restrict(PARAMS)[unit], restrict(GRADS)[unit]
        plain = {
            "adamw": optax.adamw(rate, weight_decay=0.1),
            "adam": optax.chain(optax.add_decayed_weights(0.1), optax.adam(rate)),
            "sgd": optax.chain(
                optax.add_decayed_weights(0.1), optax.sgd(rate, momentum=0.9, nesterov=True)
            ),
        }[name]
        expected, _ = run(plain, params, grads)
        assert_equal([step[unit] for step in updates], expected)


def test_sgd_by_hand():
    # Nesterov: velocity v = 0.9 v + g, update -rate (g + 0.9 v), with g = gradient + decay * p.
    tx = optimizers.transform("sgd", 0.1, 0.5)
    params, grads = {"w": jnp.array([[2.0]])}, {"w": jnp.array([[3.0]])}
    updates, _ = run(tx, params, grads, steps=2)
    g1 = 3.0 + 0.5 * 2.0
    u1 = -0.1 * (g1 + 0.9 * g1)
    g2 = 3.0 + 0.5 * (2.0 + u1)
    u2 = -0.1 * (g2 + 0.9 * (0.9 * g1 + g2))
    np.testing.assert_allclose(
        np.ravel([u["w"] for u in updates]), [u1, u2], rtol=4 * np.finfo(np.float32).eps
    )


def test_decay_is_decoupled_for_adamw_only():
    # With a zero gradient, decoupled decay shrinks by rate * decay; Adam normalizes it away.
    params, grads = {"w": jnp.array([[2.0]])}, {"w": jnp.array([[0.0]])}
    (adamw,), _ = run(optimizers.transform("adamw", 0.1, 0.5), params, grads, steps=1)
    np.testing.assert_allclose(adamw["w"], [[-0.1 * 0.5 * 2.0]], rtol=1e-6)
    (adam,), _ = run(optimizers.transform("adam", 0.1, 0.5), params, grads, steps=1)
    # The bias corrections 1 - 0.9 and 1 - 0.999 cancel in float32 up to some 1e-5.
    np.testing.assert_allclose(adam["w"], [[-0.1]], rtol=1e-5)


@pytest.mark.parametrize("name", get_args(optimizers.OptimizerName))
def test_biases_and_scales_do_not_decay(name):
    params = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}
    grads = jax.tree.map(lambda leaf: 0.5 * jnp.ones_like(leaf), params)
    with_decay, without = (
        run(optimizers.transform(name, 0.1, decay), params, grads, steps=2)[0][-1]
        for decay in (0.5, 0.0)
    )
    np.testing.assert_array_equal(with_decay["bias"], without["bias"])
    # The first updates of lion, and lamb's layer-wise norm, do not show it.
    if name not in ("lion", "lamb"):
        assert np.any(with_decay["kernel"] != without["kernel"])


def test_clipping_sees_only_trainable_leaves():
    clipped = optax.chain(
        optax.clip_by_global_norm(1.0),
        optimizers.build(LABELS, {"backbone": optax.sgd(1.0), "head": optax.sgd(1.0)}),
    )
    grads = restrict(GRADS)
    norm = math.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(grads)))
    assert norm > 1
    (updates,), _ = run(clipped, restrict(PARAMS), grads, steps=1)
    jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -g / norm, rtol=1e-6), updates, grads)
    # Over the whole tree frozen gradients would enter the norm: the reason for sub-trees.
    (leaky,), _ = run(clipped, PARAMS, GRADS, steps=1)
    assert float(jnp.abs(leaky["head"]["kernel"]).max()) < 0.5 * float(
        jnp.abs(updates["head"]["kernel"]).max()
    )


def test_accumulation_holds_only_trainable_leaves():
    inner = optimizers.build(LABELS, groups("sgd"))
    tx = optax.MultiSteps(inner, every_k_schedule=2)
    params, grads = restrict(PARAMS), restrict(GRADS)
    state = tx.init(params)
    assert jax.tree.structure(state.acc_grads) == jax.tree.structure(params)
    first, state = tx.update(grads, state, params)
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(first))
    tripled = jax.tree.map(lambda leaf: 3 * leaf, grads)
    second, state = tx.update(tripled, state, params)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, grads)
    expected, _ = inner.update(doubled, inner.init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), second, expected)


def test_any_part_of_the_tree_will_do():
    tx = optimizers.build(LABELS, groups("adam"))
    head = {"head": PARAMS["head"]}
    updates, state = tx.update({"head": GRADS["head"]}, tx.init(head), head)
    assert jax.tree.structure(updates) == jax.tree.structure(head)
    assert sorted(leaf.shape for leaf in arrays(state)) == [(1, 3), (1, 3)]
    only_frozen = {"stem": PARAMS["stem"]}
    assert arrays(tx.init(only_frozen)) == []


def test_the_schedule_drives_the_step_size():
    tx = optimizers.transform("sgd", Schedule("cosine").over(2), 0.0)
    params, grads = {"w": jnp.array([0.0])}, {"w": jnp.array([1.0])}
    updates, _ = run(tx, params, grads, steps=3)
    velocity = [1.0, 1.9, 2.71]
    expected = [-r * (1 + 0.9 * v) for r, v in zip((1.0, 0.5, 0.0), velocity, strict=True)]
    np.testing.assert_allclose(
        np.concatenate([u["w"] for u in updates]), expected, rtol=1e-6, atol=1e-8
    )


@pytest.mark.parametrize("name", get_args(optimizers.OptimizerName))
def test_every_optimizer_is_optax_s_own_with_its_weight_decay(name):
    params, grads = restrict(PARAMS)["stage1"], restrict(GRADS)["stage1"]
    factory = getattr(optax, name)
    decoupled = "weight_decay" in inspect.signature(factory).parameters
    assert decoupled == (name in optimizers.DECOUPLED)
    rates = {"momentum": 0.9, "nesterov": True} if name == "sgd" else {}
    plain = factory(0.01, weight_decay=0.1) if decoupled else factory(0.01, **rates)
    by_hand = grads if decoupled else jax.tree.map(lambda g, p: g + 0.1 * p, grads, params)
    (first,), _ = run(optimizers.transform(name, 0.01, 0.1), params, grads, steps=1)
    (expected,), _ = run(plain, params, by_hand, steps=1)
    assert_equal(first, expected)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(first))
    # And decay counts, but where the first update is a gradient's sign or so.
    (without,), _ = run(optimizers.transform(name, 0.01, 0.0), params, grads, steps=1)
    same = jax.tree.map(np.array_equal, first, without)
    assert not all(jax.tree.leaves(same)) or name not in optimizers.DECOUPLED


def test_plain_sgd_keeps_nothing():
    _, state = run(
        optimizers.transform("sgd", 0.1, 0.0, momentum=0.0), restrict(PARAMS), restrict(GRADS)
    )
    assert arrays(state) == []


@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_accumulated_gradients_are_clipped_as_their_mean(clip):
    def build(accumulate):
        inner = optimizers.build(LABELS, {"backbone": optax.sgd(1.0), "head": optax.sgd(0.1)})
        return optimizers.wrapped(inner, clip, accumulate)

    params, grads = restrict(PARAMS), restrict(GRADS)
    tx = build(3)
    state, moves = tx.init(params), []
    for factor in (1.0, 2.0, 6.0):
        updates, state = tx.update(jax.tree.map(lambda g, f=factor: f * g, grads), state, params)
        moves.append(bool(optimizers.updated(state)))
    assert moves == [False, False, True]
    mean = jax.tree.map(lambda g: 3 * g, grads)
    expected, _ = build(1).update(mean, build(1).init(params), params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updates, expected)
    # At a rate of 1 the update is the gradient, which is longer than 0.5 unless it is clipped.
    assert (float(optax.tree.norm(updates["stage1"])) <= 0.5) == bool(clip)
