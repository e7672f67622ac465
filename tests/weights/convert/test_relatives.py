"""Networks that resemble jtl's: refused in a line that names them, not by hundreds of keys."""

from __future__ import annotations

import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths, lookup
from support import weights_samples as samples
from weights_convert.convert import relatives
from weights_convert.convert.conversion import convert, identify

KERNEL = np.zeros((8, 8, 1, 1), np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "network"),
    [
        ("layer1.0.conv1.attn.fc_reduce.weight", "skresnet"),
        ("layer1.0.se.conv.weight", "ecaresnet"),
        ("layer1.0.se.fc1.weight", "seresnet"),
        ("module.layer1.0.se_module.fc1.weight", "seresnet"),
        ("layer1.0.convs.0.weight", "Res2Net"),
        ("layer1.0.conv2.fc1.weight", "ResNeSt"),
        ("layer1.0.bn1.IN.weight", "ResNet-IBN"),
        ("layer1.0.downsample.2.weight", "resnet50c"),
        ("features.conv1.weight", "densenetblur121d"),
        ("dist_token", "distilled DeiT"),
        ("stages.0.blocks.0.mlp.grn.weight", "ConvNeXt V2"),
        ("stage2.0.branch1.0.weight", "ShuffleNet"),
        ("visual.attnpool.positional_embedding", "CLIP's ResNet"),
        ("backbone.bottom_up.res2.0.conv1.norm.weight", "detectron2's ResNet"),
    ],
)
def test_keys_that_give_another_network_away(key, network):
    assert network in (relatives.unsupported({key: KERNEL}) or "")
    with pytest.raises(UserError, match=r"They look like those of .*" + network):
        identify({key: KERNEL})


@pytest.mark.parametrize(
    "key",
    ["blocks.0.0.se.conv_reduce.weight", "_blocks.0._se_reduce.weight", "block1a_se_reduce/kernel"],
)
def test_squeeze_and_excitation_is_named_where_the_rest_fits_nothing(key):
    # Networks of jtl have such keys, too.
    assert relatives.unsupported({key: KERNEL}) is None
    with pytest.raises(UserError, match=r"They look like those of .*EfficientNet"):
        identify({key: KERNEL})


def test_a_deep_stem_is_one_of_a_resnet_alone():
    stem = {"conv1.1.running_mean": KERNEL}
    assert relatives.unsupported(stem) is None
    assert "resnet50c" in (relatives.unsupported(stem | {"layer1.0.conv1.weight": KERNEL}) or "")


def test_no_network_of_ours_looks_like_another():
    for model, library in (
        ("resnet18", "timm/torchvision"),
        ("mobilenet_v2", "timm"),
        ("efficientnet_lite0", "lukemelas"),
        ("mobilenet_v3_small", "timm"),
    ):
        assert relatives.unsupported(samples.tensors(model, library)) is None


@pytest.mark.parametrize("model", [None, "resnet18"])
def test_a_relative_is_named_in_one_line(model):
    tensors = samples.tensors("resnet18", "timm/torchvision")
    tensors |= {f"layer{n}.0.se.fc{i}.weight": KERNEL for n in range(1, 5) for i in (1, 2)}
    with pytest.raises(UserError, match=r"looks like SE-ResNet .* nearest that it has") as caught:
        convert(tensors, model)
    assert "\n" not in str(caught.value)
    # Whoever says that they do not count is believed.
    assert convert(tensors, model, ignore_keys=r".*\.se\..*").num_classes == 5


def test_normalizations_without_statistics():
    tensors = samples.tensors("resnet18", "timm/torchvision")
    tensors = {key: array for key, array in tensors.items() if "running" not in key}
    with pytest.raises(UserError, match="normalizes without running statistics"):
        convert(tensors)


@pytest.mark.parametrize("model", [None, "resnet18"])
def test_two_networks_of_which_one_has_a_prefix(model):
    plain = samples.tensors("resnet18", "timm/torchvision")
    both = plain | {f"module.{key}": 2 * array for key, array in plain.items()}
    with pytest.raises(UserError, match="and one without a prefix") as caught:
        convert(both, model)
    assert r"--strip-prefix module. or the second with --ignore-keys 'module\..*'" in str(
        caught.value
    )
    for options, factor in (({"strip_prefix": "module."}, 2), ({"ignore_keys": r"module\..*"}, 1)):
        found = convert(both, model, **options).variables["params"]["head"]["logits"]["bias"]
        np.testing.assert_array_equal(found, factor * plain["fc.bias"])


def test_a_type_of_numbers_is_no_other_network():
    tensors = samples.tensors("resnet18", "timm/torchvision")
    with pytest.raises(UserError, match="102 problems") as caught:
        convert({key: array.astype(np.int8) for key, array in tensors.items()})
    assert "another network" not in str(caught.value)


def test_a_network_for_segmentation_is_said_to_be_one():
    tensors = samples.tensors("resnet18", "timm/torchvision")
    tensors = {f"backbone.{k}": array for k, array in tensors.items() if not k.startswith("fc.")}
    assert not any("segmentation" in note for note in convert(tensors).notes)
    tensors["classifier.0.weight"] = np.zeros((8, 512, 3, 3), np.float32)
    (note,) = [note for note in convert(tensors).notes if "segmentation" in note]
    assert "(classifier.0.weight): its backbone may have dilated convolutions" in note


