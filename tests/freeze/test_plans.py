"""What a run's options make of masks: kept classifiers, heads that stay, rules from files."""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import pytest

from jtl import models, weights
from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths, lookup
from jtl.freeze import FROZEN, label_tree, parse
from jtl.freeze.phase_plan import PhasePlan, plan_phases
from jtl.freeze.phases import Phase
from jtl.models import HeadSpec
from jtl.optim.recipe import Rates, Recipe
from jtl.optim.schedules import Schedule
from jtl.train.setup import path_called
from support import tiny


@functools.cache
def appended(name: str) -> models.ImageClassifier:
    return models.create(name, num_classes=3, head=HeadSpec(source_classes=7))


def trained_units(mask: str, name: str) -> set[str]:
    model = appended(name)
    foreign = functools.partial(weights.translate, model=name)
    translate = functools.partial(path_called, model=model, foreign=foreign)
    labels = label_tree(
        parse(mask, model.units(), translate), models.variable_shapes(model, 64)["params"]
    )
    return {path[0] for path in leaf_paths(labels) if lookup(labels, path) != FROZEN}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("densenet121", "classifier"),
        ("densenet121", "predictions"),
        ("resnet18", "classifier"),
        ("resnet18", "fc"),
        ("efficientnet_lite0", "classifier"),
    ],
)
def test_a_kept_classifier_is_called_as_in_its_library(model: str, name: str):
    assert trained_units(f"from:{name}", model) == {"classifier", "head"}
    assert trained_units(f"rules:{name}=train;.*=frozen", model) == {"classifier"}
    assert trained_units("rules:head=train;.*=frozen", model) == {"head"}


def test_without_a_kept_classifier_its_name_is_the_head_s():
    model = models.create("densenet121", num_classes=3)
    foreign = functools.partial(weights.translate, model="densenet121")
    called = functools.partial(path_called, model=model, foreign=foreign)
    assert called("classifier") == "head/logits"
    assert called("features.denseblock2") == "stage2"
    assert called("stage2") == "stage2"


def plans(*masks: str) -> tuple[PhasePlan, ...]:
    return plan_phases(
        [(Phase(1, mask), Recipe(Rates(1e-3), Schedule())) for mask in masks],
        tiny.variables()["params"],
        tiny.MODEL.units(),
        bn="batch",
        translate=lambda name: name,
    )


@pytest.mark.parametrize(
    "masks",
    [
        ("rules:head=frozen;.*=train",),
        ("rules:head/logits/kernel=frozen;.*=train",),
        ("rules:head=frozen;stage2=train;.*=frozen", "head_only"),
    ],
)
def test_a_new_head_that_stays_at_zero_is_refused(masks: tuple[str, ...]):
    with pytest.raises(
        UserError, match=r"last kernel of the new head \(head/logits/kernel\).*head=train"
    ):
        plans(*masks)


def test_a_head_that_trained_before_may_be_frozen():
    first, second = plans("head_only", "rules:head=frozen;.*=train")
    assert first.cut.train_units == {"head"}
    assert set(jax.tree.leaves(second.labels["head"])) == {FROZEN}


def test_phases_carry_the_content_of_their_rules_file(tmp_path: Path):
    content = "# mine\nstage2=train\nhead=train\n.*=frozen\n"
    (tmp_path / "rules.txt").write_text(content)
    from_file, other, inline = plans(
        f"rules:{tmp_path / 'rules.txt'}", "full", "rules:head=train;.*=frozen"
    )
    assert from_file.phase.rules == content
    assert (other.phase.rules, inline.phase.rules) == (None, None)
