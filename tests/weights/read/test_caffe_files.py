"""Caffe's models: both forms of layers are read, others refused."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from support import networks, weights_samples
from support.tensor_bundles import field, varint
from weights_convert.convert.conversion import convert
from weights_convert.read.readers import read
from weights_convert.source import source_conversion, sources

KINDS = {"Convolution": 4, "InnerProduct": 14, "LRN": 15, "ReLU": 18, "Data": 5}
Layer = tuple[str, str, Sequence[np.ndarray], bytes]


def floats(number: int, *values: float) -> bytes:
    return b"".join(varint(number << 3 | 5) + struct.pack("<f", value) for value in values)


def write_model(path: Path, layers: Sequence[Layer], *, v1: bool = False) -> Path:
    """Layers with their name, kind, blobs and fields of their own."""
    content = field(1, "net")
    for name, kind, arrays, options in layers:
        blobs = [_blob(array, v1=v1) for array in arrays]
        if v1:
            layer = field(4, name) + field(5, KINDS[kind]) + b"".join(field(6, b) for b in blobs)
        else:
            layer = field(1, name) + field(2, kind) + b"".join(field(7, b) for b in blobs)
        content += field(2 if v1 else 100, layer + options)
    path.write_bytes(content)
    return path


def _blob(array: np.ndarray, *, v1: bool) -> bytes:
    if v1:
        shape = (1,) * (4 - array.ndim) + array.shape
        sides = b"".join(field(number, side) for number, side in enumerate(shape, 1))
    else:
        sides = field(7, field(1, b"".join(varint(side) for side in array.shape)))
    double = array.dtype == np.float64
    return sides + field(8 if double else 5, np.asarray(array, order="C").tobytes())


def layers_of(model: str, num_classes: int = 5) -> list[Layer]:
    """A network as its library's, in Caffe's names."""
    arrays = weights_samples.tensors(model, "caffe", num_classes)
    names = dict.fromkeys(key.rpartition(".")[0] for key in arrays)
    found: list[Layer] = [("data", "Data", (), b""), ("relu", "ReLU", (), b"")]
    for name in names:
        blobs = (arrays[f"{name}.weight"], arrays[f"{name}.bias"])
        kind = "InnerProduct" if blobs[0].ndim == 2 else "Convolution"
        found.append((name, kind, blobs, b""))
    return found


@pytest.mark.parametrize("v1", [False, True])
def test_a_squeezenet_is_that_of_torchvision_in_blue_green_red(tmp_path, v1):
    path = write_model(tmp_path / "w.caffemodel", layers_of("squeezenet1_1"), v1=v1)
    found = source_conversion.convert_source(sources.locate(str(path)))
    assert (found.model, found.library, found.source_format) == ("squeezenet1_1", "caffe", "caffe")
    assert found.preprocessing.channel_order == "bgr"
    np.testing.assert_allclose(np.array(found.preprocessing.mean) * 255, (123, 117, 104))
    np.testing.assert_allclose(np.array(found.preprocessing.std) * 255, 1)
    same = convert(weights_samples.tensors("squeezenet1_1", "torchvision"))
    kernel = found.variables["params"]["stage1"]["block1"]["expand3x3"]["kernel"]
    np.testing.assert_array_equal(
        kernel, same.variables["params"]["stage1"]["block1"]["expand3x3"]["kernel"]
    )
    assert found.num_classes == 5


@pytest.mark.parametrize("v1", [False, True])
def test_dense_layers_see_channels_first(tmp_path, v1):
    """As torchvision's: the first dense layer is a 7x7 convolution in jtl."""
    model = models.create("vgg16", num_classes=3, conventions={"widths": (6, 6)})
    backbone = model.backbone
    variables = networks.random_variables(model, 224)
    tables = {t.library: t for t in _tables()}
    shapes = models.variable_shapes(model)
    by_library = {
        library: {
            key: tables[library].to_source(path, _at(variables, path))
            for path, key in tables[library].source_keys(backbone, shapes).items()
        }
        for library in ("caffe", "torchvision")
    }
    layers: list[Layer] = []
    for name in dict.fromkeys(key.rpartition(".")[0] for key in by_library["caffe"]):
        blobs = tuple(by_library["caffe"][f"{name}.{leaf}"] for leaf in ("weight", "bias"))
        kind = "InnerProduct" if blobs[0].ndim == 2 else "Convolution"
        layers.append((name, kind, blobs, b""))
    tensors = read(write_model(tmp_path / "w.caffemodel", layers, v1=v1)).tensors
    for ours, theirs in (
        ("conv5_3", "features.28"),
        ("fc6", "classifier.0"),
        ("fc8", "classifier.6"),
    ):
        for leaf in ("weight", "bias"):
            expected = by_library["torchvision"][f"{theirs}.{leaf}"]
            np.testing.assert_array_equal(tensors[f"{ours}.{leaf}"], expected)


