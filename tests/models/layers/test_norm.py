"""Batch normalization by either library against its definition in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jtl import onednn
from jtl.common.platforms import everywhere
from jtl.models.layers.norm import batch_norm

SHAPES = [(2, 5, 4, 3), (3, 7, 7, 32), (1, 1, 1, 8), (4, 2, 3, 1), (2, 16, 16, 20)]


def reference(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, relu: bool) -> Any:
    """As the paper has it, differentiated by JAX."""
    axes = tuple(range(x.ndim - 1))
    mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    normalized = (x - mean) / jnp.sqrt(var + epsilon)
    y = normalized * scale.reshape(mean.shape) + bias.reshape(mean.shape)
    return jnp.maximum(y, 0) if relu else y, mean.ravel(), var.ravel()


def value_and_gradients(function: Callable[..., Any]) -> Callable[..., tuple]:
    def run(x, scale, bias, dy):
        (y, mean, var), vjp = jax.vjp(function, x, scale, bias)
        return y, mean, var, *vjp((dy, jnp.zeros_like(mean), jnp.zeros_like(var)))

    return run


def operands(shape: tuple[int, ...], mean: float = 0.3) -> list[np.ndarray]:
    """Images, scale, bias and cotangent."""
    rng = np.random.default_rng(len(shape) + shape[-1])
    x, dy = rng.normal(mean, 1.0, shape), rng.normal(size=shape)
    scale, bias = rng.uniform(0.5, 1.5, shape[-1]), rng.normal(0, 0.5, shape[-1])
    return [array.astype(np.float32) for array in (x, scale, bias, dy)]


@pytest.mark.parametrize("with_relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("shape", [*SHAPES, (6, 5)], ids=str)
@pytest.mark.parametrize("mean", [0.3, 300.0], ids=["centred", "off"])
def test_equals_its_definition(shape, mean, with_relu, library):
    arrays = operands(shape, mean)
    options: Any = dict(epsilon=1e-3, with_relu=with_relu)
    jitted = jax.jit(value_and_gradients(functools.partial(batch_norm, **options)))
    calls = jitted.lower(*arrays).as_text().count(f"@{onednn.TARGET}(")
    assert calls == (2 if library == "onednn" and len(shape) == 4 else 0)
    with jax.enable_x64(True):
        exact = functools.partial(reference, epsilon=1e-3, relu=with_relu)
        wants = jax.jit(value_and_gradients(exact))(*(a.astype(np.float64) for a in arrays))
        wants = jax.tree.map(np.asarray, wants)
    gots = jitted(*arrays)
    # float32's rounding of the images, whose spread is 1, in sums that keep it small.
    unit = 2.0**-24 * max(abs(mean), 1)
    names = ("y", "mean", "var", "dx", "dscale", "dbias")
    for name, got, want in zip(names, gots, wants, strict=True):
        assert got.dtype == jnp.float32
        size = max(np.abs(want).max(), 1.0)
        np.testing.assert_allclose(got, want, rtol=0, atol=40 * unit * size, err_msg=name)


@pytest.mark.usefixtures("library")
def test_bfloat16_keeps_its_statistics_in_float32():
    x, scale, bias, dy = operands((4, 9, 9, 16))
    run = jax.jit(value_and_gradients(functools.partial(batch_norm, epsilon=1e-3, with_relu=True)))
    narrow = [jnp.asarray(array, jnp.bfloat16) for array in (x, dy)]
    y, mean, var, dx, *_ = run(narrow[0], scale, bias, narrow[1])
    wide = run(narrow[0].astype(jnp.float32), scale, bias, narrow[1].astype(jnp.float32))
    assert (y.dtype, dx.dtype, mean.dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(mean, wide[1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(var, wide[2], rtol=1e-5)
    np.testing.assert_allclose(y.astype(jnp.float32), wide[0], rtol=2**-8, atol=1e-6)


def test_statistics_carry_no_gradient():
    x, scale, bias, _ = map(jnp.asarray, operands((2, 5, 4, 3)))

    def of_statistics(x: jax.Array) -> jax.Array:
        _, mean, var = batch_norm(x, scale, bias, 1e-3)
        return jnp.sum(mean) + jnp.sum(var)

    assert not np.any(jax.grad(of_statistics)(x))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_plain_operations(platform):
    arrays = operands((2, 5, 4, 3))
    run = value_and_gradients(functools.partial(batch_norm, epsilon=1e-3, with_relu=True))
    with everywhere():
        text = export.export(jax.jit(run), platforms=[platform])(*arrays).mlir_module()
    assert "custom_call" not in text
    assert "stablehlo.reduce" in text
