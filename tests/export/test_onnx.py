"""ONNX from what JAX computes: the same numbers in onnxruntime, also with coarser ones."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from jtl.config.options import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jtl.export import calibration, onnx_graph, writing
from jtl.export.how import How
from jtl.export.pixels import for_everywhere
from jtl.models.layers.conv import conv2d
from jtl.models.layers.group_norm import GroupNorm
from jtl.predict import classifier as evaluation
from jtl.predict.classifier import Classifier
from jtl.train.fit import fit
from support import tiny
from support.commands import main
from support.networks import random_variables

onnx = pytest.importorskip("onnx", reason="onnx is not installed (pip install 'jtl[onnx]')")
runtime = pytest.importorskip(
    "onnxruntime", reason="onnxruntime is not installed (pip install 'jtl[onnx]')"
)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> Classifier:
    """A random ResNet18 with three classes, as a run."""
    data = tiny.write_folder(tmp_path_factory.mktemp("data") / "d", train=4, val=3, size=40)
    config = Config(
        ModelConfig("resnet18", "random"),
        DataConfig(f"folder:{data}", image_size=32),
        TrainConfig("head_only", epochs=1, batch_size=6, lr=1e-3),
        RunConfig(tmp_path_factory.mktemp("runs") / "net"),
    )
    return evaluation.load(fit(config, tiny.quiet()))


def images_of(count: int, size: int) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (count, size // 4, size // 4, 3), np.uint8)
    return small.repeat(4, 1).repeat(4, 2)


SIZES = {
    "squeezenet1_1": 32,
    "mobilenet_v3_small": 32,
    "resnet18": 32,
    "alexnet": 64,
    "inception_v3": 96,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "efficientnet_lite0": 32,
    "resnext50_32x4d": 32,
    "vit_tiny_patch16": 32,
    "convnext_tiny": 32,
    "resnet18d": 40,  # Halves maps of five pixels, whose edge counts twice.
}
QUICK = ("squeezenet1_1",)


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in SIZES]
)
def test_a_network_of_each_family(name: str):
    size = SIZES[name]
    model = models.create(name, num_classes=3)
    variables = random_variables.__wrapped__(model, size, gain=1.6)  # Some too large to keep.

    def logits_of(variables: Any, images: jax.Array) -> jax.Array:
        found: Any = model.apply(variables, images.astype(jnp.float32) / 255.0 - 0.5)
        return found

    (batch,) = jax.export.symbolic_shape("batch")
    with for_everywhere():
        shape = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
        logits = functools.partial(logits_of, variables)
        written = onnx_graph.convert(onnx, logits, shape, name)
    images = images_of(2, size)
    images[1] //= 2
    # As arguments: as constants they would be written into the program, and compressed.
    own = np.asarray(jax.jit(logits_of)(variables, images))
    (found,) = runtime.InferenceSession(written.SerializeToString()).run(None, {"images": images})
    assert np.ptp(own, axis=0).max() > 1e-3 * np.abs(own).max()  # Images are told apart.
    # float32 sums in another order.
    np.testing.assert_allclose(found, own, rtol=0, atol=1e-4 * np.abs(own).max())
    if name != "vit_tiny_patch16":  # Attention turns axes itself.
        # Convolutions come one after the other, without turning their axes in between.
        assert turned(written) <= 2


def turned(model: Any) -> int:
    return sum(node.op_type == "Transpose" for node in model.graph.node)


def test_group_normalization():
    norm, random = GroupNorm(groups=4), np.random.default_rng(0)
    images = random.normal(0, 1, (2, 3, 5, 12)).astype(np.float32)
    leaves = {name: random.normal(1, 1, 12).astype(np.float32) for name in ("scale", "bias")}
    function = functools.partial(norm.apply, {"params": leaves})
    (batch,) = jax.export.symbolic_shape("batch")
    with for_everywhere():
        shape = jax.ShapeDtypeStruct((batch, *images.shape[1:]), jnp.float32)
        written = onnx_graph.convert(onnx, function, shape, "norm")
    (found,) = runtime.InferenceSession(written.SerializeToString()).run(None, {"images": images})
    own = np.asarray(jax.jit(function)(images))
    np.testing.assert_allclose(found, own, rtol=0, atol=1e-5 * np.abs(own).max())


def test_images_of_one_pixel_or_one_channel_are_not_turned():
    random = np.random.default_rng(0)
    kernels = random.normal(0, 0.5, (3, 1, 1, 3, 3)).astype(np.float32)

    def function(images: jax.Array) -> jax.Array:
        x = conv2d(images, kernels[0], activation="relu")
        x -= jnp.mean(x, 3, keepdims=True)  # One channel.
        scale = conv2d(jnp.mean(x, (1, 2), keepdims=True), kernels[1])
        x = conv2d(x * jax.nn.sigmoid(scale), kernels[2])
        one = conv2d(jnp.max(x, (1, 2), keepdims=True), kernels[1], activation="relu")
        one = conv2d(conv2d(one, kernels[2]), kernels[0])
        return one.reshape(one.shape[0], -1) + x.reshape(x.shape[0], -1)[:, :3]

    (batch,) = jax.export.symbolic_shape("batch")
    with for_everywhere():
        shape = jax.ShapeDtypeStruct((batch, 4, 5, 3), jnp.float32)
        written = onnx_graph.convert(onnx, function, shape, "small")
    images = random.normal(0, 1, (2, 4, 5, 3)).astype(np.float32)
    (found,) = runtime.InferenceSession(written.SerializeToString()).run(None, {"images": images})
    own = np.asarray(jax.jit(function)(images))
    np.testing.assert_allclose(found, own, rtol=0, atol=1e-5 * np.abs(own).max())
    assert turned(written) == 2  # Of the images, and of the pixels whose order is asked for.
    used = {name for node in written.graph.node for name in node.input}
    assert {array.name for array in written.graph.initializer} <= used


def test_it_needs_no_pytorch_takes_any_batch_and_tells_its_classes(resnet, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = writing.export(resnet, "onnx", tmp_path / "m.onnx")
    assert done.logit_difference <= 1e-4
    assert (done.same_class, done.count) == (9, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["class_names"]) == list(tiny.CLASSES)
    assert (facts["precision"], facts["input"]) == ("float32", "normalize")
    images = images_of(5, 32)
    images[2:] //= 2
    (logits,) = session.run(None, {"images": images})
    own = np.asarray(resnet.model.apply(resnet.variables, resnet.inputs.device(images)))
    np.testing.assert_allclose(logits, own, rtol=1e-4, atol=1e-4 * np.abs(own).max())
    assert not np.allclose(own[0], own[2])


def test_coarser_numbers_are_smaller_and_say_what_they_cost(resnet, tmp_path, capsys):
    whole = writing.export(resnet, "onnx", tmp_path / "m.onnx")
    half = writing.export(resnet, "onnx", tmp_path / "h.onnx", how=How("float16"))
    assert 1e-5 < half.logit_difference < 2e-2
    assert half.megabytes < 0.6 * whole.megabytes
    out = tmp_path / "i.onnx"
    given = ["--to", "onnx", "--precision", "int8", "--out", out]
    assert main("export", resnet.folder, *given) == 0
    printed = capsys.readouterr().out
    size = out.stat().st_size / 1e6
    assert size < 0.3 * whole.megabytes
    assert f"{size:.1f} MB" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("validation accuracy")]
    assert all(0 <= float(figure) <= 1 for figure in line.split()[-2:])
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h.onnx", "i.onnx", "m.onnx"]


def test_normalization_may_stay_outside(resnet, tmp_path):
    how = How(preprocessing="none")
    done = writing.export(resnet, "onnx", tmp_path / "m.onnx", how=how)
    assert done.logit_difference <= 1e-4
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    assert session.get_inputs()[0].type == "tensor(float)"
    assert "normalized float32 [N, 32, 32, 3]" in done.loading


def test_int8_needs_the_training_images(resnet, tmp_path):
    gone = dataclasses.replace(resnet.config, data=DataConfig("folder:/no/such/place"))
    moved = dataclasses.replace(resnet, config=gone)
    with pytest.raises(UserError, match="int8 measures the network on the run's training images"):
        writing.export(moved, "onnx", tmp_path / "m.onnx", how=How("int8"))
    assert list(tmp_path.iterdir()) == []


def test_int8_needs_the_images_as_they_were(resnet):
    new = (
        Path(resnet.config.data.data.removeprefix("folder:"))
        / "train"
        / tiny.CLASSES[0]
        / "new.png"
    )
    shutil.copy(next(new.parent.iterdir()), new)
    try:
        with pytest.raises(UserError, match="have changed since the run"):
            calibration.images_of(resnet, How("int8"))
    finally:
        new.unlink()


def test_accuracies_are_of_both_and_none_of_several_labels():
    labels = np.array([0, 1, 1, 0])
    images = calibration.Images(np.zeros((1, 2)), lambda: iter([(np.eye(2)[labels], labels)]))
    found = calibration.scores(images, lambda x: x, lambda x: np.eye(2)[[0, 0, 0, 0]])
    assert found == {"accuracy_before": 1.0, "accuracy_after": 0.5}
    several = calibration.Images(np.zeros((1, 2)), lambda: iter([(np.eye(2), np.ones((2, 2)))]))
    assert calibration.scores(several, lambda x: x, lambda x: x) == {}


def test_what_has_no_node_is_named(monkeypatch):
    shape = jax.ShapeDtypeStruct((2, 4), jnp.float32)
    with pytest.raises(UserError, match="the network computes 'sort', which jtl cannot write"):
        onnx_graph.convert(onnx, lambda x: jnp.sort(x), shape, "sorted")


@pytest.mark.peer
def test_pytorch_writes_what_has_no_node(resnet, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")

    def refuse(*given: Any) -> None:
        raise UserError("the network computes 'sort', which jtl cannot write as ONNX.")

    monkeypatch.setattr(onnx_graph, "convert", refuse)
    done = writing.export(resnet, "onnx", tmp_path / "m.onnx")
    assert done.logit_difference <= 1e-4
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match=r"'sort'.*exporter cannot write it either.*torch"):
        writing.export(resnet, "onnx", tmp_path / "n.onnx")


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_litert_runs_a_run(resnet, precision, tmp_path):
    for name in ("litert_converter", "ai_edge_litert", "litert_quantizer"):
        pytest.importorskip(name, reason=f"{name} is not installed (pip install 'jtl[litert]')")
    out = tmp_path / "m.tflite"
    done = writing.export(resnet, "tflite", out, how=How(precision))
    assert done.logit_difference <= (1e-4 if precision == "float32" else 0.5)
    facts = json.loads(Path(f"{out}.json").read_text())
    assert facts["class_names"] == list(tiny.CLASSES)
    scope: dict[str, Any] = {"image": images_of(1, 32)}
    exec(done.loading, scope)  # The printed lines, as they are.
    own = np.asarray(resnet.model.apply(resnet.variables, resnet.inputs.device(scope["image"])))
    bound = 1e-4 if precision == "float32" else 0.5
    assert np.abs(scope["logits"] - own).max() <= bound * np.abs(own).max()