def _tables():
    from weights_convert.convert.tables import TABLES

    return [table for table in TABLES if table.family == "vgg"]


def _at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def test_a_padded_classifier_is_left_out(tmp_path):
    """As in SqueezeNet 1.0: it averages the biases of a border, too."""
    padded = field(106, field(3, 1))
    layers = [
        (name, kind, blobs, padded if name == "conv10" else options)
        for name, kind, blobs, options in layers_of("squeezenet1_0")
    ]
    found = source_conversion.convert_source(
        sources.locate(str(write_model(tmp_path / "w.caffemodel", layers)))
    )
    assert (found.model, found.num_classes) == ("squeezenet1_0", None)
    assert any("'conv10' pads its 1x1 kernel" in note for note in found.notes)


def test_images_that_are_prepared_otherwise_are_noted(tmp_path):
    kernel = np.arange(54, dtype=np.float64).reshape(2, 3, 3, 3)
    convolution: Layer = ("conv1", "Convolution", (kernel, np.ones(2)), b"")

    def notes(transform: bytes) -> tuple[str, ...]:
        layers = [("data", "Data", (), field(100, transform)), convolution]
        found = read(write_model(tmp_path / "w.caffemodel", layers))
        np.testing.assert_array_equal(found.tensors["conv1.weight"], kernel)
        return found.notes

    assert notes(floats(5, 104, 117, 123)) == ()
    assert (
        "--mean 0.3,0.2,0.1 --std 0.5,0.5,0.5"
        in notes(floats(5, 25.5, 51, 76.5) + floats(1, 2 / 255))[0]
    )


def test_others_are_refused(tmp_path):
    path = tmp_path / "w.caffemodel"
    kernel, bias = np.ones((2, 3, 3, 3), np.float32), np.ones(2, np.float32)
    for kind, said in (("LRN", "as AlexNet, CaffeNet and"), ("PReLU", r"not read \(PReLU\)")):
        with pytest.raises(UserError, match=said):
            read(
                write_model(path, [("conv1", "Convolution", (kernel,), b""), ("x", kind, (), b"")])
            )
    dilated = field(106, field(18, 2))
    with pytest.raises(UserError, match="layer 'conv1' is dilated"):
        read(write_model(path, [("conv1", "Convolution", (kernel, bias), dilated)]))
    with pytest.raises(UserError, match="without weights"):
        read(write_model(path, [("conv1", "Convolution", (), b"")]))


def test_damaged_models_are_read_or_refused(tmp_path):
    layers: list[Layer] = [("conv1", "Convolution", (np.ones((2, 3, 3, 3), np.float32),), b"")]
    path = write_model(tmp_path / "w.caffemodel", layers)
    good = path.read_bytes()
    for cut in range(1, len(good), 7):
        path.write_bytes(good[:cut])
        with pytest.raises(UserError):
            read(path)
    rng = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(good)
        damaged[rng.integers(0, len(good))] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            assert read(path).tensors
