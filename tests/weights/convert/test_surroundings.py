"""Tensors beside a network that has a prefix: other layers, and a classifier."""

from __future__ import annotations

import re

import numpy as np
import pytest

from jtl.common.errors import UserError
from support import weights_samples as samples
from weights_convert.convert.conversion import convert, identify

Tensors = dict[str, np.ndarray]


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def network(prefix: str, *, classifier: bool = True) -> Tensors:
    tensors = samples.tensors("resnet18", "timm/torchvision")
    return {prefix + k: a for k, a in tensors.items() if classifier or not k.startswith("fc.")}


def norm(name: str, size: int) -> Tensors:
    leaves = ("weight", "bias", "running_mean", "running_var")
    counter = np.int64(3)
    return {f"{name}.{leaf}": zeros(size) for leaf in leaves} | {
        f"{name}.num_batches_tracked": np.asarray(counter)
    }


LAYERS: dict[str, tuple[str, Tensors]] = {
    "a convolution to three channels": ("1.", {"0.weight": zeros(3, 1, 1, 1), "0.bias": zeros(3)}),
    "an adapter": ("model.", {"adapter.weight": zeros(3, 3, 3, 3)}),
    "a spatial transformer": (
        "model.",
        {"localization.0.weight": zeros(8, 3, 7, 7), "fc_loc.0.weight": zeros(6, 32)},
    ),
    "a normalization of images": ("model.", norm("bn0", 3)),
    "a temperature": ("model.", {"temperature": zeros(1)}),
    "a scale": ("net.model.", {"net.logit_scale": zeros()}),
}


@pytest.mark.parametrize("case", LAYERS)
def test_a_classifier_is_not_taken_from_among_other_layers(case):
    prefix, layers = LAYERS[case]
    tensors = network(prefix) | layers
    with pytest.raises(UserError, match="part of the forward pass") as caught:
        convert(tensors, "resnet18")
    message = str(caught.value)
    assert f"under '{prefix}'" in message
    assert all(key in message for key in layers if "track" not in key)
    (pattern,) = re.findall("--ignore-keys '(.*?)'", message)
    assert convert(tensors, "resnet18", ignore_keys=pattern).num_classes == 5
    assert convert(tensors, "resnet18", drop_head=True).num_classes is None
    assert convert(tensors, "resnet18", strip_prefix=prefix).num_classes == 5


def test_what_is_known_beside_a_classifier_changes_nothing():
    byol = network("online.net.") | network("target_encoder.net.")
    byol |= {"online.projector.0.weight": zeros(64, 512), "predictor.weight": zeros(64, 64)}
    cases: list[Tensors] = [
        network("module.") | {"n_averaged": np.asarray(np.int64(5))},
        network("model.") | {"model_ema.conv1weight": zeros(64, 3, 7, 7)},
        network("model.") | {"class_weights": zeros(5), "loss_fn.pos_weight": zeros(5)},
        byol,
    ]
    for tensors in cases:
        assert convert(tensors, "resnet18").num_classes == 5


@pytest.mark.parametrize("name", ["classifier", "head.fc", "backbone_head"])
def test_one_dense_layer_beside_a_backbone_is_the_classifier(name):
    weight = np.random.default_rng(0).random((7, 512), np.float32)
    dense = {f"{name}.weight": weight, f"{name}.bias": weight[:, 0]}
    tensors = network("backbone.", classifier=False) | dense
    converted = convert(tensors)
    _, told = identify(tensors)
    assert f"classifier '{name}' with 7 classes, which is next to the network, under" in told
    _, told = identify(network("model.") | dense)
    assert "classifier 'fc' with 5 classes, under the prefix 'model.'; next to the network" in told
    assert f"more: {name}.weight (7, 512), {name}.bias (7,)" in told
    assert (converted.num_classes, converted.ignored_because) == (7, {})
    logits = converted.variables["params"]["head"]["logits"]
    np.testing.assert_array_equal(logits["kernel"], weight.T)
    np.testing.assert_array_equal(logits["bias"], weight[:, 0])
    assert any(f"'{name}', is read as its classifier" in note for note in converted.notes)


@pytest.mark.parametrize(
    "beside",
    [
        {"fc.weight": zeros(7, 512), "fc.bias": zeros(7), "pool.p": zeros(1)},
        {"fc.weight": zeros(7, 528), "fc.bias": zeros(7)},
        {"fc.weight": zeros(7, 512)},
        {"projector.weight": zeros(7, 512), "projector.bias": zeros(7)},
    ],
)
def test_anything_else_beside_a_backbone_is_left_out(beside):
    converted = convert(network("backbone.", classifier=False) | beside)
    assert converted.num_classes is None
    assert converted.ignored_because == {"outside of the prefix 'backbone.'": tuple(beside)}


HEADS: dict[str, Tensors] = {
    "a normalization": norm("fc.0", 512) | {"fc.1.weight": zeros(7, 512), "fc.1.bias": zeros(7)},
    "two layers": {"fc.0.weight": zeros(64, 512), "fc.0.bias": zeros(64)}
    | norm("fc.1", 64)
    | {"fc.3.weight": zeros(7, 64), "fc.3.bias": zeros(7)},
}


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("case", HEADS)
def test_heads_with_a_normalization_are_left_out_with_its_counter(case, prefix):
    tensors = network(prefix, classifier=False) | {prefix + k: a for k, a in HEADS[case].items()}
    for drop_head, reason in ((False, "of a head of its own"), (True, "--drop-head")):
        converted = convert(tensors, drop_head=drop_head)
        assert converted.num_classes is None
        assert set(converted.ignored_because[reason]) == {prefix + key for key in HEADS[case]}


