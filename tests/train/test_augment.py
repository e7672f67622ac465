"""Augmentation in a run: the step, resuming, what is not augmented, options, the sheet."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from jtl.cli import app
from jtl.common.errors import UserError
from jtl.config.options import AugmentConfig, Config, RunConfig, TrainConfig
from jtl.data import input_plan, loader, sampler
from jtl.data.augment import PRESETS, Augment, Augmentation
from jtl.data.decoding import HostTransform
from jtl.models.inference import forward
from jtl.runs.checkpoints import reading
from jtl.train import preview, step
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import prepare_setup
from jtl.train.step import StepMetrics
from support import commands, tiny
from support.augmented import STRONG, augmented, figures, step_arguments

pytestmark = pytest.mark.slow

# The step


def taken(state, frozen, static, *batch) -> Any:
    return step.TrainStep(**static)(state, step.Constants(**frozen), step.Batch(*batch))


@pytest.mark.parametrize("preset", ["light", "strong"])
def test_the_step_is_that_of_augmented_images(preset):
    images, labels, examples = tiny.images(8), tiny.labels(8), np.arange(20, 28)
    augment = Augmentation(PRESETS[preset], tiny.PREPARE, len(tiny.CLASSES))
    state, frozen, static = step_arguments(augment)
    x, targets = jax.jit(augment)(state.rng, images, labels, examples, 3, state.step)
    logits, _ = tiny.MODEL.apply(
        tiny.variables(), x, train=static["train_units"], mutable=["batch_stats"]
    )
    after, metrics = taken(state, frozen, static, images, labels, examples, 3)
    shares = jax.nn.one_hot(targets, 3) if targets.ndim == 1 else targets
    assert (targets.ndim == 2) == (preset == "strong")
    losses = -(shares * jax.nn.log_softmax(logits)).sum(1)
    np.testing.assert_allclose(metrics.loss, losses.sum(), rtol=1e-5)
    hits = np.argmax(logits, 1) == np.argmax(shares, 1)  # Of mixed images the dominant label.
    assert int(metrics.correct) == hits.sum()
    # Another epoch, another step of the optimizer.
    state, frozen, _ = step_arguments(augment)
    other, _ = taken(state, frozen, static, images, labels, examples, 4)
    same = jax.tree.map(np.array_equal, after.params, other.params)
    assert not any(jax.tree.leaves(same))


def test_an_epoch_goes_on_where_it_was_left():
    """Images, their order and what is drawn of them: all from seed, epoch and step."""
    split, batches = tiny.array_split(19), sampler.shuffled(19, 4, seed=5, epoch=2)
    augment = Augmentation(PRESETS["strong"], tiny.PREPARE, len(tiny.CLASSES))

    def go_on(state, first: int, last: int) -> Any:
        photos = loader.Images(split, None, hold=False)
        rest = batches[first:last]
        for images, rows in zip(loader.prefetch(photos, list(rest)), rest, strict=True):
            labels = split.labels[rows]
            state, _ = taken(state, frozen, static, images, labels, rows, 2)
        return state

    state, frozen, static = step_arguments(augment)
    whole = go_on(state, 0, 4)
    state, frozen, static = step_arguments(augment)
    left = go_on(state, 0, 2)
    # As through a checkpoint: numbers alone.
    saved = jax.device_get(left.replace(rng=None))
    went_on = go_on(jax.device_put(saved).replace(rng=jax.random.key(5)), 2, 4)
    assert int(went_on.step) == int(whole.step) == 4
    jax.tree.map(np.testing.assert_array_equal, went_on.replace(rng=None), whole.replace(rng=None))
    other = go_on(jax.device_put(saved).replace(rng=jax.random.key(5)), 0, 2)
    same = jax.tree.map(np.array_equal, other.params, whole.params)
    assert not all(jax.tree.leaves(same))


# Runs


@pytest.fixture(scope="module")
def whole(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return fit(augmented(tiny_data, folder, mask="last_stage", epochs=4), tiny.quiet())


def test_the_prefix_is_not_kept_and_frozen_leaves_stay(whole):
    assert whole.summary["cut"] == "stage2/block1"
    assert not whole.summary["cached_prefix"]
    assert whole.summary["frozen_unchanged"]
    assert whole.summary["frozen_leaves"] > 0
    assert whole.summary["augmentation"] == (
        "random crops of at least 35 % of the area, horizontal flip, TrivialAugment, erasing 0.1, "
        "mixup 0.2, cutmix 1"
    )


def test_why_nothing_is_kept_is_said_once(tiny_data, tmp_path):
    display = tiny.quiet()
    fit(augmented(tiny_data, tmp_path / "run"), display)
    shown: Any = display.console.file
    told = shown.getvalue().replace("\n", " ")
    assert told.count("every step runs the whole network") == 1
    assert "; augmentation: random crops of at least 35 % of the area, horizontal flip" in told


def test_a_resumed_run_ends_as_the_whole_one(whole, tiny_data, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    config = augmented(tiny_data, folder, mask="last_stage", epochs=4)
    tiny.fit_until(2, config, monkeypatch)
    resumed = fit(tiny.resumed(folder), tiny.quiet())
    assert figures(resumed) == figures(whole)
    end, expected = (reading.restore(run.folder, "latest").variables for run in (resumed, whole))
    jax.tree.map(np.testing.assert_array_equal, end, expected)


def test_a_resumed_run_refuses_another_augmentation(whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in whole.folder.iterdir():
        if path.name != "summary.json":
            (folder / path.name).symlink_to(path)
    asked = dataclasses.replace(tiny.resumed(folder), augment=AugmentConfig("light", mixup=0.1))
    with pytest.raises(UserError, match=r"--augment light \(the run has strong\)\n  --mixup 0\.1 "):
        fit(asked, tiny.quiet())


def test_validation_images_are_not_augmented(whole, capsys):
    assert commands.main("evaluate", whole.folder, "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    for key in ("val_accuracy", "val_loss"):
        assert scores[key] == pytest.approx(whole.summary[key], rel=1e-6)


# Images for crops


def plan(native, options: Augment) -> input_plan.InputPlan:
    inputs = input_plan.plan_input(native, None, dataclasses.replace(tiny.PREPROCESSING, size=224))
    augmentation = Augmentation(options, inputs.device, 2)
    return dataclasses.replace(inputs, augmentation=augmentation)


def test_crops_are_cut_from_larger_images():
    crops = plan(None, PRESETS["light"])
    assert crops.host_for(None, training=True) == HostTransform(280, 1.0, "bicubic")
    assert crops.bytes_per_image(None, training=True) == 280 * 280 * 3
    assert crops.host_for(None) == crops.host  # As evaluation sees them.
    assert plan(None, Augment(flip="both")).host_for(None, training=True) == crops.host
    small = plan((32, 32), PRESETS["light"])
    assert small.host_for((32, 32), training=True) is None


def test_a_run_hands_larger_images_and_their_numbers_to_training_alone(
    tiny_model, tmp_path, monkeypatch
):
    tiny.write_weights(tmp_path / "weights")
    data = tiny.write_folder(tmp_path / "large", train=3, val=2, size=3 * tiny.SIZE)
    config = augmented(data, tmp_path / "run", mask="full", epochs=2)
    shapes, drawn_by, forwards = [], [], []

    def seen(state, constants, batch, *, step):
        shapes.append(batch.x.shape)
        drawn_by.append((batch.examples.tolist(), int(batch.epoch)))
        return state, jax.device_put(StepMetrics.zero())

    monkeypatch.setattr(step, "train_step", seen)
    monkeypatch.setattr(
        "jtl.cache.extraction.forward",
        lambda v, x, **o: forwards.append(x.shape) or forward(v, x, **o),
    )
    fit(config, tiny.quiet())
    assert set(shapes) == {(4, 10, 10, 3)}
    order = [(i, epoch) for epoch in (1, 2) for i in sampler.shuffled(9, 4, 0, epoch).tolist()]
    assert drawn_by == order
    assert {shape[1:] for shape in forwards} == {(8, 8, 3)}


# The sheet


def test_the_sheet_shows_what_the_first_step_gets(tiny_data, tmp_path, monkeypatch):
    path = tmp_path / "sheet.PNG"
    config = augmented(tiny_data, tmp_path / "run", mask="full", epochs=1)
    config = dataclasses.replace(config, run=dataclasses.replace(config.run, show_batch=path))
    batches = []

    def seen(state, constants, batch, *, step):
        augment, given = jax.jit(step.augment), (batch.x, batch.labels, batch.examples, batch.epoch)
        batches.append(augment(state.rng, *given, state.step))
        state = dataclasses.replace(state, step=jax.jit(lambda step: step + 1)(state.step))
        return state, jax.device_put(StepMetrics.zero())

    monkeypatch.setattr(step, "train_step", seen)
    fit(config, tiny.quiet())
    images, shares = preview.first_batch(prepare_setup(checked(config), tiny.quiet()))
    x, targets = batches[0]
    expected = np.asarray(preview.denormalize(x, tiny.PREPARE))
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(shares, targets, rtol=0, atol=1e-6)
    assert np.abs(images - np.asarray(preview.denormalize(batches[1][0], tiny.PREPARE))).max() > 0.1
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 4 * 100


def test_denormalizing_gives_the_image_back():
    images = tiny.images(2)
    for order in ("rgb", "bgr"):
        preprocessing = dataclasses.replace(tiny.PREPROCESSING, channel_order=order)
        prepare = dataclasses.replace(tiny.PREPARE, preprocessing=preprocessing)
        back = preview.denormalize(prepare(images), prepare)
        np.testing.assert_allclose(back, images / 255, rtol=0, atol=1e-6)


def test_names_on_the_sheet():
    names = ("ash", "b" * 30, "cedar")
    assert preview.named(np.array([0.0, 0.0, 1.0]), names) == "cedar"
    assert preview.named(np.array([0.3, 0.7, 0.0]), names) == f"{'b' * 30} 70 %\nash 30 %"
    assert preview.named(np.array([0.999, 0.001, 0.0]), names) == "ash"


def test_a_dry_run_draws_the_sheet_and_counts_the_augmentation(
    tiny_data, elsewhere, capsys, monkeypatch
):
    options = ["--model", tiny.ENTRY.name, "--weights", tiny_data.parent / "weights"]
    options += ["--data", f"folder:{tiny_data}", "--batch-size", 4, "--dry-run", "--json"]
    costs = []
    for preset in ("none", "strong"):
        words = [*options, "--augment", preset, "--show-batch", f"{preset}.png"]
        assert commands.main("train", *words) == 0
        costs.append(json.loads(capsys.readouterr().out))
    assert sorted(p.name for p in elsewhere.iterdir()) == ["none.png", "strong.png"]
    assert [c["cached_prefix"] for c in costs] == [True, False]
    assert costs[1]["step_flops"] > costs[0]["step_flops"]


# Options


def test_flags_change_single_parts_of_a_preset():
    options = AugmentConfig("strong", crop_scale=1.0, policy="none", color_jitter="0.4", mixup=0.0)
    assert options.resolved() == Augment(
        1.0, "horizontal", (0.4, 0.4, 0.4, 0.0), "none", 0.1, 0.0, 1.0
    )
    assert AugmentConfig().resolved() == Augment()
    assert AugmentConfig(color_jitter=".1,.2,.3,.4").resolved().color_jitter == (0.1, 0.2, 0.3, 0.4)
    assert Augment().describe() == "none"


def test_flags_reach_the_options():
    seen = []
    words = ["--augment=light", "--flip", "both", "--color-jitter", "0.4,0.3,0.2,0.1"]
    words += ["--erasing", "0.25", "--cutmix", "1", "--policy", "trivial", "--crop-scale", ".5"]
    assert app.main(Config, seen.append, prog="train", args=words) == 0
    assert seen[0].augment.resolved() == Augment(
        0.5, "both", (0.4, 0.3, 0.2, 0.1), "trivial", 0.25, 0.0, 1.0
    )
    groups = json.loads(json.dumps(seen[0].to_dict()))
    assert Config.from_dict(groups) == seen[0]
    del groups["augment"]  # As runs from before augmentation have it.
    assert Config.from_dict(groups).augment == AugmentConfig("none")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Config(augment=AugmentConfig(erasing=2.0)), r"^--erasing must be from 0 to 1, not 2\.0"),
        (
            Config(augment=AugmentConfig(color_jitter="much")),
            r"^--color-jitter takes numbers, such as 0\.4 or 0\.4,0\.4,0\.4,0\.1, not 'much'\.$",
        ),
        (
            Config(augment=STRONG, train=TrainConfig(batch_size=1)),
            r"^mixup and cutmix mix the images of a batch, but --batch-size 1 has only one",
        ),
        (
            Config(augment=AugmentConfig("light"), train=TrainConfig(solver="lbfgs")),
            r"^--solver lbfgs fits the head on fixed features, but augmentation",
        ),
        (
            Config(run=RunConfig(show_batch=Path("sheet.jpg"))),
            r"^--show-batch writes a \.png file, not 'sheet\.jpg'\.$",
        ),
    ],
)
def test_refusals(bad, message):
    with pytest.raises(UserError, match=message):
        checked(bad)


def test_a_sheet_that_cannot_be_written_leaves_nothing(tiny_data, tmp_path):
    config = augmented(tiny_data, tmp_path / "run")
    run = dataclasses.replace(config.run, show_batch=tmp_path / "missing" / "sheet.png")
    with pytest.raises(UserError, match=r"^cannot write --show-batch '.*sheet\.png': No such file"):
        fit(dataclasses.replace(config, run=run), tiny.quiet())
    assert not (tmp_path / "run").exists()
