"""Options: defaults by mask, refusals, and the way to JSON and back."""

from __future__ import annotations

import json
import typing
from pathlib import Path

import pytest

from jtl.cleaning import command as clean
from jtl.cli import app
from jtl.common.errors import UserError
from jtl.config import walk
from jtl.config.data import with_scheme
from jtl.config.defaults import mask_defaults
from jtl.config.options import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jtl.data import command as check
from jtl.evaluate import command as evaluate
from jtl.models import HeadSpec, heads
from jtl.train.checks import checked


def config(**train) -> Config:
    return Config(train=TrainConfig(**train))


@pytest.mark.parametrize(("mask", "epochs", "lr"), [("head_only", 20, 1e-3), ("full", 10, 1e-4)])
def test_defaults_by_mask(mask, epochs, lr):
    defaults = mask_defaults(mask)
    assert (defaults.epochs, defaults.lr) == (epochs, lr)


def test_resolving_twice_changes_nothing():
    resolved = checked(Config())
    assert checked(resolved) == resolved
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
        (
            Config(ModelConfig("inception_v3"), DataConfig(image_size=64)),
            r"^--image-size must be at least 75 for inception_v3, not 64\.$",
        ),
        (
            Config(ModelConfig("inception_v3", aux_head=True), DataConfig(image_size=96)),
            r"^--image-size must be at least 299 for inception_v3 with --aux-head, not 96\.$",
        ),
        (
            Config(ModelConfig("resnet18", aux_head=True)),
            r"^--aux-head: only inception_v3 has an auxiliary head, resnet18 does not\.",
        ),
        (config(mask="heads_only"), r"^unknown mask 'heads_only'\. Did you mean 'head_only'\?"),
        (config(mask=""), r"^unknown mask ''"),
        (config(epochs=0), r"^--epochs must be at least 1, not 0\.$"),
        (config(batch_size=0), r"^--batch-size must be at least 1, not 0\.$"),
        (config(batch_size=-3), r"^--batch-size must be at least 1, not -3\.$"),
        (config(batch_size="big"), r"^--batch-size must be a whole number or auto, not 'big'\.$"),
        (
            config(bn="frzen"),
            r"^--bn must be one of auto, .* not 'frzen'\. Did you mean 'frozen'\?$",
        ),
        (config(lr="fast"), r"^--lr must be a number, not 'fast'\.$"),
        (config(patience=None), r"^--patience must be a whole number, not None\.$"),
        (
            Config(ModelConfig(head="mlp", head_widths=typing.cast(typing.Any, (8, "wide")))),
            r"^--head-widths must be a whole number, not 'wide'\.$",
        ),
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
        (
            Config(data=DataConfig(image_size=4097)),
            r"^--image-size must be from 32 to 4096, not 4097\.$",
        ),
        (config(seed=2**31), r"^--seed must be from 0 to 2147483647, not 2147483648\.$"),
        (config(epochs=10**7), r"^--epochs must be from 1 to 1000000, not 10000000\.$"),
        (
            Config(ModelConfig(head="mlp", head_widths=(8, 65537))),
            r"^--head-widths must be from 1 to 65536, not 65537\.$",
        ),
        (
            Config(ModelConfig(head="mlp", head_dropout=1.0)),
            r"^--head-dropout must be at least 0 and below 1, not 1\.0\.$",
        ),
        (
            Config(ModelConfig(head="dense:65537")),
            r"'dense:65537' is not a layer of a head\. Allowed",
        ),
        (
            Config(ModelConfig(head="mpl")),
            r"'mpl' is not a layer of a head\. Did you mean 'mlp'\? Allowed: linear, mlp, append, "
            r"conv, or a comma-separated list of: dense:WIDTH ",
        ),
        (
            Config(
                ModelConfig(head="mlp", head_widths=(8,), head_batch_norm=True),
                train=TrainConfig(batch_size=1),
            ),
            r"^--head-batch-norm normalizes over the images of a batch, so --batch-size 1 ",
        ),
        (
            Config(ModelConfig(head_widths=(8,), head_dropout=0.1, head_batch_norm=True)),
            r"^--head-widths, --head-dropout, --head-batch-norm: no effect with --head linear; .* "
            r"--head mlp\.",
        ),
        (
            config(solver="sgd", l2="0.1"),
            r"^--l2: no effect with --solver sgd, only with --solver lbfgs\.",
        ),
        (
            config(solver="lbfgs", l2="nan"),
            r"^--l2 must be auto, or a number that is 0 or larger, not 'nan'",
        ),
        (
            config(solver="lbfgs", lr=1.0, weight_decay=0.1, patience=3),
            r"^--lr, --weight-decay, --patience: no effect with --solver lbfgs",
        ),
        (config(solver="lbfgs", epochs=3), r"^--epochs: no effect with --solver lbfgs"),
        (
            config(solver="lbfgs", bn="train"),
            r"^--solver lbfgs fits the head on fixed features, but --bn train",
        ),
    ],
)
def test_refusals(bad, message):
    with pytest.raises(UserError, match=message):
        checked(bad)