@pytest.mark.parametrize("model", [None, "resnet50"])
def test_layers_that_have_but_numbers(model):
    """Keras 1 numbered what its author did not name."""
    tensors: dict[str, np.ndarray] = {}
    for number in range(60):
        tensors[f"convolution2d_{number}/kernel"] = np.zeros((3, 3, 4, 4), np.float32)
        tensors[f"batchnormalization_{number}/gamma"] = np.zeros(4, np.float32)
    with pytest.raises(UserError, match="numbers instead of names") as caught:
        convert(tensors, model)
    assert "try --model resnet50" not in str(caught.value)


def small_resnet(shortcut="shortcut", classifier="linear"):
    """kuangliu's: a stem of 3 x 3, and other names of shortcuts and classifier."""
    tensors = samples.tensors("resnet18", "timm/torchvision")
    tensors["conv1.weight"] = np.zeros((64, 3, 3, 3), np.float32)
    return {
        key.replace("downsample", shortcut).replace("fc.", f"{classifier}."): array
        for key, array in tensors.items()
    }


@pytest.mark.parametrize("names", [("shortcut", "linear"), ("downsample", "fc")])
def test_a_network_for_small_images(names):
    with pytest.raises(UserError, match="looks like a ResNet for small images such as CIFAR's"):
        convert(small_resnet(*names))


@pytest.mark.parametrize(("name", "given"), [("resnet18", False), ("densenet121", True)])
def test_a_folded_normalization_is_made_whole_again(name, given):
    """In a DenseNet others stay, which are before convolutions."""
    tensors = samples.tensors(name, "timm/torchvision")
    whole = convert(tensors, name)
    folded = fold(name, dict(tensors))
    found = convert(folded, name if given else None)
    assert found.model == name
    assert any("are folded into its convolutions" in note for note in found.notes)
    stats, params = found.variables["batch_stats"], found.variables["params"]
    epsilon = models.get(name).backbone.norm.epsilon
    assert 0 < len(found.folded) < len(folded)
    for norm in found.folded:
        scale = lookup(params, norm)["scale"] / np.sqrt(lookup(stats, norm)["var"] + epsilon)
        np.testing.assert_allclose(scale, 1, rtol=1e-6)
        assert not lookup(stats, norm)["mean"].any()
    kept = [path for path in leaf_paths(params) if path[:-1] not in found.folded]
    different = [
        path
        for path in kept
        if not np.array_equal(lookup(params, path), lookup(whole.variables["params"], path))
    ]
    assert {path[-1] for path in different} == {"kernel"}
    assert len(different) == len(found.folded)


def fold(name: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As exporters do it: a normalization right after its convolution becomes that one's bias."""
    pairs = {"conv": "bn", "downsample.0": "downsample.1"}
    if name.startswith("densenet"):
        pairs = {"conv0": "norm0", "conv1": "norm2"}
    for key in [key for key, array in tensors.items() if array.ndim == 4]:
        module = key.removesuffix(".weight")
        norm = next((module.replace(a, b) for a, b in pairs.items() if a in module), "")
        if f"{norm}.running_var" not in tensors:
            continue
        scale, bias, mean, var = (
            tensors.pop(f"{norm}.{leaf}")
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        factor = scale / np.sqrt(var + 1e-5)
        tensors[key] = tensors[key] * factor[:, None, None, None]
        tensors[f"{module}.bias"] = bias - mean * factor
    return tensors


def test_names_of_an_older_normalization():
    tensors = samples.tensors()
    norms = {key.rpartition(".")[0] for key in tensors if key.endswith("running_mean")}
    old = {
        key.replace(".weight", ".gamma").replace(".bias", ".beta")
        if key.rpartition(".")[0] in norms
        else key: array
        for key, array in tensors.items()
    }
    found, plain = convert(old), convert(tensors)
    assert "gamma and beta of the normalizations are read as their weight and bias" in found.notes
    assert not found.ignored
    for path in leaf_paths(plain.variables):
        np.testing.assert_array_equal(lookup(found.variables, path), lookup(plain.variables, path))


def test_normalizations_for_augmented_images_are_left_out():
    tensors = samples.tensors()
    auxiliary = {
        f"{module}.aux_bn.0.{leaf}": array + 1
        for key, array in tensors.items()
        for module, _, leaf in [key.rpartition(".")]
        if f"{module}.running_mean" in tensors
    }
    found = convert(tensors | auxiliary)
    assert {*found.ignored} == {*auxiliary}
    assert "of normalizations for augmented images in training (split_bn)" in " ".join(found.notes)


def test_the_resnet_of_clip_is_none_for_small_images():
    keys = {f"visual.conv{i}.weight": np.zeros((8, 3, 3, 3), np.float32) for i in (1, 2, 3)}
    keys |= {"visual.layer1.0.conv1.weight": KERNEL, "visual.attnpool.positional_embedding": KERNEL}
    assert "CLIP's ResNet" in (relatives.unsupported(keys) or "")
