"""ONNX models: the state dict is found again, and computes what PyTorch's network does."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from weights_convert.convert.conversion import convert
from weights_convert.read import sharded
from weights_convert.read.readers import read
from weights_convert.source import source_conversion, sources

pytestmark = pytest.mark.peer
SIZE = 64


def randomized(network: Any) -> Any:
    """The network with values that differ everywhere, such as training leaves."""
    import torch

    generator = torch.Generator().manual_seed(0)
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if value.dtype.is_floating_point:
            # Without a gradient.
            drawn = torch.randn(value.shape, generator=generator)
            scale = (value[0].numel() or 1) ** -0.5 if value.ndim > 1 else 0.2
            positive = name.endswith(("var", "bn1.weight", "bn2.weight"))
            value.data.copy_(drawn.abs() * 0.3 + 0.8 if positive else drawn * scale)
    return network.eval()


def exported(network: Any, path: Any, size: int = SIZE, **options: Any) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.zeros(1, 3, size, size)
        torch.onnx.export(network, image, str(path), verbose=False, **options)
    return path


@pytest.fixture(scope="module")
def resnet() -> Any:
    import torchvision

    return randomized(torchvision.models.resnet18(num_classes=5))


@pytest.mark.parametrize("dynamo", [False, True])
def test_logits_are_those_of_the_exported_network(resnet, tmp_path, dynamo):
    import torch

    path = exported(resnet, tmp_path / "m.onnx", dynamo=dynamo)
    checkpoint = source_conversion.convert_source(sources.locate(str(path)))
    assert (checkpoint.model, checkpoint.num_classes) == ("resnet18", 5)
    assert checkpoint.source_format == "onnx"
    assert any("folded into its convolutions" in note for note in checkpoint.notes)
    images = np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
    with torch.no_grad():
        expected = resnet(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    model = models.create("resnet18", num_classes=5, conventions=checkpoint.conventions)
    logits = np.asarray(model.apply(checkpoint.variables, images, train=False))
    assert np.ptp(expected) > 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_files_beside_a_model_count(resnet, tmp_path):
    path = exported(resnet, tmp_path / "m.onnx", dynamo=True)
    data = tmp_path / "m.onnx.data"
    before = read(path)
    assert before.size_bytes == path.stat().st_size + data.stat().st_size
    changed = bytearray(data.read_bytes())
    changed[-1] ^= 1
    data.write_bytes(changed)
    assert sharded.digest(path) != before.sha256
    data.unlink()
    with pytest.raises(UserError, match=r"there is no file 'm.onnx.data'"):
        read(path)
    path.write_bytes(path.read_bytes().replace(b"m.onnx.data", b"../nnx.data"))
    with pytest.raises(UserError, match=r"outside of its folder \(../nnx.data\). Nothing was"):
        read(path)


@pytest.mark.parametrize(("prefix", "dynamo"), [("", True), ("tf_", False)])
def test_padding_says_which_of_two_networks_it_is(tmp_path, prefix, dynamo):
    """Their epsilons differ, too: a normalization that was folded in has the right one."""
    import timm

    name = f"{prefix}mobilenetv3_small_100"
    network = randomized(timm.create_model(name, num_classes=3))
    path = exported(network, tmp_path / "m.onnx", dynamo=dynamo)
    found = source_conversion.convert_source(sources.locate(str(path)))
    backbone: Any = models.create(found.model, conventions=found.conventions).backbone
    assert (backbone.padding == "SAME", backbone.norm.epsilon == 1e-3) == (bool(prefix),) * 2
    stem = found.variables["batch_stats"]["stem"]["bn"]
    np.testing.assert_allclose(stem["var"] + backbone.norm.epsilon, 1, rtol=1e-7)
    state = {k: v.numpy() for k, v in network.state_dict().items()}
    bn = {leaf: state[f"bn1.{leaf}"] for leaf in ("weight", "bias", "running_mean", "running_var")}
    factor = bn["weight"] / np.sqrt(bn["running_var"] + backbone.norm.epsilon)
    stem = found.variables["params"]["stem"]
    kernel = state["conv_stem.weight"].transpose(2, 3, 1, 0) * factor
    np.testing.assert_allclose(stem["conv"]["kernel"], kernel, rtol=1e-5, atol=1e-7)
    offset = bn["bias"] - bn["running_mean"] * factor
    np.testing.assert_allclose(stem["bn"]["bias"], offset, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize(
    ("name", "depth"),
    [("convnext_nano", {"depths": (1,) * 4}), ("vit_tiny_patch16_224", {"depth": 1})],
)
def test_what_is_computed_ahead_is_found_again(tmp_path, name, depth, dynamo):
    """Transposed kernels, factors that were turned, a class token that was repeated."""
    import timm

    options = {"img_size": SIZE} if name.startswith("vit") else {}
    network = randomized(timm.create_model(name, num_classes=3, **options, **depth))
    path = exported(network, tmp_path / "m.onnx", dynamo=dynamo)
    tensors = read(path).tensors
    state = network.state_dict()
    assert tensors.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(tensors[key], value.numpy(), err_msg=key)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"aa_layer": "avg"}, "has stride 1, where jtl's network has 2"),
     ({"act_layer": "silu"}, "activates by Sigmoid, where jtl's network has relu")],
)  # fmt: skip
def test_other_networks_of_the_same_keys_are_refused(tmp_path, change, said):
    import timm
    import torch

    change = {"aa_layer": torch.nn.AvgPool2d} if "aa_layer" in change else change
    network = randomized(timm.create_model("resnet18", num_classes=3, **change))
    path = exported(network, tmp_path / "m.onnx", dynamo=False)
    with pytest.raises(UserError, match=said):
        source_conversion.convert_source(sources.locate(str(path)))


def tiny(tmp_path: Any, *before: Any, **options: Any) -> Any:
    """A network of one convolution behind some layers, exported."""
    import torch

    convolution = torch.nn.Conv2d(3, 4, 3, **options)
    network = torch.nn.Sequential(*before, convolution, torch.nn.ReLU())
    return exported(randomized(network), tmp_path / "m.onnx", 8, dynamo=False)


def test_scaling_before_the_first_layer_is_mean_and_deviation(tmp_path):
    import torchvision

    normalize = torchvision.transforms.Normalize((0.1, 0.2, 0.3), (0.5, 0.25, 0.125))
    tensors = read(tiny(tmp_path, normalize)).tensors
    np.testing.assert_allclose(tensors["normalize.mean"], (0.1, 0.2, 0.3), rtol=1e-6)
    np.testing.assert_allclose(tensors["normalize.std"], (0.5, 0.25, 0.125), rtol=1e-6)
    assert tensors["1.weight"].shape == (4, 3, 3, 3)


def test_normalizations_that_were_not_folded_keep_their_names(tmp_path):
    """Equal tensors are there once, the others by nodes that copy."""
    import torch

    layers = (torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4))
    network = torch.nn.Sequential(*layers, torch.nn.Conv2d(4, 4, 1), torch.nn.BatchNorm2d(4)).eval()
    options = {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    tensors = read(exported(network, tmp_path / "m.onnx", 8, dynamo=False, **options)).tensors
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("tracked")}
    assert tensors.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(tensors[key], value.numpy(), err_msg=key)


def test_other_graphs_are_refused(tmp_path):
    import onnx
    import torch

    with pytest.raises(UserError, match="with dilated convolutions"):
        read(tiny(tmp_path, dilation=2))
    with pytest.raises(UserError, match="no network of jtl has: LeakyRelu"):
        read(tiny(tmp_path, torch.nn.LeakyReLU()))
    with pytest.raises(UserError, match="that has MaxPool before its first convolution"):
        read(tiny(tmp_path, torch.nn.MaxPool2d(2)))
    model = onnx.load(tiny(tmp_path))
    for node in model.graph.node:
        node.name = ""
    renamed = {"0.weight": "W", "0.bias": "B"}
    for constant in model.graph.initializer:
        constant.name = renamed[constant.name]
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    convolution.input[1:] = ["W", "B"]
    onnx.save(model, tmp_path / "nameless.onnx")
    with pytest.raises(UserError, match=r"does not say which layers .* \(2 tensors such as W, B\)"):
        read(tmp_path / "nameless.onnx")
    model.graph.node[0].op_type = "QLinearConv"
    onnx.save(model, tmp_path / "quantized.onnx")
    with pytest.raises(UserError, match="a quantized ONNX model"):
        read(tmp_path / "quantized.onnx")


def test_numbers_that_a_message_lists(tmp_path):
    """As other writers have them, in place of raw bytes."""
    import onnx
    from onnx import TensorProto, helper

    path = tiny(tmp_path)
    for kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16):
        model = onnx.load(path)
        for constant in model.graph.initializer:
            values = onnx.numpy_helper.to_array(constant)
            listed = helper.make_tensor(constant.name, kind, values.shape, values.ravel())
            constant.CopyFrom(listed)
        onnx.save(model, tmp_path / "listed.onnx")
        expected = onnx.numpy_helper.to_array(model.graph.initializer[0])
        found = read(tmp_path / "listed.onnx").tensors[model.graph.initializer[0].name]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_damaged_models_are_read_or_refused(tmp_path):
    good = tiny(tmp_path).read_bytes()
    path = tmp_path / "damaged.onnx"
    rng = np.random.default_rng(0)
    for cut in range(1, len(good), 97):
        path.write_bytes(good[:cut])
        with pytest.raises(UserError):
            read(path)
    for _ in range(100):
        damaged = bytearray(good)
        for place in rng.integers(0, len(good), 2):
            damaged[int(place)] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            convert(read(path).tensors)
