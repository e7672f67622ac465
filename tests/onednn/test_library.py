"""oneDNN through ctypes: finding it, doing without it, errors, and calls from many threads."""

from __future__ import annotations

import concurrent.futures
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jtl import onednn
from jtl.common.platforms import everywhere
from jtl.models.layers.conv import conv2d
from jtl.onednn import calls, library, operations, primitives
from support.commands import python

needs_onednn = pytest.mark.skipif(
    not onednn.installed(), reason="oneDNN is not installed (pip install 'jtl[onednn]')"
)
CONVOLUTION = onednn.Convolution(
    "forward", (2, 9, 8, 6), (3, 3, 6, 5), (2, 5, 4, 5), (2, 2), (1, 1, 0, 1), 1
)


def test_an_operation_survives_its_text():
    assert operations.decode(operations.encode(CONVOLUTION)) == CONVOLUTION
    normalization = onednn.Normalization("normalization", (2, 9, 8, 6), 1e-3, True, 864)
    assert operations.decode(operations.encode(normalization)) == normalization
    grouped = onednn.Convolution(
        "kernel_gradient", (1, 4, 4, 8), (3, 3, 1, 8), (1, 4, 4, 8), (1, 1), (1, 1, 1, 1), 8
    )
    assert operations.decode(operations.encode(grouped)) == grouped


@pytest.fixture
def unloaded():
    """Loads the library anew inside, and again afterwards."""
    library.load.cache_clear()
    yield
    library.load.cache_clear()


@pytest.mark.usefixtures("unloaded")
def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setenv(library.SWITCH, "0")
    assert library.load() is None


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("content", [b"", b"not a library", None])
def test_what_cannot_be_loaded_is_passed_over(monkeypatch, tmp_path, content):
    path = tmp_path / library.FILE_NAME
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(library, "_candidates", lambda: iter([str(path)]))
    assert library.load() is None


@pytest.mark.usefixtures("unloaded")
def test_another_library_of_that_name_is_passed_over(monkeypatch):
    # The C library loads, but has none of oneDNN's functions.
    monkeypatch.setattr(library, "_candidates", lambda: iter(["libc.so.6"]))
    assert library.load() is None


@pytest.mark.process
def test_without_it_the_same_program_runs():
    script = (
        "import jax, jax.numpy as jnp; from jtl import onednn;"
        "from jtl.models.layers.conv import conv2d;"
        "y = jax.jit(conv2d)(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2)));"
        "print(onednn.installed(), float(y.sum()))"
    )
    ran = python("-c", script, JTL_ONEDNN="0")
    assert ran.stdout.split() == ["False", "400.0"]


@needs_onednn
def test_what_it_does_not_implement_is_left_to_xla():
    # A kernel that reaches beyond the padded image has no output.
    impossible = onednn.Convolution(
        "forward", (1, 2, 2, 1), (5, 5, 1, 1), (1, 0, 0, 1), (1, 1), (0, 0, 0, 0), 1
    )
    assert not onednn.available(dataclasses.replace(CONVOLUTION, dtype="float64"))
    assert not onednn.available(impossible)


@needs_onednn
def test_a_failing_call_is_an_error_of_the_program(monkeypatch):
    class Fails:
        def run(self, *addresses: int) -> None:
            raise library.OneDnnError("dnnl_primitive_execute", 2)

    x, kernel = jnp.ones((2, 9, 8, 6)), jnp.ones((3, 3, 6, 5))
    monkeypatch.setitem(calls._by_attribute, operations.encode(CONVOLUTION).encode(), Fails())
    run = jax.jit(lambda x, kernel: onednn.call(CONVOLUTION, x, kernel))
    with pytest.raises(
        jax.errors.JaxRuntimeError, match="dnnl_primitive_execute of oneDNN failed with status 2"
    ):
        jax.block_until_ready(run(x, kernel))


@needs_onednn
def test_many_threads_get_their_own_results():
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 16, 16)), jnp.float32)
    inputs = [
        jnp.asarray(rng.normal(size=(2, size, size, 16)), jnp.float32) for size in (8, 12, 20, 28)
    ] * 8
    run = jax.jit(conv2d)
    with onednn.disabled():
        reference = jax.jit(lambda x, kernel: conv2d(x, kernel))
        expected = [reference(x, kernel) for x in inputs]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda x: run(x, kernel), inputs))
    for got, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@needs_onednn
def test_one_kind_of_operation_is_left_out():
    normalization = onednn.Normalization("normalization", (2, 9, 8, 6), 1e-3, True)
    with onednn.disabled(onednn.Normalization):
        assert onednn.with_workspace(normalization) is None
        assert onednn.available(CONVOLUTION)
    assert onednn.with_workspace(normalization) is not None


@needs_onednn
def test_memory_for_kernels_only_grows():
    scratch = primitives._Scratch()
    first = scratch.fit(1000)
    assert first % 64 == 0
    assert scratch.fit(10) == first
    assert scratch.fit(100_000) % 64 == 0


@needs_onednn
def test_nothing_of_it_is_in_programs_for_accelerators():
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1, 8, 8, 4), (3, 3, 4, 4))]
    with everywhere():
        exporting = jax.export.export(jax.jit(lambda x, k: conv2d(x, k)), platforms=["cuda"])
        exported = exporting(*shapes)
    assert onednn.TARGET not in exported.mlir_module()
    reference = jax.jit(
        lambda x, k: lax.conv_general_dilated(
            x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    )
    ops = str(jax.export.export(reference, platforms=["cuda"])(*shapes).mlir_module())
    assert ops.count("stablehlo.convolution") == exported.mlir_module().count(
        "stablehlo.convolution"
    )
