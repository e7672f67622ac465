"""Masks, label trees, the cut, and sub-trees."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import merge, prune, subtree, within
from jtl.freeze import FROZEN, find_cut, label_tree, masks, parse
from jtl.freeze.cut import trainable
from jtl.freeze.masks import Mask, Rule
from support import tiny

PARAMS = {
    "stem": {"conv": {"kernel": 0, "bias": 0}},
    "stage1": {"block1": {"bn": {"scale": 0, "bias": 0}}},
    "head": {"logits": {"kernel": 0, "bias": 0}},
}


def mask(*rules: tuple[str, str]) -> Mask:
    return Mask("mine", tuple(Rule(*rule) for rule in rules))


def test_head_only_labels():
    assert label_tree(parse("head_only"), PARAMS) == {
        "stem": {"conv": {"kernel": "frozen", "bias": "frozen"}},
        "stage1": {"block1": {"bn": {"scale": "frozen", "bias": "frozen"}}},
        "head": {"logits": {"kernel": "head", "bias": "head"}},
    }


def test_full_labels():
    assert label_tree(parse("full"), PARAMS) == {
        "stem": {"conv": {"kernel": "backbone", "bias": "backbone"}},
        "stage1": {"block1": {"bn": {"scale": "backbone", "bias": "backbone"}}},
        "head": {"logits": {"kernel": "head", "bias": "head"}},
    }


def test_the_first_matching_rule_wins():
    rules = mask((r".*/bias", "b"), (r"stem/.*", "s"), (r".*", FROZEN))
    assert label_tree(rules, PARAMS) == {
        "stem": {"conv": {"kernel": "s", "bias": "b"}},
        "stage1": {"block1": {"bn": {"scale": FROZEN, "bias": "b"}}},
        "head": {"logits": {"kernel": FROZEN, "bias": "b"}},
    }


def test_a_rule_must_match_the_whole_path():
    # `bias` alone is in three paths and is none of them.
    with pytest.raises(UserError, match=r"these rules have no effect:\n  bias: matches nothing\."):
        label_tree(mask(("bias", "b"), (".*", "rest")), PARAMS)


def test_every_leaf_must_be_decided():
    rules = mask((r"head/.*", "head"), (r"stage1/.*", FROZEN))
    with pytest.raises(
        UserError,
        match=r"^mask 'mine': no rule matches 2 of the parameter arrays, such as "
        r"'stem/conv/kernel'\. End the rules with one that matches everything, such as "
        r"'\.\*=frozen'\.$",
    ):
        label_tree(rules, PARAMS)


def test_a_rule_behind_another_decides_nothing():
    rules = mask((r".*", "all"), (r"head/.*", "head"), (r"stem/.*", FROZEN))
    with pytest.raises(UserError) as caught:
        label_tree(rules, PARAMS)
    assert str(caught.value).splitlines()[1:] == [
        "  head/.*: comes too late: earlier rules already match all of it (head/logits/kernel and "
        "1 more): '.*'. Move it up.",
        "  stem/.*: comes too late: earlier rules already match all of it (stem/conv/kernel and 1 "
        "more): '.*'. Move it up.",
    ]


def test_every_rule_that_matches_nothing_gets_its_nearest_paths():
    rules = mask((r"stem/cnov/.*", "s"), (r"head/logit/.*", "h"), (r".*", "rest"))
    with pytest.raises(UserError) as caught:
        label_tree(rules, PARAMS)
    _, stem, head = str(caught.value).splitlines()
    assert "matches nothing. Similar paths: stem/conv" in stem
    assert "matches nothing. Similar paths: head/logits" in head


@pytest.mark.parametrize("wrong", ["stage1/block1/nonsense", "stage1/block1/bn/mean"])
def test_a_mask_from_a_layer_that_is_not_there(wrong: str):
    params = tiny.variables()["params"]
    chain = tiny.MODEL.units()
    assert label_tree(parse("from:stage1/block1/bn/scale", chain), params)["stem"] != {}
    with pytest.raises(
        UserError, match=f"there is no layer '{wrong}' with parameters.*stage1/block1"
    ):
        label_tree(parse(f"from:{wrong}", chain), params)


@pytest.mark.parametrize("name", ["last_stage", "last_stages:1", "first_stages:1"])
def test_masks_by_stages_need_a_stage(name: str):
    stem = models.create("resnet18", truncate_at="stem")
    with pytest.raises(UserError, match=r"has no stages\. Its units are: stem, pool, head\. Use"):
        parse(name, stem.units())


def test_something_must_train():
    with pytest.raises(UserError, match=r"^mask 'mine' leaves nothing to train\.$"):
        label_tree(mask((r"head/.*", FROZEN), (r".*", FROZEN)), PARAMS)


@pytest.mark.parametrize(
    ("wrong", "right"), [("head-only", "head_only"), ("HEAD_ONLY", "head_only"), ("ful", "full")]
)
def test_unknown_masks_name_the_nearest_and_all(wrong, right):
    hint = f" Did you mean '{right}'\\?" if right else ""
    with pytest.raises(
        UserError, match=f"^unknown mask '{wrong}'\\.{hint} The masks are: head_only, .*full"
    ):
        parse(wrong)


def test_names_parse_to_their_masks():
    assert {"head_only", "full"} <= set(masks.names())
    assert [parse(name).name for name in ("head_only", "full")] == ["head_only", "full"]


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_lite0"])
def test_the_cut_of_real_models(name):
    model = models.create(name, num_classes=5)
    shapes = models.variable_shapes(model)
    paths = tuple(unit.path for unit in model.units())
    with_params = {p for p in paths if subtree(shapes["params"], p)}
    assert with_params == set(paths) - {"pool"}

    head_only = find_cut(label_tree(parse("head_only"), shapes["params"]), model.units())
    assert head_only.unit == "head"
    assert (head_only.prefix, head_only.suffix) == (paths[:-1], ("head",))
    assert head_only.train_units == {"head"}

    full = find_cut(label_tree(parse("full"), shapes["params"]), model.units())
    assert full.unit == "stem"
    assert (full.prefix, full.suffix) == ((), paths)
    assert full.train_units == with_params


def test_the_cut_is_the_earliest_unit_that_trains():
    rules = mask((r"stage1/block1/bn/bias", "b"), (r"head/.*", "head"), (r".*", FROZEN))
    labels = label_tree(rules, tiny.variables()["params"])
    found = find_cut(labels, tiny.MODEL.units())
    assert found.unit == "stage1/block1"
    assert found.prefix == ("stem",)
    assert found.suffix == ("stage1/block1", "stage2/block1", "pool", "head")
    # A frozen unit behind the cut stays in inference mode; one trainable leaf makes a unit train.
    assert found.train_units == {"stage1/block1", "head"}


def test_prune_leaves_no_empty_dicts():
    kept = prune(PARAMS, lambda leaf: leaf.endswith("/bias"))
    assert kept == {
        "stem": {"conv": {"bias": 0}},
        "stage1": {"block1": {"bn": {"bias": 0}}},
        "head": {"logits": {"bias": 0}},
    }
    assert prune(PARAMS, within(["stage2"])) == {}
    assert prune(PARAMS, within(["stem"])) == {"stem": PARAMS["stem"]}


def test_units_whose_names_begin_alike_are_apart():
    tree = {"stage1": {"block1": {"w": 1}, "block11": {"w": 2}}}
    assert prune(tree, within(["stage1/block1"])) == {"stage1": {"block1": {"w": 1}}}


@pytest.mark.parametrize("name", ["head_only", "full"])
def test_prune_and_merge_are_inverse(name):
    params = tiny.variables()["params"]
    labels = label_tree(parse(name), params)
    trains = trainable(labels)
    parts = prune(params, trains), prune(params, lambda leaf: not trains(leaf))
    assert (len(jax.tree.leaves(parts[0])), len(jax.tree.leaves(parts[1]))) == {
        "head_only": (2, 9),
        "full": (11, 0),
    }[name]
    for together in (merge(*parts), merge(*reversed(parts))):
        assert jax.tree.structure(together) == jax.tree.structure(params)
        jax.tree.map(np.testing.assert_array_equal, together, params)
        # The same arrays, not copies of them.
        assert all(a is b for a, b in zip(*map(jax.tree.leaves, (together, params)), strict=True))


def test_merge_refuses_a_leaf_in_two_trees():
    with pytest.raises(AssertionError, match="leaf 'kernel' is in two trees"):
        merge({"head": {"kernel": 1}}, {"head": {"kernel": 2}})


def test_merge_leaves_its_arguments_alone():
    left, right = {"a": {"x": 1}}, {"a": {"y": 2}}
    assert merge(left, right) == {"a": {"x": 1, "y": 2}}
    assert (left, right) == ({"a": {"x": 1}}, {"a": {"y": 2}})
