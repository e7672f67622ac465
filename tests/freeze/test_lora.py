"""LoRA: which kernels get adapters, what they add, and one step beside plain JAX."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths, lookup, merge, prune, subtree
from jtl.freeze import FROZEN, find_cut, label_tree, parse
from jtl.freeze.cut import trainable
from jtl.freeze.lora import A, Adapters, B, adapters_of, changes, merged, without
from jtl.freeze.param_groups import assign
from jtl.models import ImageClassifier
from jtl.models.families.vit import ViT
from jtl.models.layers.blocks import Conv, unfused_layers
from jtl.optim import optimizers
from jtl.optim.recipe import Rates
from jtl.train.state import init_state
from jtl.train.step import Batch, Constants, TrainStep
from support import tiny
from support.networks import random_variables

SIZE, CLASSES, RANK, ALPHA = 32, 3, 4, 6.0
MODEL: Any = ImageClassifier(ViT(64, 16, 2, grid=2), num_classes=CLASSES)
ADAPTERS = Adapters(RANK, ALPHA)


def start(b: float = 0.0) -> Any:
    """Variables of the model with adapters whose B is `b` everywhere."""
    variables = random_variables(MODEL, SIZE)
    params = ADAPTERS.attached(variables["params"], 0)
    params = jax.tree.map_with_path(
        lambda path, leaf: leaf + np.float32(b) if path[-1].key == B else leaf, params
    )
    return {**variables, "params": params}


def images() -> Any:
    return jnp.asarray(np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 3)), jnp.float32)


def test_dense_layers_of_the_backbone_get_adapters():
    params = start()["params"]
    owners = {"/".join(path[:-1]) for path in leaf_paths(params) if path[-1] == B}
    layers = ("qkv", "proj", "fc1", "fc2")
    assert owners == {f"stage{s}/block{b}/{k}" for s, b in ((1, 1), (3, 2)) for k in layers}
    layer = params["stage1"]["block1"]["qkv"]
    assert layer[A].shape == (64, RANK)
    assert layer[B].shape == (RANK, 192)
    assert abs(layer[A].std() * 64**0.5 - 1) < 0.2
    assert not layer[B].any()
    # Those of one layer are not those of another, and a seed decides them.
    assert not np.array_equal(layer[A], params["stage1"]["block1"]["proj"][A])
    again, other = (ADAPTERS.attached(random_variables(MODEL, SIZE)["params"], s) for s in (0, 1))
    assert np.array_equal(again["stage1"]["block1"]["qkv"][A], layer[A])
    assert not np.array_equal(other["stage1"]["block1"]["qkv"][A], layer[A])


def test_fresh_adapters_change_no_bit():
    variables = random_variables(MODEL, SIZE)
    plain = merged(start()["params"], ADAPTERS.scale)
    assert leaf_paths(plain) == leaf_paths(variables["params"])
    for tree in (plain, without(start()["params"])):
        for path in leaf_paths(variables["params"]):
            assert lookup(tree, path).tobytes() == lookup(variables["params"], path).tobytes()
    assert merged(variables["params"], 3.0) is variables["params"]


def test_merging_on_the_host_and_on_a_device_is_one_sum():
    params = start(0.1)["params"]
    host, device = merged(params, 0.5), jax.jit(lambda tree: merged(tree, 0.5))(params)
    layer = params["stage1"]["block1"]["fc1"]
    expected = layer["kernel"][0, 0].astype(np.float64) + 0.5 * (layer[A].astype(float) @ layer[B])
    for tree in (host, device):
        kernel = tree["stage1"]["block1"]["fc1"]["kernel"]
        assert kernel.shape == layer["kernel"].shape
        assert kernel.dtype == np.float32
        np.testing.assert_allclose(kernel[0, 0], expected, rtol=1e-5, atol=1e-6)


def test_the_mask_trains_adapters_and_the_head_and_others_leave_adapters_alone():
    params = start()["params"]
    labels, rates = assign(parse("lora:4"), params, MODEL.units(), Rates(1.0, 2.0, 0.5))
    found = {"/".join(p): lookup(labels, p) for p in leaf_paths(labels)}
    trained = {path for path, label in found.items() if label != FROZEN}
    assert {path.rsplit("/", 1)[-1] for path in trained if path[:4] != "head"} == {A, B}
    assert {path for path in found if path[:4] == "head"} <= trained
    # With layer decay: final and head come after the last block.
    assert found["stage3/block2/qkv/lora_a"] == "lora stage3/block2"
    assert rates == {"head": 2.0, "lora stage3/block2": 0.25, "lora stage1/block1": 0.125}
    assert find_cut(labels, MODEL.units()).unit == "stage1/block1"
    effective = changes(labels, trainable(labels))
    assert effective("stage1/block1/qkv/kernel")
    assert not effective("stem/conv/kernel")
    assert not effective("stage1/block1/qkv/bias")
    for mask in ("full", "bias_only", "head_only", "last_stage"):
        labels = label_tree(parse(mask, MODEL.units()), params)
        adapters = [lookup(labels, p) for p in leaf_paths(labels) if p[-1] in (A, B)]
        assert set(adapters) == {FROZEN}


def test_a_step_is_that_of_plain_jax_with_products_of_activations():
    """The reference adds scale * (x A) B to each layer's output and differentiates that."""
    variables, x, y = start(0.05), images(), jnp.asarray([0, 1, 2, 1], jnp.int32)
    labels = label_tree(parse("lora:4"), variables["params"])
    cut, trains = find_cut(labels, MODEL.units()), trainable(labels)
    params = prune(variables["params"], trains)
    frozen = prune(variables["params"], lambda leaf: not trains(leaf))
    tx = optimizers.build(
        labels, {g: optimizers.transform("sgd", 0.1, 0.0, 0.0) for g in ("head", "lora")}
    )
    step = TrainStep(MODEL, tx, None, cut.train_units, cut.stats_units, lora_scale=ADAPTERS.scale)
    called: list[str] = []

    @jax.jit
    def reference(params: Any) -> Any:
        def loss(params: Any) -> jax.Array:
            whole = merge(params, frozen)

            def adapted(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
                result = call(*args, **kwargs)
                layer = subtree(whole, "/".join(context.module.path))
                if not isinstance(context.module, Conv) or B not in layer:
                    return result
                called.append("/".join(context.module.path))
                return result + ALPHA / RANK * (args[0] @ layer[A] @ layer[B])

            with nn.intercept_methods(adapted), unfused_layers():
                logits: Any = MODEL.apply({"params": whole}, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    with jax.numpy_rank_promotion("allow"):
        value, expected = reference(params)
    assert len(called) == 8
    state = init_state(jax.tree.map(jnp.array, params), {}, tx)
    state, metrics = step(state, Constants(frozen, {}), Batch(x, y))
    np.testing.assert_allclose(metrics.loss / 4, value, rtol=1e-5)
    assert leaf_paths(jax.device_get(state.params)) == leaf_paths(params)
    for path in leaf_paths(params):
        before, after, wanted = (
            np.asarray(lookup(t, path)) for t in (params, state.params, expected)
        )
        assert not np.array_equal(before, after), path
        scale = np.abs(wanted - before).max()
        np.testing.assert_allclose(after - before, wanted - before, atol=1e-3 * scale + 1e-7)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (["lora:0"], "the rank must be a whole number, at least 1, such as lora:8"),
        (["lora:x"], "the rank must be a whole number"),
        (["lora:2", "head_only", "lora:4"], "adapters of ranks 2 and 4, but a run has one rank"),
    ],
)
def test_ranks_that_cannot_be(masks: list[str], message: str):
    with pytest.raises(UserError, match=message):
        adapters_of(masks, 8.0)


def test_networks_and_ranks_without_adapters():
    assert adapters_of(["head_only", "full"], 8.0) is None
    with pytest.raises(UserError, match="neither dense layers nor 1x1 convolutions"):
        ADAPTERS.attached(tiny.variables()["params"], 0)
    with pytest.raises(UserError, match="the rank must be below 64"):
        Adapters(64, 8.0).attached(random_variables(MODEL, SIZE)["params"], 0)
