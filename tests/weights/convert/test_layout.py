"""Checkpoints as training programs publish them, beside what their own network gives."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest
import timm
import torch
import torchvision

from jtl import models
from jtl.common.errors import UserError
from support import parity
from weights_convert.convert.conversion import Converted, convert, identify

SIZE = 64
Tensors = dict[str, np.ndarray]
BOUND = 1e-4

pytestmark = [pytest.mark.slow, pytest.mark.peer]


@functools.cache
def images() -> np.ndarray:
    return parity.random_images(2, SIZE, SIZE)


@functools.cache
def network(name: str, classes: int = 7) -> torch.nn.Module:
    model = torchvision.models.get_model(name, weights=None, num_classes=classes)
    return parity.randomize(model, parity.nchw(images()))


def state(module: torch.nn.Module) -> Tensors:
    return parity.tensors(module)


def under(prefix: str, tensors: Mapping[str, np.ndarray]) -> Tensors:
    return {prefix + key: array for key, array in tensors.items()}


@functools.cache
def _program(name: str, classes: int | None) -> Any:
    entry = models.get(name)
    head = entry.classifier if classes else None
    model = models.create(name, num_classes=classes or 1, head=head)

    def run(variables: Any, x: Any) -> Any:
        out = model.apply(variables, x, train=False)
        return out if classes else out.mean((1, 2))

    return jax.jit(run)


def outputs(converted: Converted, x: np.ndarray) -> np.ndarray:
    """Logits, or averaged features of a bare backbone."""
    return np.asarray(_program(converted.model, converted.num_classes)(converted.variables, x))


def assert_same(converted: Converted, module: Callable[[Any], Any], x: np.ndarray | None = None):
    """What jtl computes is what `module` does, for images or what it takes in their place."""
    with torch.no_grad():
        theirs = module(parity.nchw(images() if x is None else x)).numpy()
    ours = outputs(converted, images())
    if theirs.ndim == 4:
        theirs = theirs.mean((2, 3))
    assert np.abs(ours - theirs).max() <= BOUND * np.abs(theirs).max()


def body(name: str) -> torch.nn.Sequential:
    """The layers of a ResNet before its pooling, as fastai and RadImageNet keep them."""
    return torch.nn.Sequential(*list(network(name).children())[:-2])


# Prefixes.


@pytest.mark.parametrize(
    "prefix",
    ["encoder_q.", "encoder.", "backbone.", "model.", "module.", "0.", "net.backbone.model."],
)
def test_any_prefix_is_found_and_said(prefix):
    converted = convert(under(prefix, state(network("resnet18"))))
    assert (converted.model, converted.prefix) == ("resnet18", prefix)
    assert f"the prefix '{prefix}' was stripped from the keys" in converted.notes
    assert_same(converted, network("resnet18").eval())


@pytest.mark.parametrize("name", ["densenet121", "mobilenet_v2", "squeezenet1_1"])
def test_prefixes_of_networks_that_have_a_part_called_features(name):
    """The anchor is inside `features.`, which belongs to the network."""
    tensors = under("backbone.", state(network(name)))
    for model in (None, name):
        converted = convert(tensors, model)
        assert (converted.model, converted.prefix) == (name, "backbone.")
        assert converted.num_classes == 7


def test_old_densenet_keys_under_a_prefix():
    """As CheXNet's checkpoint: `module.densenet121.features...norm.1`, and its own classifier."""
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))(\d)")
    tensors = {
        "module.densenet121." + old.sub(r"\1.\2", key).replace("classifier.", "classifier.0."): a
        for key, a in state(network("densenet121")).items()
    }
    converted = convert(tensors)
    assert (converted.library, converted.num_classes) == ("torchvision (old keys)", 7)
    assert_same(converted, network("densenet121").eval())


