"""What trials are counted to compute."""

from __future__ import annotations

import pytest

from jtl.config import walk
from jtl.config.options import Config
from jtl.search.workload import Workload
from jtl.train.checks import checked
from jtl.train.setup import prepare_setup
from support import tiny


@pytest.fixture
def workload(tiny_data):
    values = {
        "data": f"folder:{tiny_data}",
        "model": "tiny",
        "weights": str(tiny_data.parent / "weights"),
        "image_size": 32,
    }
    base = walk.create(Config, values)
    setup = prepare_setup(checked(walk.replace(base, {"mask": "head_only"})), tiny.quiet())
    return Workload(setup, base)


def test_features_are_computed_once(workload):
    probe = {"mask": "head_only"}
    work, epochs = workload.of(probe)
    assert (work.epoch, epochs) == (0, 0)
    assert work.features > 0
    workload.trained(probe)
    assert workload.of({**probe, "class_weights": "balanced"})[0].features == 0
    assert workload.of(probe, alone=True)[0] == work
    # At another size they are others, in proportion to the pixels.
    assert workload.of({**probe, "image_size": 64})[0].features == pytest.approx(4 * work.features)
    # Those of a later cut, too.
    assert 0 < workload.of({"mask": "last_stage"})[0].features < work.features


def test_steps_begin_where_features_end(workload):
    frozen, epochs = workload.of({"mask": "last_stage"})
    assert epochs == 10
    assert frozen.cached
    assert 0 < frozen.share < 1
    full, _ = workload.of({"mask": "full", "epochs": 3})
    # It is cropped at random by default, so that nothing can be cached.
    assert (full.features, full.cached, full.share) == (0, False, 1.0)
    assert full.epoch > 2 * frozen.epoch
    augmented, _ = workload.of({"mask": "last_stage", "augment": "light"})
    assert not augmented.cached
    assert augmented.epoch > frozen.epoch
    views, _ = workload.of({"mask": "last_stage", "augment": "light", "cache_views": 4})
    assert views.cached
    # 18 training images four times, 9 validation images once.
    assert views.features == pytest.approx(frozen.features * (4 * 18 + 9) / 27)


def test_trials_that_differ_in_their_rates_share_a_program(workload):
    one, two, three = (
        workload.of({"mask": "full", "epochs": 3, **more})[0].program
        for more in ({"lr": 0.1}, {"lr": 0.2}, {"lr": 0.1, "weight_decay": 0.1})
    )
    assert one == two != three
