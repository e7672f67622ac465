"""What `auto` comes to, and what a fine-tuning is held against."""

from __future__ import annotations

import dataclasses
import io
import json
import types
from typing import Any

import jax
import numpy as np
import optax
import pytest
from rich.console import Console

from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.config import walk
from jtl.config.options import Config
from jtl.optim import optimizers
from jtl.runs import console_text, report_contents
from jtl.runs.checkpoints import reading
from jtl.train.automatic import augmented, chosen, mismatch
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import head_fits, prepare_setup
from support import tiny


def of(**options: Any) -> Config:
    return walk.replace(Config(), options)


def solver(**options: Any) -> str:
    return chosen(of(**options), tiny.variables()).train.solver


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"head": "append"},
        {"weights": "random"},
        {"l2": "0.1"},
        {"class_weights": "balanced"},
        {"bn": "frozen"},
        {"metric": "macro_f1"},
        {"seed": 3, "split_seed": 1, "image_size": 64, "cache_budget": "1GB"},
    ],
)
def test_a_linear_head_alone_is_fitted_to_the_optimum(options: dict[str, Any]):
    assert solver(**options) == "lbfgs"


@pytest.mark.parametrize(
    "options",
    [
        {"mask": "last_stage"},
        {"phases": "lp_ft"},
        {"head": "mlp"},
        {"head": "bn,dense:16"},
        {"bn": "train"},
        {"epochs": 3},
        {"batch_size": 16},
        {"optimizer": "sgd"},
        {"label_smoothing": 0.1},
        {"ema": 0.9},
        {"augment": "light"},
        {"flip": "horizontal"},
        {"find_lr": True},
        {"profile": True},
    ],
)
def test_whoever_asks_for_steps_gets_steps(options: dict[str, Any]):
    assert solver(**options) == "sgd"


def test_features_that_do_not_fit_in_memory_take_steps():
    assert chosen(Config(), tiny.variables(), in_memory=False).train.solver == "sgd"


@pytest.mark.parametrize(
    ("classes", "images", "budget", "fits"),
    [
        (10, 5_000, "100MB", True),
        (10, 50_000, "100MB", False),
        # Features of 120 MB, but 2,000 MB of what is computed of each image and class.
        (5_000, 10_000, "1GB", False),
        (5_000, 10_000, "4GB", True),
        (20_000, 10_000, "4GB", False),
    ],
)
def test_a_head_of_thousands_of_classes_needs_memory(
    classes: int, images: int, budget: str, fits: bool
):
    kernel = jax.ShapeDtypeStruct((1_000, classes), np.float32)
    variables: Any = {"params": {"head": {"logits": {"kernel": kernel}}}}
    data: Any = types.SimpleNamespace(train=range(images * 4 // 5), val=range(images // 5))
    assert head_fits(of(cache_budget=budget), variables, data) is fits


def test_what_was_given_stays():
    config = of(solver="sgd", bn="train", mask="full")
    assert chosen(config, tiny.variables()) == config


def test_a_penalty_without_a_probe_is_refused():
    with pytest.raises(
        UserError, match=r"^--l2 has no effect when the head is trained step by step"
    ):
        chosen(of(l2="0.1", epochs=3), tiny.variables())


def test_pretrained_blocks_keep_their_running_averages_and_random_ones_do_not():
    variables = tiny.variables()
    assert chosen(of(mask="full"), variables).train.bn == "frozen"
    assert chosen(of(mask="full", weights="random"), variables).train.bn == "batch"
    # Without BatchNorm there is nothing to freeze, and what else train mode has stays on.
    without = {"params": variables["params"], "batch_stats": {"head": {}}}
    assert chosen(of(mask="full"), without).train.bn == "batch"


def trained(tiny_data, run_dir, **options: Any) -> tuple[Any, str]:
    text = io.StringIO()
    run = fit(tiny.config(tiny_data, run_dir, **options), Display(Console(file=text, width=300)))
    return run, text.getvalue()


@pytest.mark.usefixtures("real_probe")
def test_a_fine_tuning_says_what_it_does_and_what_it_bought(tiny_data, tmp_path):
    run, said = trained(tiny_data, tmp_path / "run", mask="full")
    assert (
        "Normalization layers (BatchNorm) keep the averages of the pretrained weights, which"
        in said
    )
    stored = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    assert (stored["train"]["bn"], stored["train"]["solver"]) == ("frozen", "sgd")
    # Every param of the backbone moved, and no running average.
    after, before = reading.restore(run.folder).variables, tiny.variables()
    for kind, same in (("params", False), ("batch_stats", True)):
        backbone = [
            {k: v for k, v in tree[kind].items() if k != "head"} for tree in (after, before)
        ]
        equal = jax.tree.leaves(jax.tree.map(np.array_equal, *backbone))
        assert equal == [same] * len(equal)
    # The probe is that of `head_only`, which is fitted without a step.
    probe, _ = trained(
        tiny_data, tmp_path / "probe", epochs=None, lr=None, batch_size=32, mask="head_only"
    )
    assert run.summary["probe_val_accuracy"] == pytest.approx(probe.summary["val_accuracy"])
    assert run.summary["probe_test_accuracy"] is None
    assert probe.summary["probe_val_accuracy"] is None
    assert f"{run.summary['probe_val_accuracy']:.3f} with a linear probe" in said
    assert (
        "with a linear probe (only the classifier is trained"
        in (run.folder / "report.md").read_text()
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"mask": "full"}, "crops"),
        ({"mask": "full", "flip": "horizontal"}, "crops"),
        ({"mask": "full", "augment": "none"}, "none"),
        ({"mask": "full", "augment": "light"}, "light"),
        ({"mask": "full", "weights": "random"}, "none"),
        # What is cached would not be any more.
        ({}, "none"),
        ({"mask": "last_stages:2"}, "none"),
        ({"phases": "lp_ft"}, "none"),
    ],
)
def test_crops_are_for_those_who_fine_tune_every_layer(options: dict[str, Any], expected: str):
    config = augmented(of(**options))
    assert config.augment.augment == expected
    # The command that repeats it holds what was given, and not what follows from it.
    told = options.get("augment", options.get("flip", "auto")) != "auto"
    assert (
        any(word in ("--augment", "--flip") for word in report_contents.arguments(config)) == told
    )


