"""A backbone of three small convolutions, and data of its size: what steps and runs need."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jtl import models
from jtl.cache.phase_inputs import PhaseInputs
from jtl.common.progress import Display
from jtl.common.trees import lookup, prune, within
from jtl.config.augment import AugmentConfig, Preset
from jtl.config.options import Config, DataConfig, ModelConfig, RunConfig, TrainConfig
from jtl.data.preprocessing import Prepare
from jtl.data.sources.arrays import ArraySplit
from jtl.freeze import Cut, find_cut, label_tree, parse
from jtl.freeze.cut import trainable
from jtl.models import ImageClassifier, ModelEntry, NormSpec, Preprocessing, Unit
from jtl.models.chain import unit
from jtl.models.layers.blocks import BatchNorm, Conv, relu
from jtl.runs.checkpoints import saving
from jtl.runs.run import Run
from jtl.train.checks import checked
from jtl.train.fit import fit
from jtl.train.setup import Setup, feature_cache, prepare_setup
from jtl.train.trainer import Trainer
from weights_convert.checkpoint import folder as converted_folder
from weights_convert.convert.rules import leaf_paths, unflatten

SIZE = 8
NORM = NormSpec()
CLASSES = ("ash", "birch", "cedar")


class Block(nn.Module):
    features: int
    strides: int
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = Conv(self.features, 3, self.strides, name="conv")(x)
        return relu(BatchNorm(self.norm, name="bn")(x, train=train))


@dataclasses.dataclass(frozen=True)
class TinyNet:
    norm: NormSpec = NORM

    def units(self) -> tuple[Unit, ...]:
        return (
            unit("stem", Block, features=4, strides=1, norm=self.norm),
            unit("stage1/block1", Block, features=8, strides=1, norm=self.norm),
            unit("stage2/block1", Block, features=16, strides=2, norm=self.norm),
        )


PREPROCESSING = Preprocessing(size=SIZE)
ENTRY = ModelEntry("tiny", "tiny", TinyNet, 18_604, "package:tiny", PREPROCESSING)
MODEL = ImageClassifier(TinyNet(), num_classes=len(CLASSES))
PREPARE = Prepare(SIZE, PREPROCESSING)
UNITS = tuple(u.path for u in MODEL.units())


def drawn(shapes: dict[str, Any]) -> dict[tuple[str, ...], np.ndarray]:
    """Values for all leaves, none of them zero or one, under which activations keep their size."""
    rng = np.random.default_rng(0)
    leaves = {}
    for path in leaf_paths(shapes):
        shape = lookup(shapes, path).shape
        if path[-1] == "kernel":
            spread = (2 / np.prod(shape[:-1])) ** 0.5
            leaves[path] = rng.normal(0, spread, shape).astype(np.float32)
        elif path[-1] in ("scale", "var"):
            leaves[path] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            leaves[path] = rng.normal(0, 0.1, shape).astype(np.float32)
    return leaves


@functools.cache
def _leaves() -> dict[tuple[str, ...], np.ndarray]:
    return drawn(models.variable_shapes(MODEL, SIZE))


def variables() -> dict[str, Any]:
    """{"params", "batch_stats"} in which no value is zero or one; fresh arrays."""
    return unflatten({path: leaf.copy() for path, leaf in _leaves().items()})


def images(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def labels(count: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, len(CLASSES), count).astype(np.int32)


def array_split(count: int, seed: int = 1) -> ArraySplit:
    names = [str(index) for index in range(count)]
    return ArraySplit("tiny", images(count, seed), labels(count, seed + 100), names)


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a mask makes of the model's variables."""

    labels: dict[str, Any]
    cut: Cut
    params: dict[str, Any]
    live_stats: dict[str, Any]
    frozen: dict[str, Any]


def parts(mask: str) -> Parts:
    tree = variables()
    label_tree_ = label_tree(parse(mask), tree["params"])
    cut = find_cut(label_tree_, MODEL.units())
    trains, live = trainable(label_tree_), within(cut.stats_units)
    return Parts(
        label_tree_,
        cut,
        prune(tree["params"], trains),
        prune(tree["batch_stats"], live),
        {
            "params": prune(tree["params"], lambda leaf: not trains(leaf)),
            "batch_stats": prune(tree["batch_stats"], lambda leaf: not live(leaf)),
        },
    )


def image_inputs(setup: Setup) -> PhaseInputs:
    """Of steps that run the whole network; no examples."""
    return PhaseInputs.of_images(setup.model, setup.inputs, setup.sharding)


def write_weights(folder: Path) -> Path:
    """A converted checkpoint of the tiny model; the registry must know it."""
    converted_folder.write(
        folder,
        converted_folder.ConvertedCheckpoint(
            model=ENTRY.name,
            variables=variables(),
            library="tests",
            conventions={},
            num_classes=len(CLASSES),
            class_names=None,
            preprocessing=PREPROCESSING,
            source="tiny.safetensors",
            sha256="ab" * 32,
            licence=None,
            source_format="safetensors",
        ),
    )
    return folder


def write_folder(root: Path, train: int = 6, val: int = 3, size: int = SIZE) -> Path:
    """Class folders of noisy one-coloured PNGs, `train` and `val` of them for each class."""
    rng = np.random.default_rng(3)
    for part, count in (("train", train), ("val", val)):
        for channel, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 120, (size, size, 3), np.uint8)
                image[..., channel] += 120
                Image.fromarray(image).save(folder / f"{index}.png")
    return root


def quiet() -> Display:
    return Display(Console(file=io.StringIO()))


def config(
    data: Path,
    run_dir: Path | None,
    *,
    weights: str | None = None,
    augment: Preset = "none",
    **train: Any,
) -> Config:
    """A short run over `data`, from the weights beside it unless others are given."""
    options = TrainConfig(**{"epochs": 2, "batch_size": 4, "lr": 0.05, **train})
    model = ModelConfig(ENTRY.name, str(data.parent / "weights") if weights is None else weights)
    spec = DataConfig(f"folder:{data}")
    return Config(model, spec, options, RunConfig(run_dir), AugmentConfig(augment))


def trainer_of(config: Config) -> Trainer:
    """What trains the first phase of a run, before its first step."""
    setup = prepare_setup(checked(config), quiet())
    plan = setup.plans[0]
    splits = {"train": setup.dataset.train, "val": setup.dataset.val}
    inputs = feature_cache(setup, quiet()).plan(plan.cut.features_at, setup.variables, splits)
    return Trainer(setup, plan, inputs, setup.variables)


def resumed(folder: Path) -> Config:
    """What `--resume --run-dir FOLDER` gives."""
    return Config(run=RunConfig(folder, resume="auto"))


def lines_of(run: Run) -> list[dict[str, Any]]:
    """The epochs in a run's `metrics.jsonl`."""
    text = (run.folder / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def fit_until(epoch: int, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains, and dies when the checkpoint of an epoch is whole; nothing is written after."""

    class Killed(BaseException):
        pass

    original = saving.Checkpointer.save

    def save(self: saving.Checkpointer, done: int, snapshot: Any) -> None:
        original(self, done, snapshot)
        if done == epoch:
            self.wait()
            raise Killed

    monkeypatch.setattr(saving, "DEFAULT_POLICY", saving.CheckpointPolicy(seconds=0.0))
    with monkeypatch.context() as patch:
        patch.setattr(saving.Checkpointer, "save", save)
        with pytest.raises(Killed):
            fit(config, quiet())
