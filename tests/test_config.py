"""Options: defaults by mask, refusals, and the way to JSON and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jtl.config import (
    Config,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    mask_defaults,
    resolve,
)
from jtl.errors import UserError
from jtl.models import HeadSpec


def config(**train) -> Config:
    return Config(train=TrainConfig(**train))


@pytest.mark.parametrize(("mask", "epochs", "lr"), [("head_only", 100, 3e-3), ("full", 10, 1e-4)])
def test_defaults_by_mask(mask, epochs, lr):
    defaults = mask_defaults(mask)
    assert (defaults.epochs, defaults.lr) == (epochs, lr)


def test_resolving_twice_changes_nothing():
    resolved = resolve(Config())
    assert resolve(resolved) == resolved
    assert (resolved.model, resolved.data, resolved.run) == (
        Config().model,
        Config().data,
        Config().run,
    )


def test_the_documented_default():
    model, data, train = Config().model, Config().data, Config().train
    assert (model.model, model.weights, data.data, train.mask) == (
        "efficientnet_lite0",
        "default",
        "digits",
        "head_only",
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            Config(ModelConfig(model="resnet5")),
            r"^unknown model 'resnet5'\. Did you mean 'resnet50'\? The models are: resnet18, ",
        ),
        (config(mask="heads_only"), r"^unknown mask 'heads_only'\. Did you mean 'head_only'\?"),
        (config(mask=""), r"^unknown mask ''"),
        (config(epochs=0), r"^--epochs must be at least 1, not 0\.$"),
        (config(batch_size=0), r"^--batch-size must be at least 1, not 0\.$"),
        (config(batch_size=-3), r"^--batch-size must be at least 1, not -3\.$"),
        (config(patience=-1), r"^--patience must be at least 0, not -1\.$"),
        (config(seed=-1), r"^--seed must be at least 0, not -1\.$"),
        (config(weight_decay=-0.1), r"^--weight-decay must be at least 0, not -0\.1\.$"),
        (config(weight_decay=float("nan")), r"^--weight-decay must be at least 0, not nan\.$"),
        (config(weight_decay=float("inf")), r"^--weight-decay must be at least 0, not inf\.$"),
        (config(lr=0.0), r"^--lr must be a positive number, not 0\.0\.$"),
        (config(lr=-1e-3), r"^--lr must be a positive number, not -0\.001\.$"),
        (config(lr=float("nan")), r"^--lr must be a positive number, not nan\.$"),
        (config(lr=float("inf")), r"^--lr must be a positive number, not inf\.$"),
        (
            Config(data=DataConfig(image_size=31)),
            r"^--image-size must be at least 32, not 31\.$",
        ),
    ],
)
def test_refusals(bad, message):
    with pytest.raises(UserError, match=message):
        resolve(bad)


def test_the_limits_themselves_are_allowed():
    limits = Config(
        data=DataConfig(image_size=32),
        train=TrainConfig(epochs=1, batch_size=1, patience=0, seed=0, weight_decay=0.0, lr=1e-30),
    )
    assert resolve(limits) == limits


@pytest.mark.parametrize(
    "original",
    [
        Config(),
        resolve(Config()),
        Config(
            ModelConfig("resnet50", "random", head_pool="max", dtype="bfloat16"),
            DataConfig("folder:pictures/ä b", 64),
            TrainConfig(
                mask="full",
                epochs=3,
                batch_size=8,
                lr=0.1,
                optimizer="sgd",
                weight_decay=0.01,
                schedule="constant",
                patience=5,
                seed=7,
            ),
            RunConfig(run_dir=Path("runs/one"), json=True),
        ),
    ],
)
def test_json_and_back(original):
    groups = json.loads(json.dumps(original.to_dict()))
    assert Config.from_dict(groups) == original
    # A run's file holds more than the options.
    assert Config.from_dict({**groups, "class_names": ["a"]}) == original


def test_reading_back_changes_nothing_of_what_it_reads():
    groups = Config(run=RunConfig(Path("x"))).to_dict()
    Config.from_dict(groups)
    assert groups["run"]["run_dir"] == "x"


def test_head():
    assert Config(ModelConfig(head_pool="max")).head() == HeadSpec(pool="max")
