"""What accelerators are given: the programs that `jax.export` makes for them, looked at here.

No accelerator is needed to lower for one. What a program holds decides whether the vendor's
libraries can serve it: convolutions in the number format that was asked for, and nothing that
only a CPU has, that waits for the host, or that keeps a second copy of the state.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export, lax

from jtl import models, onednn
from jtl.common.platforms import everywhere
from jtl.common.trees import prune, within
from jtl.data.decoding import HostTransform
from jtl.data.input_plan import InputPlan
from jtl.data.preprocessing import Prepare
from jtl.export import stablehlo
from jtl.freeze import find_cut, label_tree, parse
from jtl.freeze.cut import trainable
from jtl.models import ImageClassifier, Preprocessing
from jtl.models.families.densenet import DenseNet
from jtl.models.inference import forward
from jtl.models.layers import conv, norm
from jtl.train import step as steps
from jtl.train.state import init_state
from support import tiny
from support.programs import (
    DTYPES,
    Program,
    check_alone,
    check_convolutions,
    check_kept,
    check_wide,
)

pytestmark = pytest.mark.slow

ACCELERATORS = ("cuda", "tpu")
BATCH = 2
TX = optax.adamw(1e-3)

# The programs.


@dataclasses.dataclass(frozen=True)
class Network:
    model: ImageClassifier
    size: int

    @functools.cached_property
    def variables(self) -> Any:
        return models.variable_shapes(self.model, self.size)

    def images(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((BATCH, self.size, self.size, 3), jnp.uint8)

    def prepare(self, dtype: str) -> Prepare:
        return Prepare(self.size, Preprocessing(size=self.size), dtype)


NETWORKS = {
    "tiny": Network(tiny.MODEL, tiny.SIZE),
    "resnet18": Network(models.create("resnet18", num_classes=5), 64),
    # Convolutions of 1x1 and by channel, which a CPU computes in other ways.
    "efficientnet_lite0": Network(models.create("efficientnet_lite0", num_classes=5), 64),
    "densenet": Network(ImageClassifier(DenseNet((2, 2), growth=8), num_classes=5), 64),
}


def kernels(tree: Any) -> int:
    """How many convolutions have their kernels in a tree."""
    return sum(len(leaf.shape) == 4 for leaf in jax.tree.leaves(tree))


class Step:
    """The arguments of a train step under a mask, as shapes."""

    def __init__(self, network: Network, mask: str, dtype: str = "float32", ema: float = 0.0):
        model, shapes = network.model, network.variables
        labels = label_tree(parse(mask, model.units()), shapes["params"])
        cut = find_cut(labels, model.units())
        trains, live = trainable(labels), within(cut.stats_units)
        params = prune(shapes["params"], trains)
        stats = prune(shapes["batch_stats"], live)
        self.frozen = {
            "params": prune(shapes["params"], lambda leaf: not trains(leaf)),
            "batch_stats": prune(shapes["batch_stats"], lambda leaf: not live(leaf)),
        }
        self.state = jax.eval_shape(functools.partial(init_state, tx=TX, ema=ema), params, stats)
        self.images = network.images()
        self.labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
        self.options: dict[str, Any] = dict(
            model=model,
            tx=TX,
            start=None,
            train_units=cut.train_units,
            stats_units=cut.stats_units,
            prepare=network.prepare(dtype),
        )

    @property
    def leaves(self) -> int:
        return len(jax.tree.leaves(self.state))

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.state, steps.Constants(**self.frozen), steps.Batch(self.images, self.labels)

    @property
    def step(self) -> steps.TrainStep:
        return steps.TrainStep(**self.options)

    def lowered(self, platform: str, function: Any = steps.train_step) -> Program:
        with everywhere():
            exporting = export.export(function, platforms=[platform])
            return Program.of(exporting(*self.arguments, step=self.step))

    def unexported(self, platform: str) -> Program:
        """Also of what `jax.export` refuses by itself."""
        traced = steps.train_step.trace(*self.arguments, step=self.step)
        return Program(traced.lower(lowering_platforms=(platform,)).as_text())


@pytest.mark.parametrize("platform", ACCELERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    # Of the kernels that train, those whose input needs no gradient, as nothing before it trains.
    ("name", "mask", "first"),
    [
        ("tiny", "head_only", 0),
        ("resnet18", "last_stage", 2),  # Of the block's first convolution and of its shortcut.
        ("resnet18", "full", 1),
        ("efficientnet_lite0", "last_stage", 1),
        ("densenet", "full", 1),
    ],
)
def test_a_step_is_convolutions_in_its_number_format(name, mask, first, dtype, platform):
    step = Step(NETWORKS[name], mask, dtype, ema=0.999 if mask == "full" else 0.0)
    program = step.lowered(platform)
    trained = kernels(step.state.params)
    assert (trained > 0) == (mask != "head_only")
    count = kernels(NETWORKS[name].variables["params"]) + 2 * trained - first
    check_convolutions(program, count, DTYPES[dtype])
    check_alone(program)
    check_wide(program)
    check_kept(program, step.leaves)


@pytest.mark.parametrize("platform", ACCELERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_frozen_forward_is_convolutions_in_its_number_format(dtype, platform):
    network = NETWORKS["efficientnet_lite0"]
    for stop in (None, "head"):
        with everywhere():
            exported = export.export(forward, platforms=[platform])(
                network.variables,
                network.images(),
                model=network.model,
                stop=stop,
                prepare=network.prepare(dtype),
            )
        program = Program.of(exported)
        check_convolutions(program, kernels(network.variables["params"]), DTYPES[dtype])
        check_alone(program)
        # Logits are float32, features what they are computed in.
        assert program.outputs == ("f32" if stop is None else DTYPES[dtype],)
        assert {kind for kind in program.inputs if kind != "ui8"} == {"f32"}


@pytest.mark.parametrize("platform", ACCELERATORS)
def test_an_epoch_over_features_runs_alone_on_the_device(platform):
    step = Step(NETWORKS["tiny"], "head_only")
    features = jax.ShapeDtypeStruct((12, 16), jnp.bfloat16)
    labels, batches = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((12,), (4, 3)))
    state, constants, _ = step.arguments
    table = steps.Batch(features, labels)
    with everywhere():
        exported = export.export(steps.train_epoch, platforms=[platform])(
            state,
            constants,
            table,
            batches,
            step=dataclasses.replace(step.step, start="head", prepare=None),
        )
    program = Program.of(exported)
    assert len(program.named("while")) == 1
    assert {k for op in program.named("dot_general") for k in op.operands} == {"bf16"}
    check_alone(program)
    assert set(range(step.leaves)) <= program.aliased


@pytest.mark.parametrize("platform", ACCELERATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_export_is_convolutions_in_its_number_format(dtype, platform, monkeypatch):
    network = NETWORKS["densenet"]
    shapes = network.variables
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    inputs = InputPlan(HostTransform(network.size, 0.875, "bicubic"), network.prepare(dtype))
    classifier: Any = types.SimpleNamespace(model=network.model, variables=variables, inputs=inputs)
    monkeypatch.setattr(stablehlo, "PLATFORMS", (platform,))
    program = Program.of(stablehlo.exported(classifier))
    found = program.named("convolution")
    assert len(found) == kernels(shapes["params"])
    assert {kind for op in found for kind in op.operands} == {DTYPES[dtype]}
    # Resizing is matrix products in float32, over images; the head's is over vectors.
    products = [op for op in program.named("dot_general") if op.rank == 2]
    assert {kind for op in products for kind in op.operands} == {DTYPES[dtype]}
    check_alone(program)
    assert program.outputs == ("f32",)


# Each check fails where what it checks does not hold.


def dots(x, kernel, *, strides, pads, groups):
    """A convolution as a sum of matrix products."""
    del groups
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    down, across = kernel.shape[:2]
    rows = (x.shape[1] - down) // strides[0] + 1
    columns = (x.shape[2] - across) // strides[1] + 1
    return sum(
        x[:, i :: strides[0], j :: strides[1]][:, :rows, :columns] @ kernel[i, j]
        for i in range(down)
        for j in range(across)
    )


def through_the_host(images):
    x = tiny.PREPARE(images)
    return jax.pure_callback(lambda x: x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def through_float64(images):
    return tiny.PREPARE(images).astype(jnp.float64).astype(jnp.float32)


def narrow(x, scale, bias, **options):
    """Normalizes by a mean that is summed in the images' own number format."""
    y, _, var = PLAIN(x, scale, bias, **options)
    total = lax.reduce(x, jnp.zeros((), x.dtype), lax.add, (0, 1, 2))
    return y, total.astype(jnp.float32) / (x.size // x.shape[-1]), var


PLAIN = norm._plain


def full_step(dtype: str = "float32") -> Step:
    return Step(NETWORKS["tiny"], "full", dtype)


@pytest.fixture(autouse=True)
def _traced_anew(request):
    """What is traced with something replaced must not be used elsewhere."""
    yield
    if "monkeypatch" in request.fixturenames:
        jax.clear_caches()


def test_a_product_in_place_of_a_convolution_shows(monkeypatch):
    jax.clear_caches()
    monkeypatch.setattr(conv, "direct", dots)
    program = full_step().lowered("cuda")
    with pytest.raises(AssertionError):
        check_convolutions(program, 8, "f32")


def test_a_computation_in_another_number_format_shows():
    check_convolutions(full_step("bfloat16").lowered("cuda"), 8, "bf16")
    with pytest.raises(AssertionError):
        check_convolutions(full_step().lowered("cuda"), 8, "bf16")


@pytest.mark.skipif(not onednn.installed(), reason="oneDNN is not installed")
def test_a_library_of_the_cpu_shows(monkeypatch):
    step = full_step()
    program = step.unexported("cpu")
    assert onednn.TARGET in {op.target for op in program.named("custom_call")}
    with pytest.raises(AssertionError):
        check_alone(program)


def test_a_way_over_the_host_shows():
    step = full_step()
    step.options["prepare"] = through_the_host
    # For a device that is not there JAX lowers no callback, and exports none at all.
    with pytest.raises(ValueError, match="different from the lowering platform"):
        step.lowered("cuda")
    with onednn.disabled():
        program = step.unexported("cpu")
    assert ["callback" in op.target for op in program.named("custom_call")] == [True]
    with pytest.raises(AssertionError):
        check_alone(program)


@pytest.mark.parametrize("platform", ACCELERATORS)
def test_float64_shows(platform):
    step = full_step()
    step.options["prepare"] = through_float64
    with jax.enable_x64(True):
        program = step.lowered(platform)
    with pytest.raises(AssertionError):
        check_alone(program)


def test_statistics_in_half_precision_show(monkeypatch):
    step = full_step("bfloat16")
    jax.clear_caches()
    monkeypatch.setattr(norm, "_plain", narrow)
    program = step.lowered("tpu")
    with pytest.raises(AssertionError):
        check_wide(program)


def test_a_state_in_half_precision_shows():
    step = full_step()
    params = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), step.state.params
    )
    step.state = dataclasses.replace(step.state, params=params)
    program = step.lowered("tpu")
    with pytest.raises(AssertionError):
        check_kept(program, step.leaves)


def test_a_state_that_is_not_donated_shows():
    step = full_step()
    program = step.lowered("tpu", jax.jit(steps._train_step, static_argnames="step"))
    with pytest.raises(AssertionError):
        check_kept(program, step.leaves)
