"""Masks by stage, path and rule, on hand-written trees; learning rates of their groups."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from jtl import models, weights
from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths, lookup
from jtl.freeze import FROZEN, find_cut, label_tree, parse
from jtl.freeze.param_groups import assign
from jtl.optim.recipe import Rates
from support import tiny

MODEL_UNITS = tiny.MODEL.units()


def trained_units(mask: str) -> list[str]:
    """The units in which every leaf trains; no unit trains in part."""
    params = tiny.variables()["params"]
    labels = label_tree(parse(mask, MODEL_UNITS), params)
    trained = []
    for unit in tiny.UNITS:
        try:
            kinds = {label == FROZEN for label in jax.tree.leaves(lookup(labels, unit.split("/")))}
        except KeyError:
            continue  # Pooling has no params.
        assert len(kinds) == 1, unit
        if kinds == {False}:
            trained.append(unit)
    return trained


@pytest.mark.parametrize(
    ("mask", "units"),
    [
        ("head_only", ["head"]),
        ("last_stage", ["stage2/block1", "head"]),
        ("last_stages:1", ["stage2/block1", "head"]),
        ("last_stages:2", ["stage1/block1", "stage2/block1", "head"]),
        ("from:stage1/block1", ["stage1/block1", "stage2/block1", "head"]),
        ("from:stage1/block1/conv", ["stage1/block1", "stage2/block1", "head"]),
        ("from:stage2", ["stage2/block1", "head"]),
        ("from:head", ["head"]),
        ("first_stages:1", ["stem", "stage1/block1", "head"]),
        ("full", ["stem", "stage1/block1", "stage2/block1", "head"]),
    ],
)
def test_units_of_a_mask(mask: str, units: list[str]):
    assert trained_units(mask) == units


@pytest.mark.parametrize(
    ("mask", "leaves"),
    [
        ("norm_only", {"bn/scale", "bn/bias"}),
        ("bias_only", {"bn/bias"}),
    ],
)
def test_leaves_of_a_mask(mask: str, leaves: set[str]):
    labels = label_tree(parse(mask, MODEL_UNITS), tiny.variables()["params"])
    trained = {p for p in leaf_paths(labels) if lookup(labels, p) != FROZEN and p[0] != "head"}
    assert {"/".join(path[-2:]) for path in trained} == leaves
    assert len(trained) == 3 * len(leaves)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("last_stages:3", "the number of stages must be from 1 to 2"),
        ("last_stages:0", "the number of stages must be from 1 to 2"),
        ("first_stages:x", "the number of stages must be from 1 to 2"),
        ("from:stage9", "no unit is called 'stage9'. This model has: stem, stage1/block1, stage2"),
        ("from:stge2", "no unit is called 'stge2'. Did you mean 'stage2'?"),
        ("from:stage2/blok1", "Did you mean 'stage2/block1'?"),
        ("HEAD_ONLY", "Did you mean 'head_only'?"),
        ("from", "write it as from:PATH"),
        ("from:", "write it as from:PATH"),
        ("full:2", "write it as full"),
        ("last_stgae", "Did you mean 'last_stage'?"),
        ("rules:/nowhere/at/all", "cannot read the rules file"),
        ("rules:head/.*=maybe", "'maybe' is not one of the four"),
        ("rules:(=frozen", "not a regular expression"),
        ("rules:head/.*=x-1", "must be positive"),
        ("rules:;=", "cannot be used"),
    ],
)
def test_refusals(mask: str, message: str):
    with pytest.raises(UserError) as caught:
        parse(mask, MODEL_UNITS)
    assert message in str(caught.value)


def test_rules_decide_in_order_and_carry_rates():
    text = "rules:stage2/.*/kernel=x0.1; stage2=train; head=2e-3; .*=frozen"
    params = tiny.variables()["params"]
    labels, rates = assign(parse(text, MODEL_UNITS), params, MODEL_UNITS, Rates(1e-2, 7.0))
    assert labels["stage2"]["block1"] == {
        "conv": {"kernel": "backbone x0.1"},
        "bn": {"scale": "backbone", "bias": "backbone"},
    }
    assert set(jax.tree.leaves(labels["stage1"])) == {FROZEN}
    # A rate of one's own stands as it is; the head's multiple does not touch it.
    assert rates == pytest.approx({"backbone x0.1": 1e-3, "backbone": 1e-2, "head 2e-3": 2e-3})


def test_rules_from_a_file_are_those_in_place(tmp_path: Path):
    file = tmp_path / "rules.txt"
    file.write_text("# the end of the network\n\nstage2 = train\nhead = train\n.* = frozen\n")
    inline = parse("rules:stage2=train;head=train;.*=frozen", MODEL_UNITS)
    assert parse(f"rules:{file}", MODEL_UNITS).rules == inline.rules


def test_all_bad_rules_are_named_together():
    with pytest.raises(UserError) as caught:
        parse("rules:a=b;head/.*=train;c", MODEL_UNITS)
    assert "1: a=b" in str(caught.value)
    assert "3: c" in str(caught.value)


def test_a_rule_without_effect_names_the_nearest_paths():
    mask = parse("rules:stage2/blok1/.*=train;head/.*=train;.*=frozen", MODEL_UNITS)
    with pytest.raises(UserError, match=r"Similar paths: .*stage2/block1"):
        label_tree(mask, tiny.variables()["params"])


def test_layer_decay_falls_from_the_head_to_the_stem():
    params = tiny.variables()["params"]
    labels, rates = assign(
        parse("full", MODEL_UNITS), params, MODEL_UNITS, Rates(1.0, 4.0, layer_decay=0.5)
    )
    assert rates == pytest.approx(
        {
            "head": 4.0,
            "backbone stage2/block1": 0.5,
            "backbone stage1/block1": 0.25,
            "backbone stem": 0.125,
        }
    )
    assert labels["stem"]["conv"]["kernel"] == "backbone stem"


def test_batch_norm_modes_move_the_cut():
    params = tiny.variables()["params"]
    labels = label_tree(parse("last_stage", MODEL_UNITS), params)
    auto, frozen, train = (
        find_cut(labels, MODEL_UNITS, mode) for mode in ("auto", "frozen", "train")
    )
    assert (auto.unit, frozen.unit, train.unit) == ("stage2/block1", "stage2/block1", "stem")
    assert auto.stats_units == {"stage2/block1", "head"}
    assert frozen.stats_units == {"head"}
    assert train.stats_units == set(tiny.UNITS)
    assert {one.train_units for one in (auto, frozen, train)} == {auto.stats_units}


@pytest.mark.parametrize(
    ("model", "name", "path"),
    [
        ("resnet50", "layer4", "stage4"),
        ("resnet50", "layer3.0", "stage3/block1"),
        ("resnet50", "layer1.2.conv3", "stage1/block3/conv3"),
        ("resnet50", "conv3_block1_3_conv", "stage2/block1/conv3"),
        ("resnet50", "conv3_block1", "stage2/block1"),
        ("resnet50", "conv3_block1_out", "stage2/block1"),
        ("densenet121", "features.denseblock2", "stage2"),
        ("efficientnet_lite0", "blocks.3", "stage4"),
        ("resnet50", "stage2/block1", "stage2/block1"),
        ("resnet50", "nonsense", "nonsense"),
    ],
)
def test_other_libraries_names_are_understood(model: str, name: str, path: str):
    assert weights.translate(name, model) == path


def test_translated_names_serve_masks():
    units = models.create("resnet50").units()

    def translate(name: str) -> str:
        return weights.translate(name, "resnet50")

    assert parse("from:layer4", units, translate).rules == parse("from:stage4", units).rules
    assert (
        parse("rules:layer4=train;.*=frozen", units, translate).rules
        == parse("rules:stage4=train;.*=frozen", units).rules
    )
