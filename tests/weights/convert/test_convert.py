"""What tensors are told to be, from every library and model, and how their numbers arrive."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import lookup
from jtl.data.preprocessing import Prepare
from jtl.models import Preprocessing
from support import weights_samples as samples
from weights_convert.checkpoint import folder
from weights_convert.convert.conversion import convert, identify
from weights_convert.convert.detection import with_classifier
from weights_convert.convert.prefixes import MIN_MATCH, quick_match
from weights_convert.convert.rules import Table, leaf_paths
from weights_convert.convert.tables import TABLES, has

MODEL = samples.MODEL
KNOWN = [
    (table, name)
    for table in TABLES
    for name in models.names()
    if models.get(name).family == table.family and has(table, name)
]
FIRST = {(table.library, table.family): name for table, name in reversed(KNOWN)}
"""Of each table, a model. How a classifier is read belongs to the table."""


def tensors_of(table: Table, name: str, num_classes: int | None) -> dict[str, np.ndarray]:
    """Tensors under a table's keys; they share one number, so that they cost no memory."""
    head = models.get(name).classifier if num_classes else None
    conventions = dict(table.conventions)
    model = models.create(name, num_classes=num_classes or 1, head=head, conventions=conventions)
    shapes = models.variable_shapes(model)
    one = np.float32(1)
    return {
        key: table.to_source(path, np.broadcast_to(one, lookup(shapes, path).shape))
        for path, key in table.source_keys(model.backbone, shapes).items()
    }


@pytest.mark.parametrize(
    ("table", "name", "counts"),
    [
        pytest.param(
            *(table, name, (1000, 7, None) if name == FIRST[table.library, table.family] else (7,)),
            id=f"{name}-{table.library}",
            marks=[] if name == FIRST[table.library, table.family] else pytest.mark.slow,
        )
        for table, name in KNOWN
    ],
)
def test_identify(table, name, counts):
    for num_classes in counts:
        tensors = tensors_of(table, name, num_classes)
        found, told = identify(tensors)
        named = with_classifier(table, tensors, name)
        assert (found.model, found.table) == (name, named)
        assert told == (
            f"{name} in {table.library} keys (100% of its backbone's keys are there), "
            + (f"classifier '{named.classifier}' with {num_classes} classes" if num_classes else "")
            + ("" if num_classes else "no classifier")
        )
        # A part of it would be known without tracing every model.
        assert quick_match(tensors, table, models.get(name)) >= MIN_MATCH


@pytest.mark.slow
@pytest.mark.parametrize("library", ["timm/torchvision", "keras", "keras (numbered)"])
def test_identify_what_is_damaged(library):
    table = next(t for t in TABLES if (t.library, t.family) == (library, "resnet"))
    tensors = tensors_of(table, "resnet50", 1000)
    keys = list(tensors)
    for missing in (keys[:1], keys[5:40], keys[-60:]):
        found, _ = identify({key: a for key, a in tensors.items() if key not in missing})
        assert (found.model, found.table.library) == ("resnet50", library)
    surplus = {**tensors, "more/kernel": np.zeros((3, 3, 99, 99), np.float32)}
    assert identify(surplus)[0].model == "resnet50"


def test_a_damaged_source_lists_its_problems_without_a_model():
    tensors = samples.tensors()
    del tensors["conv_head.weight"]
    with pytest.raises(UserError) as caught:
        convert(tensors)
    assert "1 problem between the source and the model" in str(caught.value)
    assert "missing    conv_head.weight" in str(caught.value)
    assert f"read as timm keys of {MODEL}" in str(caught.value)


@pytest.mark.parametrize(
    "tensors",
    [{}, {"conv1.weight": np.zeros((64, 3, 7, 7))}, {"blocks.0.attn.qkv.weight": np.zeros((9, 3))}],
)
def test_tensors_of_no_model(tensors):
    with pytest.raises(UserError, match="the keys are those of no model that jtl knows") as caught:
        identify(tensors)
    assert (sorted(tensors) or ["none"])[0] in str(caught.value)
    assert "Known are resnet of timm/torchvision, resnet of keras," in str(caught.value)