BARE = network("")
DAMAGED: dict[str, Tensors] = {
    "a transposed classifier": BARE | {"fc.weight": BARE["fc.weight"].T},
    "two widths": BARE | {"fc.bias": zeros(7)},
    "a classifier that is a convolution": BARE | {"fc.weight": BARE["fc.weight"][..., None, None]},
    "no bias": {key: array for key, array in BARE.items() if key != "fc.bias"},
    "a weight norm": network("", classifier=False)
    | {
        "fc.bias": zeros(5),
        "fc.parametrizations.weight.original0": zeros(5, 1),
        "fc.parametrizations.weight.original1": zeros(5, 512),
    },
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_classifier_is_refused_with_a_way_that_works(case):
    with pytest.raises(
        UserError, match="--drop-head of `jtl weights` converts the backbone alone"
    ) as caught:
        convert(DAMAGED[case], "resnet18")
    assert ("remove_parametrizations" in str(caught.value)) is ("norm" in case)
    assert convert(DAMAGED[case], "resnet18", drop_head=True).num_classes is None


def test_pruned_weights_are_refused_with_a_way_and_no_other():
    key = "layer1.0.conv1.weight"
    pruned = {k: a for k, a in BARE.items() if k != key}
    pruned |= {f"{key}_orig": BARE[key], f"{key}_mask": BARE[key]}
    with pytest.raises(UserError, match=r"prune\.remove\(layer, 'weight'\)") as caught:
        convert(pruned, "resnet18")
    assert "--drop-head" not in str(caught.value)


@pytest.mark.parametrize("classifier", [True, False])
@pytest.mark.parametrize(
    ("taken", "equal"), [("student.", "teacher."), ("model.net.", "best.net."), ("module.", "")]
)
def test_equal_copies_of_one_network_are_one_network(taken: str, equal: str, classifier: bool):
    whole = network(taken)
    copy = network(equal, classifier=classifier)
    copy = {key: a + 1 if a.dtype == np.int64 else a for key, a in copy.items()}
    for both in (whole | copy, copy | whole):
        converted = convert(both, "resnet18")
        np.testing.assert_equal(converted.variables, convert(whole, "resnet18").variables)
        assert len([key for key in converted.ignored if "num_batches" not in key]) == len(
            [key for key in copy if "num_batches" not in key]
        )
        assert converted.prefix == taken or classifier
        assert re.match("the weights are those under '.*'; those .* equal", converted.notes[0])
    key = next(key for key in copy if key.endswith("layer4.1.bn2.bias"))
    with pytest.raises(UserError, match="--strip-prefix"):
        convert(whole | copy | {key: copy[key] + 1}, "resnet18")


def incomplete(case: str) -> Tensors:
    tensors = network("")
    if case == "ZeRO-3":
        return {key: zeros(0) if key.endswith("weight") else a for key, a in tensors.items()}
    if case == "LoRA":
        return tensors | {"layer1.0.conv1.lora_A": zeros(4, 64)}
    if case == "LoRA of PEFT":
        tensors = {f"base_model.model.{k.replace('.conv1.', '.conv1.base_layer.')}": a
                   for k, a in tensors.items() if not k.startswith("conv1")}  # fmt: skip
        return tensors | {
            "base_model.model.layer1.0.conv1.lora_A.default.weight": zeros(4, 64, 3, 3)
        }
    return tensors | {"conv1.weight_fake_quant.scale": zeros(1)}


WAYS = {
    "ZeRO-3": "is empty, as in a part of a network that was trained on several devices",
    "LoRA": "is of an adapter (LoRA) next to the weights it changes. Merge them",
    "LoRA of PEFT": "is of an adapter (LoRA) next to the weights it changes. Merge them",
    "quantization": "is of training for quantization",
}


@pytest.mark.parametrize("case", WAYS)
def test_weights_that_are_not_all_there_are_refused_with_a_way(case):
    with pytest.raises(UserError) as caught:
        convert(incomplete(case), "resnet18")
    assert WAYS[case] in str(caught.value)


def test_copies_that_are_called_after_the_network():
    """Lightly's `backbone_momentum` follows `backbone`."""
    trained = network("backbone.", classifier=False)
    for name in ("backbone_momentum.", "backbone_target."):
        copy = {key: a + 1 for key, a in network(name, classifier=False).items()}
        assert convert(copy | trained, "resnet18").prefix == "backbone."


def test_a_copy_without_the_classifier_that_has_the_prefix():
    """The message says how to choose: a prefix selects the keys of the network."""
    tensors = network("") | network("module.", classifier=False)
    with pytest.raises(UserError, match=r"--strip-prefix module\. or the second with"):
        convert(tensors, "resnet18")
    assert convert(tensors, "resnet18", ignore_keys=r"module\..*").num_classes == 5
