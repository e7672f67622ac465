"""Pooling against XLA's and PyTorch's: values, gradients, ties, and what is lowered where."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jtl import onednn
from jtl.common.platforms import everywhere
from jtl.models.layers.pool import max_pool, neighbourhood_avg

pytestmark = pytest.mark.slow

# window, strides, padding, size
CASES = [
    (3, 2, 1, (8, 8)),
    (3, 2, 1, (7, 9)),
    (3, 2, 0, (9, 8)),
    (3, 2, "SAME", (8, 7)),
    (2, 2, 0, (7, 6)),
    (3, 1, 1, (5, 6)),
    (2, 3, 0, (9, 7)),
    (3, 3, ((1, 0), (2, 1)), (8, 10)),
    (5, 2, 2, (9, 9)),
    (3, 2, 1, (1, 1)),
]
each_case = pytest.mark.parametrize(("window", "strides", "padding", "size"), CASES, ids=str)


def value_and_gradient(function):
    def run(x, dy):
        y, vjp = jax.vjp(function, x)
        return y, vjp(dy)[0]

    return run


def reference(x, *, window, strides, padding):
    pads = [(padding, padding)] * 2 if isinstance(padding, int) else padding
    return nn.max_pool(x, (window, window), (strides, strides), pads)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ties", [False, True])
@each_case
def test_equals_xla(window, strides, padding, size, ties, dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3))
    x = jnp.asarray(np.round(x) if ties else x, dtype)
    options = dict(window=window, strides=strides, padding=padding)
    plain = functools.partial(reference, **options)
    # Whole numbers, so that sums of gradients are exact in any order.
    dy = jnp.asarray(rng.integers(-8, 9, jax.eval_shape(plain, x).shape), dtype)
    ours = jax.jit(value_and_gradient(functools.partial(max_pool, **options)))(x, dy)
    theirs = jax.jit(value_and_gradient(plain))(x, dy)
    for got, want in zip(ours, theirs, strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("window", "strides", "padding", "size"),
    [*CASES, (5, 1, ((4, 4), (0, 3)), (2, 6)), (3, 2, ((3, 4), (0, 0)), (2, 5))],
    ids=str,
)
def test_in_inference_equals_xla_without_padding(window, strides, padding, size, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *size, 3)), dtype)
    x = x.at[0, size[0] // 2, size[1] // 2, 1].set(jnp.nan)
    options = dict(window=window, strides=strides, padding=padding)
    ours, plain = (jax.jit(functools.partial(f, **options)) for f in (max_pool, reference))
    assert ours(x).dtype == dtype
    np.testing.assert_array_equal(ours(x).astype(jnp.float32), plain(x).astype(jnp.float32))
    exported = export.export(ours, platforms=["cpu"])(x).mlir_module()
    # XLA's loop over a padded image is what makes it slow.
    assert "stablehlo.pad" not in exported
    assert "reduce_window" not in exported


@pytest.mark.peer
@pytest.mark.peer
@pytest.mark.parametrize("last", [1.0, np.nan])
def test_ties_and_nan_as_in_pytorch(last, library):
    import torch

    x = np.array([[0, 0, 1, 1], [0, 0, 1, last], [2, 1, 3, 3], [2, 2, 3, 3]], np.float32)
    x = x.reshape(1, 4, 4, 1)
    source = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    pooled = torch.nn.functional.max_pool2d(source, 3, 2, 1)
    pooled.backward(torch.arange(1.0, 5).reshape(1, 1, 2, 2))
    assert source.grad is not None
    dy = jnp.arange(1.0, 5).reshape(1, 2, 2, 1)
    run = value_and_gradient(functools.partial(max_pool, window=3, strides=2, padding=1))
    jitted = jax.jit(run)
    y, dx = jitted(jnp.asarray(x), dy)
    assert (onednn.TARGET in jitted.lower(x, dy).as_text()) == (library == "onednn")
    np.testing.assert_array_equal(y[..., 0], pooled.detach().numpy()[:, 0])
    # oneDNN does not give NaN its gradient, which is NaN itself wherever a loss was.
    if library == "xla" or not np.isnan(last):
        np.testing.assert_array_equal(dx[..., 0], source.grad.numpy()[:, 0])


@pytest.mark.parametrize(("platform", "scatters"), [("cpu", False), ("cuda", True), ("tpu", True)])
def test_only_accelerators_select_and_scatter(platform, scatters):
    shapes = [jax.ShapeDtypeStruct((2, n, n, 3), jnp.float32) for n in (8, 4)]
    run = value_and_gradient(functools.partial(max_pool, window=3, strides=2, padding=1))
    with onednn.disabled(), everywhere():
        text = export.export(jax.jit(run), platforms=[platform])(*shapes).mlir_module()
    assert ("stablehlo.select_and_scatter" in text) == scatters
    assert ("stablehlo.reduce_window" in text) == scatters


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("counts_padding", [True, False])
@pytest.mark.parametrize(("size", "window"), [((5, 8), 3), ((6, 3), 5), ((1, 2), 3)], ids=str)
def test_averages_of_neighbourhoods(size, window, counts_padding, dtype, library):
    rng = np.random.default_rng(0)
    x, dy = (jnp.asarray(rng.normal(size=(2, *size, 20)), dtype) for _ in range(2))

    def reference(x):
        options = dict(padding="SAME", count_include_pad=counts_padding)
        return nn.avg_pool(x.astype(jnp.float32), (window, window), (1, 1), **options)

    ours = functools.partial(neighbourhood_avg, window=window, counts_padding=counts_padding)
    jitted = jax.jit(value_and_gradient(ours))
    text = jitted.lower(x, dy).as_text()
    assert text.count(f"@{onednn.TARGET}(") == (2 if library == "onednn" else 0)
    expected = jax.jit(value_and_gradient(reference))(x, dy.astype(jnp.float32))
    # The reference's gradient is rounded to x's dtype as well.
    bound = 1e-6 if dtype == "float32" else 2.0**-7
    for got, want in zip(jitted(x, dy), expected, strict=True):
        assert got.dtype == x.dtype
        np.testing.assert_allclose(got.astype(np.float32), want.astype(np.float32), atol=bound)