def test_another_model_of_keras_than_asked_for():
    table = next(t for t in TABLES if (t.library, t.family) == ("keras", "resnet"))
    with pytest.raises(UserError, match="they look like resnet50, try --model resnet50"):
        convert(tensors_of(table, "resnet50", 1000), "resnet101")


def test_the_head_can_be_dropped():
    tensors = samples.tensors()
    whole, bare = convert(tensors), convert(tensors, drop_head=True)
    assert (whole.num_classes, bare.num_classes) == (5, None)
    assert "head" not in bare.variables["params"]
    del whole.variables["params"]["head"]
    assert leaf_paths(whole.variables) == leaf_paths(bare.variables)
    # Also one that would not fit.
    tensors["classifier.bias"] = np.full(3, np.nan, np.float32)
    tensors["classifier.0.weight"] = np.zeros(3, np.float32)
    assert convert(tensors, MODEL, drop_head=True).num_classes is None


# Numbers.


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_every_width_becomes_float32(dtype):
    name = np.dtype(dtype).name
    tensors = {key: array.astype(dtype) for key, array in samples.tensors().items()}
    converted = convert(tensors)
    assert converted.dtypes == {name: len(tensors)}
    kernel = converted.variables["params"]["stem"]["conv"]["kernel"]
    assert kernel.dtype == np.float32
    source = tensors["conv_stem.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel.astype(np.float64), source.astype(np.float64))


def test_float64_is_rounded_to_the_nearest():
    tensors = samples.tensors()
    # Halfway between 1 and its successor: to even; a little more: up.
    half = 1 + 2.0**-24
    values = np.full(32, half)
    values[1] = half + 2.0**-50
    tensors["bn1.bias"] = values
    tensors["conv_stem.weight"] = tensors["conv_stem.weight"].astype(np.float16)
    converted = convert(tensors)
    bias = converted.variables["params"]["stem"]["bn"]["bias"]
    assert bias[:2].tolist() == [1.0, 1 + 2.0**-23]
    assert converted.dtypes == {"float32": len(tensors) - 2, "float64": 1, "float16": 1}


# Preprocessing in the order of Caffe.


def test_channels_are_reversed_after_normalization():
    colour = jnp.broadcast_to(jnp.array([255, 0, 51], jnp.uint8), (1, 8, 8, 3))
    rgb = Preprocessing((0.0, 0.5, 0.1), (1.0, 0.5, 0.1), size=8)
    bgr = dataclasses.replace(rgb, channel_order="bgr")
    assert np.asarray(Prepare(8, rgb)(colour)[0, 0, 0]).tolist() == pytest.approx([1, -1, 1])
    np.testing.assert_array_equal(Prepare(8, bgr)(colour), Prepare(8, rgb)(colour)[..., ::-1])


def test_the_channel_order_is_kept(tmp_path):
    preprocessing = Preprocessing(channel_order="bgr")
    folder.write(tmp_path / "out", samples.checkpoint(preprocessing=preprocessing))
    assert folder.read(tmp_path / "out").preprocessing == preprocessing


@pytest.mark.parametrize(("stated", "order"), [({}, "rgb"), ({"channel_order": "gbr"}, None)])
def test_descriptions_without_or_with_a_wrong_channel_order(tmp_path, stated, order):

    folder.write(tmp_path / "out", samples.checkpoint())
    path = tmp_path / "out" / "weights.json"
    facts: dict[str, Any] = json.loads(path.read_text())
    del facts["preprocessing"]["channel_order"]
    facts["preprocessing"] |= stated
    path.write_text(json.dumps(facts))
    if order:
        assert folder.read(tmp_path / "out").preprocessing.channel_order == order
    else:
        with pytest.raises(UserError, match="preprocessing is"):
            folder.read(tmp_path / "out")
