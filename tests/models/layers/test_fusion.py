"""Convolutions with what follows them, and folded normalization, against separate layers."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jtl import models, onednn
from jtl.common.platforms import everywhere
from jtl.common.trees import ParamTree
from jtl.models.inference import forward
from jtl.models.layers.blocks import unfused_layers
from jtl.models.layers.conv import ACTIVATIONS, conv2d
from support.networks import MODELS, random_variables

FOLLOWING = [
    (True, False, None),
    (True, False, "relu"),
    (True, False, "relu6"),
    (True, True, "relu"),
    (True, True, None),
    (False, True, "relu6"),
    (True, False, "silu"),
    (True, True, "hard_swish"),
    (True, True, "gelu"),
    (False, False, "relu"),
]
# Kernel, strides, groups: 1x1, 3x3, depthwise.
WINDOWS = [((1, 1, 8, 16), 1, 1), ((3, 3, 8, 16), 2, 1), ((5, 5, 1, 8), 1, 8)]


@pytest.mark.parametrize(("has_bias", "has_residual", "activation"), FOLLOWING, ids=str)
@pytest.mark.parametrize(("kernel_shape", "strides", "groups"), WINDOWS, ids=str)
def test_what_follows_is_part_of_the_convolution(
    kernel_shape, strides, groups, has_bias, has_residual, activation, library
):
    rng = np.random.default_rng(0)
    options: Any = dict(strides=(strides, strides), padding=kernel_shape[0] // 2, groups=groups)
    x = jnp.asarray(rng.normal(size=(2, 9, 8, 8)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=kernel_shape), jnp.float32)
    plain = functools.partial(conv2d, **options)
    shape = jax.eval_shape(plain, x, kernel).shape
    bias = jnp.asarray(rng.normal(size=shape[3:]), jnp.float32) if has_bias else None
    residual = jnp.asarray(rng.normal(size=shape), jnp.float32) if has_residual else None
    dy = jnp.asarray(rng.normal(size=shape), jnp.float32)
    act = ACTIVATIONS[activation] if activation else lambda y: y

    def fused(x, kernel, bias, residual):
        return plain(x, kernel, bias, residual, activation=activation)

    def separate(x, kernel, bias, residual):
        y = plain(x, kernel)
        y = y if bias is None else y + bias.reshape(1, 1, 1, -1)
        return act(y if residual is None else y + residual)

    def run(function):
        def both(*arrays):
            y, vjp = jax.vjp(function, *arrays)
            return y, vjp(dy)

        return jax.jit(both)

    arrays = (x, kernel, bias, residual)
    if library == "onednn":
        program = jax.jit(fused).lower(*arrays).as_text()
        assert program.count(f"@{onednn.TARGET}(") == 1
        # All in one: nothing is left for XLA to do.
        assert "stablehlo.add" not in program
        assert "stablehlo.maximum" not in program
    gots, wants = run(fused)(*arrays), run(separate)(*arrays)
    for got, want in zip(jax.tree.leaves(gots), jax.tree.leaves(wants), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * float(jnp.abs(want).max() + 1))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_keep_the_plain_convolution(platform):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2, 8, 8, 4), (3, 3, 4, 4), (4,))]
    run = jax.jit(lambda x, kernel, bias: conv2d(x, kernel, bias, activation="relu"))
    with everywhere():
        text = export.export(run, platforms=[platform])(*shapes).mlir_module()
    assert text.count("stablehlo.convolution") == 1
    assert "custom_call" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_folding_changes_rounding_only(name, library):
    model = MODELS[name]
    variables = random_variables(model, 64)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 64, 3)), jnp.float32)

    def lowered(**apart: bool) -> Any:
        return jax.jit(lambda v, x: model.apply(v, x, **apart)).lower(variables, images)

    folded = lowered()
    with unfused_layers():
        separate = lowered()
    # Folded, there is one rsqrt for the running variances' vector and no pass over images.
    assert folded.as_text() != separate.as_text()
    got, want = (program.compile()(variables, images) for program in (folded, separate))
    assert not np.array_equal(got, want)
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * float(jnp.abs(want).max()))


def test_a_backbone_truncated_at_a_normalization_ends_before_its_activation():
    model = models.create("resnet18", truncate_at="stage1/block2/bn1", head=None)
    variables = random_variables(model, 32)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 32, 32, 3)), jnp.float32)
    features: Any = model.apply(variables, images)
    assert 0.2 < float(jnp.mean(features < 0)) < 0.8


@pytest.mark.slow
def test_gradients_pass_through_a_folded_normalization():
    """With `--bn frozen` a block trains its kernels and scales under running averages."""
    model = models.create("resnet18", num_classes=5)
    variables = random_variables(model, 64)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64, 64, 3)), jnp.float32)

    def loss(params: ParamTree) -> jax.Array:
        logits: Any = model.apply({**variables, "params": params}, images)
        return jnp.sum(jnp.square(logits))

    got = jax.jit(jax.grad(loss))(variables["params"])
    with unfused_layers():
        want = jax.jit(jax.grad(lambda params: loss(params)))(variables["params"])
    for path, leaf in jax.tree.leaves_with_path(want):
        other = functools.reduce(lambda tree, key: tree[key.key], path, got)
        apart, size = np.linalg.norm(other - leaf), np.linalg.norm(leaf)
        # A value that rounding moves over ReLU's kink takes its gradient along.
        assert apart <= 1e-3 * size, jax.tree_util.keystr(path)


def test_a_forward_of_a_frozen_backbone_is_convolutions_and_little_else():
    if not onednn.installed():
        pytest.skip("oneDNN is not installed (pip install 'jtl[onednn]')")
    model = models.create("efficientnet_lite0", num_classes=5)
    variables = random_variables(model, 64)
    images = jnp.zeros((2, 64, 64, 3))
    text = forward.lower(variables, images, model=model).as_text()
    convolutions = sum(path[-1].key == "kernel" for path, _ in _leaves(variables)) - 1
    assert text.count(f"@{onednn.TARGET}(") == convolutions
    assert "stablehlo.maximum" not in text
    assert "stablehlo.minimum" not in text


def _leaves(variables: ParamTree) -> list[tuple[Any, Any]]:
    return jax.tree.leaves_with_path(variables["params"])