def test_moco_has_a_copy_of_the_network():
    trained, copy = state(network("resnet18")), state(torchvision.models.resnet18(num_classes=7))
    tensors = under("encoder_q.", trained) | under("encoder_k.", copy)
    tensors |= {"queue": np.zeros((7, 9), np.float32), "queue_ptr": np.zeros(1, np.int64)}
    converted = convert(tensors)
    assert_same(converted, network("resnet18").eval())
    assert "a copy of the network is under encoder_k." in converted.notes[0]
    because = converted.ignored_because
    assert because["of the training, not of the network"] == ("queue", "queue_ptr")
    assert len(because["outside of the prefix 'encoder_q.'"]) == len(copy)
    other = convert(tensors, strip_prefix="encoder_k.")
    assert other.prefix == "encoder_k."
    kernel = other.variables["params"]["stem"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, copy["conv1.weight"].transpose(2, 3, 1, 0))


def test_two_networks_that_both_trained_are_not_chosen_between():
    tensors = state(network("resnet18"))
    other = {key: a + (key == "fc.bias") for key, a in tensors.items()}
    both = under("student.backbone.", tensors) | under("teacher.backbone.", other)
    with pytest.raises(UserError, match=r"under 'student.backbone.', 'teacher.backbone.'.*--strip"):
        convert(both)
    assert convert(both, strip_prefix="teacher.backbone.").prefix == "teacher.backbone."
    with pytest.raises(UserError, match=r"no key begins with --strip-prefix 'nothing\.'.*student"):
        convert(both, strip_prefix="nothing.")


def test_inspection_says_the_prefix():
    _, told = identify(under("encoder.", state(network("resnet18"))))
    assert told.endswith("classifier 'fc' with 7 classes, under the prefix 'encoder.'")


# Containers.


def test_fastai_resnet():
    """`Learner.save`: the body in a Sequential, then two dense layers on two poolings."""
    head = torch.nn.Sequential(
        torch.nn.BatchNorm1d(1024), torch.nn.Linear(1024, 64), torch.nn.Linear(64, 3)
    )
    converted = convert(under("0.", state(body("resnet18"))) | under("1.", state(head)))
    assert (converted.model, converted.num_classes) == ("resnet18", None)
    assert "the keys are read as the layers of a Sequential, as in fastai" in converted.notes
    assert "1.1.weight" in converted.ignored_because["outside of the prefix '0.'"]
    assert_same(converted, body("resnet18").eval())


def test_radimagenet_resnet50():
    """`backbone.0`, `backbone.4.0.conv1`: a Sequential under a name."""
    tensors = under("backbone.", state(body("resnet50")))
    converted = convert(tensors, "resnet50")
    assert (converted.prefix, converted.num_classes) == ("backbone.", None)
    assert_same(converted, body("resnet50").eval())


def test_sequential_densenet():
    """fastai's and RadImageNet's DenseNet: `0.0.conv0`, without the name `features`."""
    features: Any = network("densenet121").features
    converted = convert(under("0.0.", state(features)))
    assert (converted.model, converted.num_classes) == ("densenet121", None)
    assert_same(converted, lambda x: torch.relu(features.eval()(x)))


@pytest.mark.parametrize("form", ["torchvision 0.2", "tonylins", "d-li14"])
def test_mobilenets_that_number_all_layers_of_a_block(form: str):
    """`features.2.conv.3.weight` is the second convolution of the second block."""
    inner = {"0.0": "0", "0.1": "1", "1.0": "3", "1.1": "4", "2": "6", "3": "7"}
    first = {"0.0": "0", "0.1": "1", "1": "3", "2": "4"}

    def old(key: str) -> str:
        if match := re.fullmatch(r"features\.(\d+)\.conv\.([\d.]+)\.(\w+)", key):
            block, layer, leaf = match.groups()
            return f"features.{block}.conv.{(first if block == '1' else inner)[layer]}.{leaf}"
        if form != "torchvision 0.2":
            key = key.replace("classifier.1.", "classifier.")
        return key.replace("features.18.", "conv.") if form == "d-li14" else key

    source = network("mobilenet_v2")
    converted = convert(under("module.", {old(k): a for k, a in state(source).items()}))
    assert (converted.model, converted.num_classes) == ("mobilenet_v2", 7)
    assert any("torchvision 0.2" in note for note in converted.notes)
    assert_same(converted, source.eval())


def test_a_classifier_of_one_output_is_said():
    notes = convert(state(network("resnet18", 1))).notes
    assert any("has one output" in note and "--drop-head" in note for note in notes)
    assert not any("one output" in note for note in convert(state(network("resnet18"))).notes)