def test_the_limits_themselves_are_allowed():
    upper = Config(
        ModelConfig(head="mlp", head_widths=(65536,), head_dropout=0.99),
        DataConfig(image_size=4096),
        TrainConfig(epochs=10**6, seed=2**31 - 1),
    )
    assert checked(upper) == upper
    convex = config(solver="lbfgs", l2="0.1", bn="frozen")
    assert checked(convex) == convex
    limits = Config(
        data=DataConfig(image_size=32),
        train=TrainConfig(epochs=1, batch_size=1, patience=0, seed=0, weight_decay=0.0, lr=1e-30),
    )
    assert checked(limits) == limits


@pytest.mark.parametrize(
    "original",
    [
        Config(),
        checked(Config()),
        Config(
            ModelConfig("resnet50", "random", head_pool="max", dtype="bfloat16"),
            DataConfig("folder:images/ä b", image_size=64),
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
    assert heads.from_options(ModelConfig(head_pool="max")) == HeadSpec(pool="max")


@pytest.mark.parametrize(
    "words",
    [
        ["--head-widths", "1024,512"],
        ["--head-widths", "1024", "512"],
        ["--head-widths=1024,512"],
        ["--head_widths", "1024,", "512"],
    ],
)
def test_widths_are_given_with_commas_or_spaces(words):
    seen = []
    args = ["--head", "mlp", *words, "--epochs", "3"]
    assert app.main(Config, seen.append, prog="train", args=args) == 0
    [config] = seen
    assert config.model.head_widths == (1024, 512)
    assert config.train.epochs == 3


@pytest.mark.parametrize("penalty", ["nan", "inf", "-1", "much"])
def test_a_penalty_is_a_number_from_0_on(penalty):
    options = TrainConfig(solver="lbfgs", l2=penalty)
    with pytest.raises(UserError, match="--l2 must be auto, or a number that is 0 or larger"):
        checked(Config(train=options))


def test_a_plain_path_is_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-images").mkdir()
    (tmp_path / "digits").mkdir()
    for given, source in {
        "my-images": "folder:my-images",
        "my-images/": "folder:my-images/",
        "x/arrays.npz": "npz:x/arrays.npz",
        "data/*.parquet": "parquet:data/*.parquet",
        "folder:my-images": "folder:my-images",
        "tfds:cifar10": "tfds:cifar10",
        "digits": "digits",
        "nowhere": "nowhere",
    }.items():
        assert with_scheme(given) == source
        assert Config(data=DataConfig(data=given)).noting(()).data.data == source


def test_commands_explain_the_options_of_a_source_in_the_same_words():
    trained = walk.options(DataConfig)
    kinds = {check.Options: None, clean.Options: None, evaluate.Options: "Default: as in training."}
    for kind, default in kinds.items():
        shared = {name: option for name, option in walk.options(kind).items() if name in trained}
        assert {"classes", "split_lists", "image_root", "label_from"} <= set(shared)
        for name in set(shared) - {"data", "on_bad_image"}:
            first = trained[name].help.partition(" Default:")[0]
            assert shared[name].help.startswith(first)
            assert default is None or shared[name].help == f"{first} {default}"
