"""Which label a leaf gets, and that the head's rate is the head's alone."""

from __future__ import annotations

from typing import Any

import jax
import pytest

from jtl import models, weights
from jtl.common.trees import leaf_paths, lookup
from jtl.freeze import FROZEN, Mask, parse
from jtl.freeze.masks import Rule
from jtl.freeze.param_groups import assign, is_head
from jtl.optim.recipe import Rates
from support import tiny

LR, MULT = 1e-4, 10.0


def assigned(text: str, model: str) -> tuple[dict[str, Any], dict[str, float]]:
    classifier = models.create(model, num_classes=5)
    params = models.variable_shapes(classifier, 64)["params"]
    units = classifier.units()
    mask = parse(text, units, lambda name: weights.translate(name, model))
    return assign(mask, params, units, Rates(LR, MULT))


@pytest.mark.parametrize(
    ("model", "rules", "trains"),
    [
        ("resnet18", "layer4=train;fc=train;.*=frozen", {"stage4", "head"}),
        ("resnet18", ".*=train", {"stem", "stage1", "stage2", "stage3", "stage4", "head"}),
        ("resnet18", "stage3=x0.5;head.*=train;.*=frozen", {"stage3", "head"}),
        ("resnet18", "(head|stage4)/.*=train;.*=frozen", {"stage4", "head"}),
        ("resnet18", "stage4=train;predictions=train;.*=frozen", {"stage4", "head"}),
        ("resnet18", "stage.*=frozen;.*=train", {"stem", "head"}),
        ("densenet121", "final=train;classifier=train;.*=frozen", {"final", "head"}),
        ("densenet121", "(final|head)/.*=train;.*=frozen", {"final", "head"}),
        ("densenet121", "head/.*=frozen;final=train;.*=frozen", {"final"}),
    ],
)
def test_the_head_s_multiple_is_the_head_s_alone(model: str, rules: str, trains: set[str]):
    labels, rates = assigned("rules:" + rules, model)
    trained = [path for path in leaf_paths(labels) if lookup(labels, path) != FROZEN]
    assert {path[0] for path in trained} == trains
    for path in trained:
        label = lookup(labels, path)
        half = "x0.5" in label
        expected = LR * MULT if path[0] == "head" else LR * (0.5 if half else 1.0)
        assert rates[label] == pytest.approx(expected), path
        assert is_head(label) == (path[0] == "head")
        assert half == (path[0] == "stage3" and "x0.5" in rules)


def test_a_rate_of_one_s_own_is_the_same_everywhere():
    labels, rates = assigned("rules:(head|stage4)/.*=2e-3;.*=frozen", "resnet18")
    assert rates == {"backbone 2e-3": 2e-3, "head 2e-3": 2e-3}
    assert set(jax.tree.leaves(labels["head"])) == {"head 2e-3"}


def test_the_head_is_known_by_its_label_in_every_phase():
    assert [
        is_head(label) for label in ("head", "head@1", "head x0.1@0", "header", "backbone")
    ] == [
        *[True] * 3,
        *[False] * 2,
    ]


def test_no_label_gets_two_rates():
    two = Mask("two", (Rule("head/.*", "a", lr=1.0), Rule(".*", "a", lr=2.0)))
    with pytest.raises(AssertionError):
        assign(two, tiny.variables()["params"], tiny.MODEL.units(), Rates(LR))
