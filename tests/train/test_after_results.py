"""What a run gets after its results costs little, and is right."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jtl.runs import completion
from jtl.train import after_results
from jtl.train.fit import fit
from support import tiny

pytestmark = pytest.mark.usefixtures("real_report")


@pytest.fixture
def put_off(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What trainings put off, which is not made."""
    found: list[Any] = []
    monkeypatch.setattr(after_results, "put_off", lambda *given: found.append(given))
    return found


@pytest.mark.parametrize("mask", ["head_only", "last_stage"])
def test_features_that_are_kept_give_what_a_pass_over_the_images_gives(
    mask: str, put_off: list[Any], tiny_data: Path, tmp_path: Path
):
    options: dict[str, Any] = dict(weights=str(tiny_data.parent / "weights"), mask=mask, epochs=2)
    fit(tiny.config(tiny_data, tmp_path / "run", **options), tiny.quiet())
    ((setup, _, best, _, features, *_),) = put_off
    rows = completion.chosen_rows(setup.dataset)
    how = dict(model=setup.model, variables=best.variables, inputs=setup.inputs)
    wanted = completion.computed(setup.dataset, rows, **how)
    for name in ("train", "val"):
        np.testing.assert_array_equal(features.rows[name], rows[name])
        np.testing.assert_allclose(features.values[name], wanted.values[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("epochs", "passed"), [(2, False), (5, True)])
def test_few_epochs_of_all_layers_are_followed_by_no_pass_over_the_images(
    epochs: int, passed: bool, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []
    monkeypatch.setattr(completion, "computed", lambda *given, **how: asked.append(given))
    monkeypatch.setattr(completion, "complete", lambda *given: None)
    weights = str(tiny_data.parent / "weights")
    options: dict[str, Any] = dict(weights=weights, mask="full", epochs=epochs)
    fit(tiny.config(tiny_data, tmp_path / "run", **options), tiny.quiet())
    assert bool(asked) == passed


def test_features_of_the_last_phase_do_not_count_for_an_epoch_before(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[Any] = []
    at_hand = after_results.at_hand
    monkeypatch.setattr(after_results, "at_hand", lambda *given: asked.append(given))
    weights = str(tiny_data.parent / "weights")
    options: dict[str, Any] = dict(weights=weights, phases="2,full;1,head_only", epochs=None)
    fit(tiny.config(tiny_data, tmp_path / "run", **options), tiny.quiet())
    ((setup, best, inputs),) = asked
    assert at_hand(setup, dataclasses.replace(best, epoch=2), inputs) is None
    assert at_hand(setup, dataclasses.replace(best, epoch=3), inputs) is not None