def test_crops_are_told_and_kept_with_the_run(tiny_data, tmp_path):
    run, said = trained(tiny_data, tmp_path / "run", mask="full", augment="auto")
    assert "cropped at random (--augment crops), because every layer is trained" in said
    stored = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    assert stored["augment"]["augment"] == "crops"
    assert run.summary["augmentation"] == "random crops of at least 35 % of the area"
    # What was asked for needs no explanation.
    _, said = trained(tiny_data, tmp_path / "asked", mask="full", augment="crops")
    assert "because every layer is trained" not in said


def test_runs_from_before_there_was_augmentation_have_none():
    areas = of(mask="full").to_dict()
    del areas["augment"]
    assert augmented(Config.from_dict(areas)).augment.augment == "none"


@pytest.mark.slow
def test_batch_statistics_and_frozen_ones_give_other_models(tiny_data, tmp_path):
    runs = [trained(tiny_data, tmp_path / bn, mask="full", bn=bn)[0] for bn in ("frozen", "batch")]
    losses = [[line["train_loss"] for line in run.history] for run in runs]
    assert losses[0][0] != losses[1][0]


def test_a_worse_fine_tuning_says_so_and_what_to_try():
    summary = {"mask": "full", "val_accuracy": 0.7, "test_accuracy": None}
    summary |= {"probe_val_accuracy": 0.75, "probe_test_accuracy": None}
    summary |= {"val_classes": {"ash": {"count": 600}, "birch": {"count": 400}}}
    said = console_text.probe_note(summary)
    assert said is not None
    assert said.startswith("Fine-tuning lost 5.0 percentage points: validation accuracy is 0.700 ")
    assert "with mask full and 0.750 with a linear probe" in said
    assert "--lr" in said
    better = {**summary, "test_accuracy": 0.8, "probe_test_accuracy": 0.75}
    better["test_classes"] = summary["val_classes"]
    assert (console_text.probe_note(better) or "").startswith(
        "Fine-tuning gained 5.0 percentage points: test accuracy is 0.800 with mask full and 0.750"
    )
    assert console_text.probe_note({**summary, "probe_val_accuracy": None}) is None
    # Five points of a hundred images are less than two standard errors, either way.
    few = {**summary, "val_classes": {"ash": {"count": 60}, "birch": {"count": 40}}}
    for accuracy in (0.7, 0.8):
        assert "A difference of 5 images of 100 is within chance" in (
            console_text.probe_note({**few, "val_accuracy": accuracy}) or ""
        )


@pytest.mark.slow
def test_a_run_of_before_goes_on_with_batch_statistics(tiny_data, tmp_path, monkeypatch):
    """`auto` in a run's config.json is of the time when it meant what `batch` does."""
    config = tiny.config(tiny_data, tmp_path / "whole", mask="full", bn="batch", epochs=3)
    whole = fit(config, tiny.quiet())
    cut = dataclasses.replace(config, run=dataclasses.replace(config.run, run_dir=tmp_path / "cut"))
    tiny.fit_until(1, cut, monkeypatch)
    path = tmp_path / "cut" / "config.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"bn": "batch"', '"bn": "auto"'))
    resumed = fit(tiny.resumed(tmp_path / "cut"), tiny.quiet())
    assert resumed.history[-1]["train_loss"] == whole.history[-1]["train_loss"]


def test_batch_statistics_that_do_not_fit_are_told(tiny_data, tmp_path):
    line = {"train_accuracy": 0.95, "val_accuracy": 0.6}
    config = checked(tiny.config(tiny_data, tmp_path / "x", mask="last_stage", bn="batch"))
    setup = prepare_setup(config, tiny.quiet())
    [plan] = setup.plans
    said = mismatch(setup, plan, line)
    assert said is not None
    assert "(with the statistics of each batch) is 0.950, but validation accuracy" in said
    assert "--bn frozen" in said
    assert mismatch(setup, plan, {**line, "val_accuracy": 0.9}) is None
    # Nobody warns of what is not on: running averages in the backbone, or weights without them.
    frozen = prepare_setup(checked(walk.replace(config, {"bn": "frozen"})), tiny.quiet())
    assert mismatch(frozen, frozen.plans[0], line) is None
    random = prepare_setup(checked(walk.replace(config, {"weights": "random"})), tiny.quiet())
    assert mismatch(random, random.plans[0], line) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_run_whose_biases_decayed_goes_on(tiny_data, tmp_path, monkeypatch, name):
    """Its optimizer's state is that of before weight decay was for kernels alone."""
    config = tiny.config(tiny_data, tmp_path / "cut", mask="full", epochs=3, optimizer=name)

    def before(name: Any, rate: Any, decay: float, momentum: float = 0.9) -> Any:
        if name == "adamw":
            return optax.adamw(rate, weight_decay=decay)
        sgd = optax.sgd(rate, momentum=momentum, nesterov=True)
        return optax.chain(optax.add_decayed_weights(decay), sgd)

    with monkeypatch.context() as patch:
        patch.setattr(optimizers, "transform", before)
        tiny.fit_until(1, config, patch)
    assert len(fit(tiny.resumed(tmp_path / "cut"), tiny.quiet()).history) == 3