def test_torchxrayvision_is_named():
    tensors = state(network("densenet121")) | {"op_threshs": np.ones(7, np.float32)}
    assert any("--mean 0.5,0.5,0.5 --std 0.00048828" in note for note in convert(tensors).notes)


def test_transformers_resnet():
    """`microsoft/resnet-50`, and its network without the classifier."""
    layers = {"conv": "convolution", "bn": "normalization"}

    def renamed(key: str) -> str:
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn)(\d)\.(.*)", key):
            stage, block, kind, number, leaf = match.groups()
            place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.layer"
            return f"{place}.{int(number) - 1}.{layers[kind]}.{leaf}"
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.downsample\.([01])\.(.*)", key):
            stage, block, number, leaf = match.groups()
            kind = ("convolution", "normalization")[int(number)]
            return f"resnet.encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{kind}.{leaf}"
        key = key.replace("conv1.", "resnet.embedder.embedder.convolution.")
        return key.replace("bn1.", "resnet.embedder.embedder.normalization.").replace(
            "fc.", "classifier.1."
        )

    tensors = {renamed(key): array for key, array in state(network("resnet50")).items()}
    converted = convert(tensors)
    assert (converted.library, converted.model) == ("transformers", "resnet50")
    assert_same(converted, network("resnet50").eval())
    bare = {
        key.removeprefix("resnet."): array
        for key, array in tensors.items()
        if not key.startswith("classifier")
    }
    converted = convert(bare)
    assert (converted.library, converted.num_classes) == ("transformers", None)
    assert_same(converted, body("resnet50").eval())


# Heads and foreign tensors.


def own_heads() -> dict[str, Tensors]:
    rng = np.random.default_rng(0)

    def dense(name: str, inputs: int, outputs: int) -> Tensors:
        weight = rng.standard_normal((outputs, inputs), np.float32)
        return {f"{name}.weight": weight, f"{name}.bias": weight[:, 0]}

    norm = {f"fc.1.{leaf}": np.ones(64, np.float32) for leaf in ("weight", "running_mean")}
    return {
        "two dense layers": dense("fc.0", 512, 64) | norm | dense("fc.3", 64, 5),
        "a flattened map": dense("fc", 512 * 4, 5),
        "a projection next to the classifier": dense("fc", 512, 5) | dense("projector.0", 512, 64),
        "another name": dense("head.mlp.fc1", 512, 32) | dense("head.mlp.fc2", 32, 4),
    }


@pytest.mark.parametrize("case", own_heads())
@pytest.mark.parametrize("drop_head", [False, True])
def test_a_head_of_its_own_is_left_out_and_said(case, drop_head):
    backbone = {k: a for k, a in state(network("resnet18")).items() if not k.startswith("fc.")}
    head = own_heads()[case]
    converted = convert(backbone | head, drop_head=drop_head)
    assert (converted.model, converted.num_classes) == ("resnet18", None)
    reason = "--drop-head" if drop_head else "of a head of its own"
    assert set(converted.ignored_because[reason]) == set(head)
    said = any("training makes a new head anyway" in note for note in converted.notes)
    assert said is not drop_head
    assert_same(converted, body("resnet18").eval())


@pytest.mark.parametrize("case", own_heads())
def test_a_head_of_its_own_is_no_classifier_to_inspection(case):
    backbone = {k: a for k, a in state(network("resnet18")).items() if not k.startswith("fc.")}
    _, told = identify(backbone | own_heads()[case])
    assert told.endswith(", a head that is not one dense layer")


def test_a_pruned_head_is_left_out_with_the_way_to_keep_it():
    tensors = state(network("resnet18"))
    tensors["fc.weight_mask"] = np.ones_like(tensors["fc.weight"])
    tensors["fc.weight_orig"] = tensors.pop("fc.weight")
    (note,) = (note for note in convert(tensors).notes if "training makes a new head" in note)
    assert note.startswith("the head's weight is computed from others ('fc.weight_mask'; torch.nn.")


