"""Random views of the training images whose features are kept (`--cache-views`)."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jtl.cache import extraction, sizes
from jtl.common.errors import UserError
from jtl.config.options import AugmentConfig, Config, DataConfig, RunConfig
from jtl.runs.checkpoints import reading
from jtl.train.checks import checked
from jtl.train.dry_run import dry_run
from jtl.train.fit import fit
from jtl.train.setup import prepare_setup
from support import tiny

pytestmark = pytest.mark.slow

VIEWS = 3
PART = AugmentConfig("light", color_jitter="0.4", erasing=0.5)


def configured(data, folder, views, *, budget=None, **train):
    config = tiny.config(data, folder, **{"mask": "head_only", "epochs": VIEWS, **train})
    return dataclasses.replace(
        config,
        augment=PART,
        data=dataclasses.replace(config.data, cache_views=views),
        run=dataclasses.replace(config.run, cache_budget=budget),
    )


def run(data, folder, views, **options):
    options = {"batch_size": 6, **options}
    return fit(configured(data, folder, views, **options), tiny.quiet())


def trained(result):
    """All params at the end, in one vector."""
    params = reading.restore(result.folder, "latest").variables["params"]
    return np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])


@pytest.fixture
def passes(monkeypatch, tmp_path):
    """The batches that ran through the frozen prefix alone; the cache begins empty."""
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    counted = []
    forward = extraction.forward

    def count(*args, **kwargs):
        if kwargs.get("start") is None and kwargs.get("stop") is not None:
            counted.append(args[1].shape)
        return forward(*args, **kwargs)

    monkeypatch.setattr(extraction, "forward", count)
    return counted


@pytest.mark.parametrize("budget", [None, "1kB"])
def test_views_train_as_augmentation_does(tiny_data, tmp_path, passes, budget):
    plain = run(tiny_data, tmp_path / "plain", None)
    assert not plain.summary["cached_prefix"]
    one = run(tiny_data, tmp_path / "one", 1)
    passes.clear()
    kept = run(tiny_data, tmp_path / "kept", VIEWS, budget=budget)
    assert kept.summary["cached_prefix"]
    # The first view is kept already, as are the validation images.
    assert len(passes) == VIEWS - 1
    assert np.abs(trained(plain) - trained(one)).max() > 1e-3
    np.testing.assert_allclose(trained(plain), trained(kept), rtol=0, atol=1e-5)
    passes.clear()
    longer = run(tiny_data, tmp_path / "longer", VIEWS, epochs=2 * VIEWS)
    assert passes == []
    assert longer.summary["features_reused"]


@pytest.mark.parametrize(
    "options",
    [
        {"mask": "last_stage"},
        # Two cuts: the views of the first end with its phase.
        {"phases": "2,head_only;4,last_stage", "epochs": None},
    ],
    ids=["last_stage", "phases"],
)
def test_views_without_room_are_the_same_draws(tiny_data, tmp_path, passes, monkeypatch, options):
    options = {"epochs": 2 * VIEWS, **options}
    kept = run(tiny_data, tmp_path / "kept", VIEWS, **options)
    assert kept.summary["cached_prefix"]
    assert passes
    passes.clear()
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "another"))
    monkeypatch.setenv(sizes.LIMIT, "1kB")
    without = run(tiny_data, tmp_path / "without", VIEWS, budget="1kB", **options)
    assert not without.summary["cached_prefix"]
    assert passes == []
    at_end = trained(kept)
    np.testing.assert_allclose(trained(without), at_end, rtol=0, atol=1e-5)
    # Every epoch with a draw of its own would be another training.
    endless = run(tiny_data, tmp_path / "endless", None, **options)
    assert np.abs(trained(endless) - at_end).max() > 1e-3


def test_a_resumed_run_goes_on_with_its_views(tiny_data, tmp_path, passes, monkeypatch):
    whole = run(tiny_data, tmp_path / "whole", 2, epochs=5)
    folder = tmp_path / "resumed"
    tiny.fit_until(3, configured(tiny_data, folder, 2, epochs=5, batch_size=6), monkeypatch)
    passes.clear()
    resumed = fit(tiny.resumed(folder), tiny.quiet())
    assert passes == []
    assert [line["epoch"] for line in tiny.lines_of(resumed)] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(trained(resumed), trained(whole))


def test_dry_run_counts_every_view(tiny_data, passes):
    def needed(views: int) -> int:
        setup = prepare_setup(checked(configured(tiny_data, None, views)), tiny.quiet())
        return dry_run(setup)["cache_bytes"]

    row = 16 * 4
    assert needed(3) - needed(1) == 2 * 18 * row
    assert needed(1) == 27 * row
    assert passes == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Config(data=DataConfig(cache_views=4)), r"^--cache-views 4 has no effect without aug"),
        (Config(data=DataConfig(cache_views=0), augment=PART), r"^--cache-views must be"),
        (
            Config(data=DataConfig(cache_views=4), augment=AugmentConfig("strong")),
            r"--mixup and --cutmix mix each image with.*Add --mixup 0 --cutmix 0, or",
        ),
        (
            Config(data=DataConfig(cache_views=4), augment=PART, run=RunConfig(cache_budget="0")),
            r"--cache-budget 0 turns the cache off",
        ),
    ],
)
def test_refusals(bad, message):
    with pytest.raises(UserError, match=message):
        checked(bad)
