"""How much a step computes, and how long a dry run takes it to last."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl import models, onednn
from jtl.config.model import ModelConfig
from jtl.config.options import Config
from jtl.config.run_options import RunConfig
from jtl.config.training import TrainConfig
from jtl.models.inference import forward
from jtl.train import dry_run, flops, memory_estimate, step
from jtl.train.checks import checked
from jtl.train.setup import feature_cache, prepare_setup
from jtl.train.trainer import Trainer
from support import tiny


def counted(name: str, size: int, mask: str = "", start: str | None = None) -> flops.Flops:
    model = models.create(name, num_classes=1000)
    shapes = models.variable_shapes(model, size)
    return flops.count(model, shapes, size, lambda path: path.startswith(mask), start)


@pytest.mark.parametrize(
    ("name", "size", "published"),
    [
        # Multiplications with additions, in 1e9: timm's table of results, torchvision's weights.
        ("resnet50", 224, 4.09),
        ("densenet121", 224, 2.83),
        ("vgg16", 224, 15.47),
        ("inception_v3", 299, 5.71),
        ("mobilenet_v2", 224, 0.30),
        ("mobilenet_v3_large", 224, 0.217),
        ("efficientnet_b0", 224, 0.386),
        ("efficientnet_lite0", 224, 0.385),
    ],
)
def test_a_forward_pass_is_what_was_published(name, size, published):
    assert counted(name, size).forward / 2e9 == pytest.approx(published, rel=0.01)


def test_the_cut_divides_a_forward_pass():
    whole = counted("resnet18", 64)
    parts = counted("resnet18", 64, start="stage4/block1")
    assert parts.prefix + parts.forward == whole.forward
    assert 0 < parts.prefix < whole.forward


def test_gradients_are_counted_for_what_depends_on_a_trained_param():
    whole = counted("resnet18", 64)
    # The first convolution's input is the image, which has no gradient.
    assert 1.9 * whole.forward < whole.backward < 2 * whole.forward
    # Of the head alone: its kernel's gradient, and none of what comes in.
    head = counted("resnet18", 64, mask="head")
    assert head.backward == 2 * 512 * 1000
    assert head.forward == whole.forward


def of(model: str, **train: Any) -> Config:
    options = TrainConfig(**{"solver": "sgd", "batch_size": 8, **train})
    return checked(Config(ModelConfig(model, "random"), train=options, run=RunConfig(None)))


def xla(function: Any, *arguments: Any, **options: Any) -> float:
    """XLA's own count of a program's operations, elementwise ones included."""
    with onednn.disabled():
        lowered = jax.jit(functools.partial(inspect.unwrap(function), **options)).lower(*arguments)
    analysis: Any = lowered.cost_analysis()
    return analysis["flops"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "train"),
    [
        ("resnet18", {"mask": "full"}),
        ("efficientnet_lite0", {"mask": "last_stage"}),
        ("squeezenet1_1", {"mask": "bias_only"}),
    ],
)
def test_estimates_hold_on_a_machine_that_takes_a_second_for_a_billion(model, train, monkeypatch):
    """Within 30 % of what XLA's programs would take there, whatever this machine is doing."""
    config = of(model, **train)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, image_size=64))
    setup = prepare_setup(config, tiny.quiet())
    [plan] = setup.plans
    splits = {"train": setup.dataset.train, "val": setup.dataset.val}
    inputs = feature_cache(setup, tiny.quiet()).plan(plan.cut.features_at, setup.variables, splits)
    images = jnp.zeros((1, 64, 64, 3), jnp.uint8)

    def seconds(setup: Any, batch: int, stop: str | None) -> float:
        options = {"model": setup.model, "stop": stop, "prepare": setup.inputs.device}
        return xla(forward, setup.variables, images, **options) / 1e9

    monkeypatch.setattr(dry_run, "forward_seconds", seconds)
    phase = dry_run.dry_run(setup)
    trainer = Trainer(setup, plan, inputs, setup.variables)
    batch = memory_estimate.dummy_batch(setup, inputs, 8)
    real = xla(step.train_step, trainer.state, trainer.constants, batch, step=trainer.step) / 1e9
    assert phase["step_seconds"] == pytest.approx(real, rel=0.3)
    steps = -(-len(setup.dataset.train) // 8)
    assert phase["estimated_epoch_seconds"] == pytest.approx(steps * real, rel=0.3)
    if inputs.start is not None:
        count = len(setup.dataset.train) + len(setup.dataset.val)
        prefix = seconds(setup, 1, inputs.start) * count
        assert phase["estimated_prefix_seconds"] == pytest.approx(prefix, rel=0.3)
    assert phase["optimizer_bytes"] == trainer.optimizer_bytes


def test_a_dry_run_compiles_no_step(tiny_data, monkeypatch):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was traced")

    monkeypatch.setattr(step, "train_step", refuse)
    setup = prepare_setup(checked(tiny.config(tiny_data, None, mask="full")), tiny.quiet())
    figures = dry_run.dry_run(setup)
    assert figures["step_seconds"] > 0
    assert np.isfinite(figures["step_flops"])
