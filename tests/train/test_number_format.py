"""`--dtype`: a prefix in bfloat16, and what `auto` comes to."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import onednn
from jtl.cache.keys import prefix_of
from jtl.common.errors import UserError
from jtl.config.augment import AugmentConfig
from jtl.config.model import PREFIX
from jtl.evaluate.evaluation import evaluate_run
from jtl.predict import classifier
from jtl.runs.checkpoints import reading
from jtl.train import number_format
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import prepare_setup
from support import tiny

CUT = "stage2/block1"
MIXED = tiny.MODEL.clone(float32_from=CUT)


def configured(data, folder, dtype, **train):
    config = tiny.config(data, folder, **train)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))


def applied(model, images, **options) -> Any:
    return model.apply(tiny.variables(), images, **options)


def test_what_comes_before_the_unit_is_bfloat16_and_the_rest_is_as_in_float32():
    images = tiny.PREPARE(jnp.asarray(tiny.images(4)))
    half = images.astype(jnp.bfloat16)
    watch = {"capture_intermediates": True, "mutable": ["intermediates"]}
    blocks = applied(MIXED, half, **watch)[1]["intermediates"]
    dtypes = [
        blocks["stem"]["__call__"][0].dtype,
        blocks["stage1"]["block1"]["__call__"][0].dtype,
        blocks["stage2"]["block1"]["conv"]["__call__"][0].dtype,
        blocks["head"]["__call__"][0].dtype,
    ]
    assert dtypes == [jnp.bfloat16, jnp.bfloat16, jnp.float32, jnp.float32]
    features = applied(MIXED, half, stop=CUT)
    assert features.dtype == jnp.bfloat16
    assert (features == applied(tiny.MODEL, half, stop=CUT)).all()
    ours = applied(MIXED, features, start=CUT)
    assert (ours == applied(tiny.MODEL, features.astype(jnp.float32), start=CUT)).all()
    whole = applied(tiny.MODEL, images)
    assert 0 < jnp.abs(ours - whole).max() / jnp.abs(whole).max() < 0.03


def test_features_behind_the_change_are_not_those_of_one_format():
    variables = tiny.variables()

    def key(model, cut):
        return prefix_of(model, variables, cut, name="tiny", dtype="bfloat16", stored=None)

    assert key(MIXED, CUT) == key(tiny.MODEL, CUT)  # The same layers in the same format.
    assert key(MIXED, "head") != key(tiny.MODEL, "head")


@pytest.mark.slow
def test_a_run_computes_its_prefix_in_bfloat16_wherever_it_is_used(
    tiny_data, tmp_path, monkeypatch
):
    options = dict(mask="last_stage", epochs=3, lr=1e-3)
    config = configured(tiny_data, tmp_path / "run", PREFIX, **options)
    run = fit(config, tiny.quiet())
    assert (run.summary["cached_prefix"], run.summary["frozen_unchanged"]) == (True, True)
    restored = reading.restore(run.folder, "latest")
    assert {leaf.dtype for leaf in jax.tree.leaves(restored.variables)} == {np.dtype("float32")}
    assert restored.meta["format_version"] == 3  # Earlier versions would compute otherwise.
    plain = fit(configured(tiny_data, tmp_path / "plain", "float32", **options), tiny.quiet())
    assert plain.summary["val_loss"] == pytest.approx(run.summary["val_loss"], rel=0.02)
    assert plain.summary["val_loss"] != run.summary["val_loss"]
    loaded = classifier.load(run.folder)
    scores = evaluate_run(loaded, None, tiny.quiet()).scores
    assert scores["val_loss"] == pytest.approx(run.summary["val_loss"], rel=1e-6)
    assert loaded.model.float32_from == "stage2/block1"
    # Going on, and without cached features: the same network.
    half = configured(tiny_data, tmp_path / "half", PREFIX, **options)
    tiny.fit_until(2, half, monkeypatch)
    resumed = fit(tiny.resumed(tmp_path / "half"), tiny.quiet())
    assert resumed.summary["val_loss"] == run.summary["val_loss"]
    changing = dataclasses.replace(
        configured(tiny_data, tmp_path / "changing", PREFIX, **options),
        augment=AugmentConfig(augment="light"),
    )
    assert fit(changing, tiny.quiet()).summary["cached_prefix"] is False


def test_without_a_prefix_it_is_refused(tiny_data):
    with pytest.raises(UserError, match="--dtype bfloat16_prefix has no effect: the mask trains"):
        fit(configured(tiny_data, None, PREFIX, mask="full"), tiny.quiet())


@pytest.fixture
def measurable(monkeypatch):
    """A processor that computes in bfloat16, twice as fast; gives how often it was measured."""
    calls: list[str] = []

    def measured(model, variables, inputs, end):
        calls.append(end)
        return {"float32": 2.0, "bfloat16": 1.0}

    monkeypatch.setattr(number_format, "measured", measured)
    monkeypatch.setattr(number_format, "FEWEST", 1)
    monkeypatch.setattr(onednn, "computes", lambda dtype: True)
    return calls


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))


@pytest.mark.slow
def test_auto_measures_once_and_a_run_keeps_what_it_came_to(
    tiny_data, tmp_path, monkeypatch, measurable, own_cache
):
    run = fit(configured(tiny_data, tmp_path / "a", "auto", mask="last_stage"), tiny.quiet())
    stored = json.loads((run.folder / "config.json").read_text())
    assert stored["model"]["dtype"] == PREFIX
    fit(configured(tiny_data, tmp_path / "b", "auto", mask="last_stage"), tiny.quiet())
    assert measurable == ["stage2/block1"]
    # Going on where bfloat16 is slow: as it began.
    half = configured(tiny_data, tmp_path / "c", "auto", mask="last_stage", epochs=2)
    tiny.fit_until(1, half, monkeypatch)
    monkeypatch.setattr(onednn, "computes", lambda dtype: False)
    fit(tiny.resumed(tmp_path / "c"), tiny.quiet())
    assert classifier.load(tmp_path / "c").model.float32_from == "stage2/block1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("slow", "float32, because bfloat16 is 1.05 times as fast"),
        ("few", "images are too few for measuring to pay"),
        ("processor", "float32, because this processor has no instructions for bfloat16"),
        ("full", "float32, because the first layers train"),
    ],
)
def test_auto_is_float32_where_nothing_is_gained(
    tiny_data, tmp_path, monkeypatch, measurable, own_cache, change, reason
):
    said: list[str] = []
    if change == "slow":
        slow = {"float32": 1.05, "bfloat16": 1.0}
        monkeypatch.setattr(number_format, "measured", lambda *_: slow)
    if change == "few":
        monkeypatch.setattr(number_format, "FEWEST", 10_000)
    if change == "processor":
        monkeypatch.setattr(onednn, "computes", lambda dtype: False)
    display = tiny.quiet()
    monkeypatch.setattr(display, "message", said.append)
    mask = "full" if change == "full" else "last_stage"
    setup = prepare_setup(checked(configured(tiny_data, None, "auto", mask=mask)), display)
    assert setup.config.model.dtype == "float32"
    assert (setup.model.float32_from, setup.inputs.device.dtype) == (None, "float32")
    assert [line for line in said if reason in line]


def test_measuring_takes_both_formats(tiny_data, monkeypatch):
    setup = prepare_setup(
        checked(configured(tiny_data, None, "float32", mask="last_stage")), tiny.quiet()
    )
    given = []

    def forward(variables, batch, *, model, stop, prepare):
        out = jnp.zeros(3, prepare.dtype)
        given.append((model.float32_from, stop, prepare.dtype, batch.shape))
        return out

    monkeypatch.setattr(number_format, "forward", forward)
    found = number_format.measured(setup.model, setup.variables, setup.inputs, CUT)
    assert found.keys() == {"float32", "bfloat16"}
    assert min(found.values()) > 0
    assert dict.fromkeys(given) == dict.fromkeys(
        [
            (None, CUT, "float32", (32, tiny.SIZE, tiny.SIZE, 3)),
            (CUT, CUT, "bfloat16", (32, tiny.SIZE, tiny.SIZE, 3)),
        ]
    )