def test_one_dense_layer_under_another_name_is_the_classifier():
    tensors = state(network("resnet18"))
    renamed = {key.replace("fc.", "my_head.2."): array for key, array in tensors.items()}
    converted = convert(renamed)
    assert "classifier 'my_head.2' with 7 classes" in identify(renamed)[1]
    assert converted.num_classes == 7
    assert_same(converted, network("resnet18").eval())


@pytest.mark.parametrize(
    "foreign",
    [
        {"more.weight": np.zeros((3, 512, 1, 1), np.float32)},
        {"more": np.zeros(4, np.float32)},
        {"layer1.0.more.weight": np.zeros((4, 512), np.float32)},
        {"more.weight": np.zeros((4, 100), np.float32)},
    ],
)
def test_what_is_no_head_is_refused_unless_it_is_told_to_be_ignored(foreign):
    (key,) = foreign
    tensors = state(network("resnet18")) | foreign
    for drop_head in (False, True):
        with pytest.raises(UserError, match=f"unexpected {re.escape(key)}"):
            convert(tensors, drop_head=drop_head)
    converted = convert(tensors, ignore_keys=re.escape(key))
    assert converted.ignored_because == {"--ignore-keys": (key,)}
    assert converted.num_classes == 7


def test_criterion_weights_beside_the_network():
    """Lightning keeps a loss's class weights and metrics in the state dict."""
    foreign = {
        "criterion.weight": np.ones(7, np.float32),
        "train_acc.tp": np.zeros(7, np.int64),
        "loss_fn.pos_weight": np.ones(7, np.float32),
    }
    for prefix in ("model.", ""):
        converted = convert(under(prefix, state(network("resnet18"))) | foreign)
        because = converted.ignored_because["of the training, not of the network"]
        assert set(because) == set(foreign)
        assert (converted.num_classes, converted.prefix) == (7, prefix)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "is no regular expression"), ("conv", "matches no key as a whole"), ("x.*", "no key")],
)
def test_a_pattern_that_is_wrong_or_matches_nothing(pattern, message):
    with pytest.raises(UserError, match=message):
        convert(state(network("resnet18")), ignore_keys=pattern)


@pytest.mark.parametrize(
    ("trained", "copy"),
    [
        ("online_encoder.net.", "target_encoder.net."),  # BYOL
        ("module.base_encoder.", "module.momentum_encoder."),  # MoCo v3
    ],
)
def test_the_trained_network_is_taken_of_two(trained, copy):
    tensors = state(network("resnet18"))
    both = under(trained, tensors) | under(copy, {key: 0 * a for key, a in tensors.items()})
    converted = convert(both)
    assert converted.prefix == trained
    assert_same(converted, network("resnet18").eval())


@pytest.mark.parametrize("head", ["fc", "projection_head"])
def test_projections_of_self_supervised_training(head):
    """SimCLR has one in the classifier's place, SwAV under a name of its own."""
    tensors = {k: a for k, a in state(network("resnet18")).items() if not k.startswith("fc.")}
    tensors |= {f"{head}.0.weight": np.ones((512, 512), np.float32)}
    tensors |= {f"{head}.0.bias": np.ones(512, np.float32)}
    tensors |= {f"{head}.2.weight": np.ones((128, 512), np.float32)}
    converted = convert(under("backbone.", tensors))
    assert (converted.num_classes, converted.prefix) == (None, "backbone.")
    assert_same(converted, body("resnet18").eval())


# First convolutions for other images.


@pytest.mark.parametrize("channels", [1, 4])
def test_stems_of_one_and_of_four_channels(channels):
    theirs = timm.create_model("resnet18", num_classes=7, in_chans=channels)
    extra = images().mean(-1, keepdims=True)
    x = extra if channels == 1 else np.concatenate([images(), extra], -1)
    parity.randomize(theirs, parity.nchw(x))
    converted = convert(state(theirs))
    word = {1: "repeated", 4: "summed"}[channels]
    assert any(word in note and "'conv1.weight'" in note for note in converted.notes)
    assert_same(converted, theirs.eval(), x)


def test_stems_of_other_channels_are_refused():
    tensors = state(timm.create_model("resnet18", num_classes=7, in_chans=13))
    with pytest.raises(UserError, match=r"conv1.weight is \(64, 13, 7, 7\), expected"):
        convert(tensors)
