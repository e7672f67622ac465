"""Heads as lists, pooling, kept classifiers, truncated backbones; the tutorials' counts."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from jtl.config.options import ModelConfig
from jtl.models import HeadSpec, ImageClassifier, heads
from jtl.models.heads import Head, Pool, check_layers, mlp
from jtl.models.initialization import initialize
from jtl.models.layers.blocks import unfused_layers
from support import tiny
from support.networks import random_variables


def count(tree: object) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


# The three arms of the DenseNet121 tutorial on ten classes, as Keras counts them.
ARMS = {
    "base": (32, HeadSpec(pool="max"), "full", 6_964_106, 7_047_754),
    "optimized head": (
        32,
        HeadSpec(("bn", "dense:256", "dense:128", "bn", "dropout:.2"), "max"),
        "full",
        7_252_746,
        7_338_698,
    ),
    "frozen": (
        155,
        HeadSpec(
            ("bn", "dense:256", "dropout:.2", "dense:128", "bn", "dropout:.2", "bn"), "flatten"
        ),
        "head_only",
        4_262_026,
        11_332_810,
    ),
}


@pytest.mark.parametrize("arm", ARMS)
def test_densenet_arms_have_the_tutorial_s_counts(arm: str):
    size, head, mask, trainable, total = ARMS[arm]
    model = models.create("densenet121", num_classes=10, head=head)
    shapes = models.variable_shapes(model, size)
    part = shapes["params"] if mask == "full" else shapes["params"]["head"]
    assert (count(part), count(shapes)) == (trainable, total)


def test_mlp_is_a_list_of_layers():
    assert mlp((1024, 512), 0.3, True) == (
        *("linear:1024", "bn", "relu", "dropout:0.3"),
        *("linear:512", "bn", "relu", "dropout:0.3"),
    )
    assert mlp((7,)) == ("linear:7", "relu")


def test_a_head_computes_its_list():
    head = Head(2, ("dense:4", "bn", "dropout:0.5"))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
    variables = head.init(jax.random.key(0), x, train=False)
    params = variables["params"]
    assert set(params) == {"dense1", "bn1", "logits"}
    assert not np.asarray(params["logits"]["kernel"]).any()
    params["logits"]["kernel"] = jnp.asarray(np.random.default_rng(1).normal(size=(4, 2)))
    hidden = np.maximum(np.asarray(x) @ np.asarray(params["dense1"]["kernel"]), 0)
    expected = hidden / np.sqrt(1 + 1e-5) @ np.asarray(params["logits"]["kernel"])
    np.testing.assert_allclose(head.apply(variables, x, train=False), expected, rtol=1e-5)
    keys = [jax.random.key(seed) for seed in (1, 2)]
    first, second = (
        head.apply(variables, x, train=True, rngs={"dropout": k}, mutable=["batch_stats"])[0]
        for k in keys
    )
    assert not np.array_equal(first, second)


def test_pooling():
    x = jnp.arange(2 * 2 * 2 * 3, dtype=jnp.float32).reshape(2, 2, 2, 3)
    pooled = {kind: Pool(kind).apply({}, x, train=False) for kind in ("avg", "max", "flatten")}
    np.testing.assert_array_equal(pooled["avg"], np.asarray(x).mean((1, 2)))
    np.testing.assert_array_equal(pooled["max"], np.asarray(x).max((1, 2)))
    np.testing.assert_array_equal(pooled["flatten"], np.asarray(x).reshape(2, -1))


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("normalizes", [False, True])
def test_dropout_is_not_batch_normalization(trains: bool, normalizes: bool):
    """A unit in train mode drops values, whichever statistics normalize them."""
    head = HeadSpec(("linear:64", "bn", "dropout:.5"))
    model = ImageClassifier(tiny.TinyNet(), head, num_classes=3)
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, (8, 16)), jnp.float32)
    variables: Any = model.init(jax.random.key(0), x, start="head")
    variables["params"]["head"]["logits"]["kernel"] += 1.0

    def run(seed: int) -> Any:
        return model.apply(
            variables,
            x,
            start="head",
            train=frozenset({"head"} if trains else ()),
            stats=frozenset({"head"} if normalizes else ()),
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(seed)},
        )

    (one, stats), (other, _) = run(1), run(2)
    assert np.array_equal(one, other) != trains
    before = variables["batch_stats"]["head"]["bn1"]["mean"]
    assert np.array_equal(stats["batch_stats"]["head"]["bn1"]["mean"], before) != normalizes


def test_bad_layers_are_named_together():
    with pytest.raises(UserError, match=r"'dense', 'bn:3', 'dropout:1', 'tanh' is not a layer"):
        check_layers(["dense", "bn", "bn:3", "dropout:1", "tanh", "dense:8"])


def test_append_keeps_the_weights_own_classifier():
    head = heads.from_options(ModelConfig(head="append"), source_classes=5)
    model = models.create("resnet18", num_classes=3, head=head)
    source = models.create("resnet18", num_classes=5)
    pretrained = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.5, np.float32), models.variable_shapes(source, 32)
    )
    variables = initialize(model, pretrained, size=32, seed=0)
    assert variables["params"]["classifier"]["logits"]["kernel"].shape == (512, 5)
    assert (variables["params"]["classifier"]["logits"]["kernel"] == 0.5).all()
    assert variables["params"]["head"]["logits"]["kernel"].shape == (5, 3)
    with pytest.raises(UserError, match="these have none"):
        heads.from_options(ModelConfig(head="append"), source_classes=None)


@pytest.mark.parametrize(
    ("at", "inner", "shape"),
    [
        ("stage2", {"conv1", "bn1", "conv2", "bn2", "down"}, (1, 4, 4, 128)),
        ("stage2/block1", {"conv1", "bn1", "conv2", "bn2", "down"}, (1, 4, 4, 128)),
        ("stage2/block1/conv2", {"conv1", "bn1", "conv2"}, (1, 4, 4, 128)),
        ("stage2/block1/bn1", {"conv1", "bn1"}, (1, 4, 4, 128)),
        # The shortcut stands beside the block's convolutions, which come first in the code.
        ("stage2/block1/down", {"down"}, (1, 4, 4, 128)),
        ("stage2/block1/down/conv", {"down"}, (1, 4, 4, 128)),
    ],
)
def test_a_truncated_backbone_ends_with_its_layer(at: str, inner: set[str], shape: tuple):
    model = models.create("resnet18", num_classes=3, truncate_at=at)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 32, 32, 3)), jnp.float32)
    whole = models.create("resnet18", num_classes=3)
    variables = random_variables(whole)
    shapes = models.variable_shapes(model, 32)
    assert set(shapes["params"]["stage2"]["block1"]) == inner
    assert "stage3" not in shapes["params"]
    part = initialize(model, jax.tree.map(np.asarray, variables), size=32, seed=0)
    with unfused_layers():
        features = model.apply(part, images, stop="pool")
        # The same layer's output inside the whole network.
        _, state = whole.apply(variables, images, capture_intermediates=True)
    assert features.shape == shape
    node = state["intermediates"]
    path = at if at != "stage2" else "stage2/block2"
    for key in path.split("/"):
        node = node[key]
    np.testing.assert_array_equal(features, node["__call__"][0])


def test_a_backbone_up_to_a_shortcut_has_keras_s_count():
    """Keras's ResNet50 up to conv3_block1_0_conv, its biases and a head of ten classes."""
    model = models.create(
        "resnet50",
        num_classes=10,
        conventions={"conv_bias": True, "stride_in_1x1": True},
        truncate_at="stage2/block1/down/conv",
    )
    assert count(models.variable_shapes(model, 64)) == 366_474


def test_an_unknown_layer_names_the_unit_s_layers():
    model = models.create("resnet18", truncate_at="stage2/block1/conv9")
    with pytest.raises(UserError, match=r"there is no layer 'stage2/block1/conv9'.*conv1, bn1"):
        models.variable_shapes(model, 32)
    with pytest.raises(UserError, match="no unit is called 'stage7'"):
        models.variable_shapes(models.create("resnet18", truncate_at="stage7"), 32)
