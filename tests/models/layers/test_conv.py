"""conv2d against XLA's convolution: values, gradients, and what is lowered where."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

from jtl import onednn
from jtl.common.platforms import everywhere
from jtl.models.layers.conv import conv2d, explicit_padding

ACCELERATORS = ("cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Case:
    """A convolution's geometry; `lowering` is what a CPU gets: matmul, shifts or plain."""

    lowering: str
    kernel: tuple[int, int, int, int]
    size: tuple[int, int] = (8, 8)
    strides: tuple[int, int] = (1, 1)
    padding: Any = "SAME"
    groups: int = 1
    batch: int = 2

    def __str__(self) -> str:
        words = (self.lowering, self.kernel, self.size, self.strides, self.padding, self.groups)
        return "-".join(re.sub(r"[ ()]", "", str(word)) for word in words)

    @property
    def pads(self) -> Any:
        if self.padding == "SAME":
            return lax.padtype_to_pads(self.size, self.kernel[:2], self.strides, "SAME")
        if isinstance(self.padding, int):
            return [(self.padding, self.padding)] * 2
        return self.padding

    def ours(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv2d(x, kernel, strides=self.strides, padding=self.padding, groups=self.groups)

    def reference(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            self.strides,
            self.pads,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=self.groups,
        )

    def operands(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, kernel and cotangent, float32."""
        rng = np.random.default_rng(0)
        x_shape = (self.batch, *self.size, self.kernel[2] * self.groups)
        structs = [jax.ShapeDtypeStruct(s, jnp.float32) for s in (x_shape, self.kernel)]
        shapes = (x_shape, self.kernel, jax.eval_shape(self.reference, *structs).shape)
        x, kernel, dy = (rng.standard_normal(s).astype(np.float32) for s in shapes)
        return x, kernel, dy

    def sum_lengths(self, dy: np.ndarray) -> tuple[int, int, int]:
        """Number of products in one element of the output, of dx and of the kernel's gradient."""
        height, width, inputs, outputs = self.kernel
        taps = height * width
        return taps * inputs, taps * outputs // self.groups, dy[..., 0].size


ONE_BY_ONE = [
    Case("matmul", (1, 1, 5, 7)),
    Case("matmul", (1, 1, 64, 32), size=(7, 9), padding=0),
    Case("matmul", (1, 1, 5, 7), strides=(2, 2)),
    Case("matmul", (1, 1, 5, 7), size=(7, 9), strides=(2, 2), padding=0),
    Case("matmul", (1, 1, 5, 7), size=(7, 8), strides=(2, 1)),
    Case("matmul", (1, 1, 5, 7), size=(6, 7), strides=(2, 2), padding=((1, 0), (2, 1))),
    Case("matmul", (1, 1, 1, 1), size=(1, 1), batch=1),
]
DEPTHWISE = [
    Case("shifts", (3, 3, 1, 6), groups=6),
    Case("shifts", (5, 5, 1, 6), size=(7, 9), padding=2, groups=6),
    *(
        Case("shifts", (3, 3, 1, 6), size=size, strides=(2, 2), padding=padding, groups=6)
        for size in ((8, 8), (7, 9))
        for padding in ("SAME", 1)
    ),
    *(
        Case("shifts", (5, 5, 1, 6), size=size, strides=(2, 2), groups=6)
        for size in ((8, 8), (7, 9), (2, 2))
    ),
    Case("shifts", (3, 3, 1, 6), strides=(2, 1), padding=((0, 1), (2, 0)), groups=6),
    Case("shifts", (3, 5, 1, 6), size=(9, 8), groups=6),
    Case("shifts", (3, 3, 1, 1)),
]
PLAIN = [
    Case("plain", (3, 3, 4, 5), size=(7, 8)),
    Case("plain", (7, 7, 3, 8), size=(17, 16), strides=(2, 2), padding=3),
    Case("plain", (7, 7, 3, 8), size=(16, 17), strides=(2, 2)),
    Case("plain", (3, 3, 4, 8), strides=(2, 2), padding=1, groups=2),
    Case("plain", (1, 1, 4, 8), groups=2),
    Case("plain", (3, 3, 1, 12), groups=6),  # Two outputs for each channel.
]
CASES = ONE_BY_ONE + DEPTHWISE + PLAIN
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def value_and_gradients(function: Callable[..., jax.Array]) -> Callable[..., tuple]:
    def run(x: jax.Array, kernel: jax.Array, dy: jax.Array) -> tuple:
        y, vjp = jax.vjp(function, x, kernel)
        return (y, *vjp(dy))

    return run


def lowered_ops(function: Callable[..., Any], operands: Any, platform: str) -> set[str]:
    """Names of the StableHLO operations that `function` becomes on `platform`."""
    with everywhere():
        exported = export.export(jax.jit(function), platforms=[platform])(*operands)
    return set(re.findall(r"stablehlo\.(\w+)", exported.mlir_module()))


@pytest.fixture
def without_onednn() -> Iterator[None]:
    with onednn.disabled():
        yield


@each_case
def test_onednn_takes_every_case(case, library):
    text = jax.jit(value_and_gradients(case.ours)).lower(*case.operands()).as_text()
    assert text.count(f"@{onednn.TARGET}(") == (3 if library == "onednn" else 0)


@pytest.mark.usefixtures("library")
@each_case
def test_equals_xla_within_the_rounding_of_its_sums(case):
    operands = case.operands()
    with jax.enable_x64(True):
        run = jax.jit(value_and_gradients(case.reference))
        exact = run(*(x.astype(np.float64) for x in operands))
        # Sums of absolute products: what float32's rounding is relative to.
        scale = run(*(np.abs(x).astype(np.float64) for x in operands))
        exact, scale = jax.tree.map(np.asarray, (exact, scale))
    actual = jax.jit(value_and_gradients(case.ours))(*operands)
    lengths = case.sum_lengths(operands[2])
    for got, want, magnitude, length in zip(actual, exact, scale, lengths, strict=True):
        assert got.dtype == jnp.float32
        assert want.dtype == np.float64
        assert got.shape == want.shape
        # Rounding of n products and their sum in any order: n u, u = 2^-24 (Higham, 3.1).
        assert np.all(np.abs(np.asarray(got) - want) <= length * 2.0**-24 * magnitude)


@pytest.mark.parametrize("case", [ONE_BY_ONE[1], DEPTHWISE[0], DEPTHWISE[6], *PLAIN], ids=str)
def test_bfloat16_rounds_like_xla(case, library):
    operands = [jnp.asarray(x, jnp.bfloat16) for x in case.operands()]
    ours = jax.jit(value_and_gradients(case.ours))
    taken = ours.lower(*operands).as_text().count(f"@{onednn.TARGET}(")
    # Its depthwise convolutions in bfloat16 crash, so they are XLA's.
    by_onednn = library == "onednn" and onednn.computes(jnp.bfloat16) and case.groups == 1
    assert taken == (3 if by_onednn else 0)
    actual = ours(*operands)
    widened = [x.astype(jnp.float32) for x in operands]
    exact = jax.jit(value_and_gradients(case.reference))(*widened)
    scale = jax.jit(value_and_gradients(case.reference))(*(jnp.abs(x) for x in widened))
    for got, want, magnitude in zip(actual, exact, scale, strict=True):
        assert got.dtype == jnp.bfloat16
        # Accumulated in float32 and rounded once: half a unit in the last of 8 bits.
        error = jnp.abs(got.astype(jnp.float32) - want)
        assert jnp.all(error <= 2.0**-8 * jnp.abs(want) + 1e-5 * magnitude)


@pytest.mark.usefixtures("without_onednn")
@each_case
def test_cpu_gets_its_own_lowering(case):
    operands = case.operands()
    assert "convolution" in lowered_ops(case.reference, operands[:2], "cpu")
    for function, arguments in (
        (case.ours, operands[:2]),
        (value_and_gradients(case.ours), operands),
    ):
        ops = lowered_ops(function, arguments, "cpu")
        assert ("convolution" in ops) == (case.lowering == "plain")
        assert ("dot_general" in ops) == (case.lowering == "matmul")


@pytest.mark.parametrize("platform", ACCELERATORS)
@pytest.mark.parametrize(
    "case", [ONE_BY_ONE[0], ONE_BY_ONE[5], DEPTHWISE[0], DEPTHWISE[9], PLAIN[3]], ids=str
)
def test_accelerators_get_the_convolution_and_nothing_of_the_cpu(case, platform):
    operands = case.operands()
    for ours, reference, arguments in (
        (case.ours, case.reference, operands[:2]),
        (*map(value_and_gradients, (case.ours, case.reference)), operands),
    ):
        # The same operations as XLA's own convolution, but for the one branch of a `case`
        # that platform_dependent leaves and its constant index.
        allowed = lowered_ops(reference, arguments, platform)
        assert "convolution" in allowed
        assert "dot_general" not in allowed
        harmless = {"case", "return", "constant"}
        assert lowered_ops(ours, arguments, platform) - harmless == allowed - harmless


def test_accelerators_convolve_three_times_for_a_step():
    case = DEPTHWISE[0]
    step = jax.jit(value_and_gradients(case.ours))
    for platform in ACCELERATORS:
        with everywhere():
            text = export.export(step, platforms=[platform])(*case.operands()).mlir_module()
        assert len(re.findall(r"= stablehlo\.convolution\(", text)) == 3


@pytest.mark.usefixtures("without_onednn")
def test_one_program_holds_both_lowerings():
    case = ONE_BY_ONE[0]
    with everywhere():
        exporting = export.export(jax.jit(case.ours), platforms=["cpu", "cuda"])
        exported = exporting(*case.operands()[:2])
    ops = set(re.findall(r"stablehlo\.(\w+)", exported.mlir_module()))
    assert {"convolution", "dot_general"} <= ops


@pytest.mark.parametrize(
    ("padding", "size", "kernel", "strides", "expected"),
    [
        # TensorFlow's SAME: what is odd goes below and right.
        ("SAME", (8, 8), (3, 3), (2, 2), ((0, 1), (0, 1))),
        ("SAME", (7, 8), (3, 3), (2, 2), ((1, 1), (0, 1))),
        ("SAME", (8, 7), (5, 5), (2, 2), ((1, 2), (2, 2))),
        ("SAME", (8, 8), (1, 1), (2, 2), ((0, 0), (0, 0))),
        ("SAME", (8, 8), (3, 5), (1, 1), ((1, 1), (2, 2))),
        (3, (8, 8), (7, 7), (2, 2), ((3, 3), (3, 3))),
        (((1, 2), (3, 4)), (8, 8), (3, 3), (1, 1), ((1, 2), (3, 4))),
    ],
)
def test_explicit_padding(padding, size, kernel, strides, expected):
    assert explicit_padding(padding, size, kernel, strides) == expected


def test_gradients_agree_with_finite_differences():
    # Independent of any convolution's own gradient: the function is linear in each operand.
    for case in (ONE_BY_ONE[3], DEPTHWISE[9]):
        x, kernel, dy = case.operands()
        rng = np.random.default_rng(1)
        _, dx, dkernel = jax.jit(value_and_gradients(case.ours))(x, kernel, dy)
        for operand, gradient, along in (
            (x, dx, lambda v, kernel=kernel, case=case: case.ours(v, kernel)),
            (kernel, dkernel, functools.partial(case.ours, x)),
        ):
            direction = rng.standard_normal(operand.shape).astype(np.float32)
            np.testing.assert_allclose(
                np.vdot(np.asarray(along(direction)), dy), np.vdot(gradient, direction), rtol=1e-4
            )


def test_a_kernel_that_covers_its_image_is_one_matrix_product():
    rng = np.random.default_rng(0)
    x, kernel, bias = (
        jnp.asarray(rng.standard_normal(shape), jnp.float32)
        for shape in ((2, 3, 4, 5), (3, 4, 5, 9), (9,))
    )

    def dense(x, kernel, bias):
        return conv2d(x, kernel, bias, padding=0, activation="relu")

    def reference(x, kernel, bias):
        y = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(y + bias.reshape(1, 1, 1, -1))

    for platform in ("cpu", "cuda"):
        operations = lowered_ops(dense, (x, kernel, bias), platform)
        assert "dot_general" in operations
        assert not operations & {"convolution", "custom_call"}
    dy = jnp.asarray(rng.standard_normal((2, 1, 1, 9)), jnp.float32)
    results = []
    for function in (dense, reference):
        y, vjp = jax.vjp(function, x, kernel, bias)
        results.append((y, *vjp(dy)))
    for ours, theirs in zip(*results, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


def test_a_dense_layer_over_any_number_of_images():
    # Of which one is fewer than the kernel's numbers, 300 are more.
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(2, 2, 3, 64)), jnp.float32)
    run = jax.jit(lambda x: conv2d(x, kernel, strides=(1, 1), padding=0))
    (count,) = export.symbolic_shape("count")
    program = export.export(run)(jax.ShapeDtypeStruct((count, 2, 2, 3), jnp.float32))
    for n in (1, 300):
        x = np.random.default_rng(n).normal(size=(n, 2, 2, 3)).astype(np.float32)
        np.testing.assert_allclose(program.call(x), run(x), rtol=1e-5, atol=1e-5)
