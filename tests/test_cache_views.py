"""Random views of the training pictures whose features are kept (`--cache-views`)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tiny

from jtl import checkpoint, features
from jtl.config import AugmentConfig, Config, DataConfig, RunConfig
from jtl.errors import UserError
from jtl.loop import fit
from jtl.validation import resolve

VIEWS = 3
PART = AugmentConfig("light", color_jitter="0.4", erasing=0.5)


def run(data, folder, views, epochs=VIEWS, **options):
    config = tiny.config(data, folder, mask="head_only", epochs=epochs, batch_size=6)
    return fit(
        dataclasses.replace(
            config,
            augment=PART,
            data=dataclasses.replace(config.data, cache_views=views),
            run=dataclasses.replace(config.run, **options),
        ),
        tiny.quiet(),
    )


def kernel(result):
    return checkpoint.restore(result.folder, "latest").variables["params"]["head"]["logits"][
        "kernel"
    ]


@pytest.mark.parametrize("budget", [None, "1kB"])
def test_views_train_as_augmentation_does(tiny_data, tmp_path, monkeypatch, budget):
    monkeypatch.setenv("JTL_CACHE", str(tmp_path / "cache"))
    passes = []
    forward = features.forward

    def counted(*args, **kwargs):
        if kwargs.get("start") is None:
            passes.append(args[1].shape)
        return forward(*args, **kwargs)

    monkeypatch.setattr(features, "forward", counted)
    plain = run(tiny_data, tmp_path / "plain", None)
    assert not plain.summary["cached_prefix"]
    one = run(tiny_data, tmp_path / "one", 1)
    passes.clear()
    kept = run(tiny_data, tmp_path / "kept", VIEWS, cache_budget=budget)
    assert kept.summary["cached_prefix"]
    # The first view is kept already, as are the validation pictures.
    assert len(passes) == VIEWS - 1
    assert np.abs(kernel(plain) - kernel(one)).max() > 1e-3
    np.testing.assert_allclose(kernel(plain), kernel(kept), rtol=0, atol=1e-5)
    passes.clear()
    longer = run(tiny_data, tmp_path / "longer", VIEWS, epochs=2 * VIEWS)
    assert passes == []
    assert longer.summary["features_reused"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Config(data=DataConfig(cache_views=4)), r"^--cache-views 4 has no effect without aug"),
        (Config(data=DataConfig(cache_views=0), augment=PART), r"^--cache-views must be"),
        (
            Config(data=DataConfig(cache_views=4), augment=AugmentConfig("strong")),
            r"--mixup and --cutmix mix each with.*Add --mixup 0 --cutmix 0, or",
        ),
        (
            Config(data=DataConfig(cache_views=4), augment=PART, run=RunConfig(cache_budget="0")),
            r"--cache-budget 0 keeps none",
        ),
    ],
)
def test_refusals(bad, message):
    with pytest.raises(UserError, match=message):
        resolve(bad)
