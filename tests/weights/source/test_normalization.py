"""Mean and standard deviation that a PyTorch network keeps as buffers."""

from __future__ import annotations

import numpy as np
import pytest

from jtl.common.errors import UserError
from support import weights_samples as samples
from weights_convert.source import source_conversion, sources

NETWORK = samples.tensors("resnet18", "timm/torchvision")
BGR = [103.53, 116.28, 123.675]


def stored(tmp_path, prefix, name, mean, std, shape=(3,), **options):
    """A converted network with a pair of buffers beside it."""
    tensors = {prefix + key: array for key, array in NETWORK.items()}
    for leaf, values in (("mean", mean), ("std", std)):
        tensors[name + leaf] = np.reshape(np.array(values, np.float32), shape)
    file = samples.write_file(tmp_path / "x.safetensors", tensors)
    source = sources.locate(str(file), "resnet18", **options)
    return source_conversion.convert_source(source, "resnet18")


@pytest.mark.parametrize(
    ("prefix", "name", "shape"),
    [
        ("1.", "0.", (1, 3, 1, 1)),
        ("model.", "normalize.", (3,)),
        ("", "", (1, 3, 1, 1)),
        ("backbone.", "pixel_", (3, 1, 1)),
        ("module.model.", "module.normalizer.new_", (3, 1, 1)),
    ],
)
def test_buffers_are_the_preprocessing(tmp_path, prefix, name, shape):
    found = stored(tmp_path, prefix, name, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7], shape)
    pre = found.preprocessing
    assert (pre.mean, pre.std) == ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    assert (pre.channel_order, found.num_classes) == ("rgb", 5)
    assert any(f"come from {name.removeprefix('module.')}mean" in note for note in found.notes)
    assert found.reading.preprocessing_by == "the model's own layers"


def test_constants_for_bytes_with_blue_first(tmp_path):
    """As mmpretrain and Detectron2 keep Caffe's."""
    found = stored(tmp_path, "backbone.", "data_preprocessor.", BGR, [1, 2, 4], (3, 1, 1))
    pre = found.preprocessing
    assert pre.channel_order == "bgr"
    np.testing.assert_allclose(pre.mean, [0.485, 0.456, 0.406], rtol=1e-6)
    np.testing.assert_allclose(pre.std, np.array([4, 2, 1]) / 255, rtol=1e-5)
    assert any("divided by 255" in note for note in found.notes)


def test_the_order_that_is_stated_counts(tmp_path):
    found = stored(tmp_path, "model.", "norm.", [0.1, 0.2, 0.3], [0.5, 0.6, 0.7], bgr=True)
    assert found.preprocessing.mean == (0.3, 0.2, 0.1)
    assert found.preprocessing.channel_order == "bgr"


def test_a_chosen_prefix_hides_no_normalization(tmp_path):
    found = stored(
        tmp_path, "model.", "normalizer.new_", [0.1] * 3, [0.5] * 3, strip_prefix="model."
    )
    assert found.preprocessing.mean == (0.1, 0.1, 0.1)


@pytest.mark.parametrize(
    ("mean", "std", "reason"),
    [
        ([0, 0, 0], [1, 1, 1], "change nothing"),
        ([-2.1, -2.0, -1.8], [4.4, 4.5, 4.4], "negative"),
        ([0.5, 0.5, 0.5], [255, 255, 255], "not clear"),
        ([0.5, 0.5, 0.5], [0, 0.5, 0.5], "not above 0"),
        ([np.nan, 0.5, 0.5], [0.5, 0.5, 0.5], "not three numbers"),
    ],
)
def test_constants_that_are_unclear_are_refused(tmp_path, mean, std, reason):
    with pytest.raises(UserError, match=rf"(?s){reason}.*--mean R,G,B --std R,G,B"):
        stored(tmp_path, "model.", "normalize.", mean, std)


def test_the_flags_decide_about_constants_that_are_unclear(tmp_path):
    tensors = {f"model.{key}": array for key, array in NETWORK.items()}
    tensors |= {f"normalize.{leaf}": np.full(3, -1, np.float32) for leaf in ("mean", "std")}
    file = samples.write_file(tmp_path / "x.safetensors", tensors)
    values = (0.1, 0.2, 0.3)
    source = sources.locate(str(file)).declaring({"mean": values, "std": values}, "the flags")
    assert source_conversion.convert_source(source).preprocessing.mean == values


@pytest.mark.parametrize("name", ["label_scaler.", "denormalize.", "y_"])
def test_the_mean_of_something_else_is_not_the_images(tmp_path, name):
    with pytest.raises(UserError, match="part of the forward pass"):
        stored(tmp_path, "model.", name, [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
