"""The tutorials' recipes, each as one command, on pictures of 32 x 32."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import commands
import h5py
import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from jtl import checkpoint, cli, models
from jtl.config import Config
from jtl.freeze.split import leaf_paths, lookup
from jtl.models import HeadSpec, registry
from jtl.validation import resolve
from weights_convert.export import source_tensors
from weights_convert.tables import TABLES


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("recipes") / "data", 4, 2, size=32)


@pytest.fixture(scope="module")
def notop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet50 without its top in the layout of Keras 2's weights files."""
    return write_h5(tmp_path_factory.mktemp("keras"), "resnet50", "keras")


def tensors_of(name: str, library: str, head: HeadSpec | None) -> dict[str, np.ndarray]:
    """Random weights of a model under a library's names."""
    family = models.get(name).family
    table = next(t for t in TABLES if (t.family, t.library) == (family, library))
    model = models.create(name, head=head, conventions=dict(table.conventions))
    rng = np.random.default_rng(0)
    variables = jax.tree.map_with_path(
        lambda path, leaf: _random(rng, path[-1].key, leaf.shape),
        models.variable_shapes(model, 64),
    )
    return source_tensors(table, model.backbone, variables)


def write_h5(folder: Path, name: str, library: str) -> Path:
    tensors = tensors_of(name, library, None)
    layers: dict[str, list[str]] = {}
    for key in tensors:
        layers.setdefault(key.rpartition("/")[0], []).append(key)
    file = folder / f"{name}_notop.h5"
    with h5py.File(file, "w") as h5:
        h5.attrs["layer_names"] = [name.encode() for name in layers]
        for name, keys in layers.items():
            group = h5.create_group(name)
            weights = [f"{key}:0" for key in keys]
            group.attrs["weight_names"] = [weight.encode() for weight in weights]
            for key, weight in zip(keys, weights, strict=True):
                group.create_dataset(weight, data=tensors[key])
    return file


def _random(rng: np.random.Generator, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
    if leaf == "kernel":
        return rng.normal(0, (2 / np.prod(shape[:-1])) ** 0.5, shape).astype(np.float32)
    if leaf in ("scale", "var"):
        return rng.uniform(0.5, 1.0, shape).astype(np.float32)
    return rng.normal(0, 0.05, shape).astype(np.float32)


def train(pictures: Path, folder: Path, *options: str) -> dict:
    """Trains by the command line and gives the summary."""
    code = commands.main(
        "train", "--data", f"folder:{pictures}", "--run-dir", str(folder), "--json", *options
    )
    assert code == 0
    return json.loads((folder / "summary.json").read_text())


def test_keras_whole_backbone_without_top(pictures: Path, notop: Path, tmp_path: Path):
    summary = train(
        *(pictures, tmp_path / "run", "--model", "resnet50", "--weights", str(notop)),
        *("--image-size", "32", "--head-pool", "flatten", "--head", "dense:1024,dense:512"),
        *("--epochs", "2"),
    )
    # One pixel of 2048 channels, flattened.
    head = 2048 * 1024 + 1024 + 1024 * 512 + 512 + 512 * 3 + 3
    assert summary["trainable_params"] == head
    assert (summary["cached_prefix"], summary["frozen_unchanged"]) == (True, True)


def test_keras_part_of_a_backbone(pictures: Path, notop: Path, tmp_path: Path):
    summary = train(
        *(pictures, tmp_path / "run", "--model", "resnet50", "--weights", str(notop)),
        *("--truncate-at", "conv3_block1_3_conv", "--image-size", "32", "--head-pool", "flatten"),
        *("--epochs", "1"),
    )
    variables = checkpoint.restore(tmp_path / "run").variables
    assert set(variables["params"]) == {"stem", "stage1", "stage2", "head"}
    assert set(variables["params"]["stage2"]) == {"block1"}
    # 4 x 4 pixels of 512 channels.
    assert variables["params"]["head"]["logits"]["kernel"].shape == (4 * 4 * 512, 3)
    assert summary["frozen_unchanged"] is True


def test_keras_input_upsampled_by_pixel_repetition(pictures: Path, tmp_path: Path, capsys):
    summary = train(
        *(pictures, tmp_path / "run", "--upsample", "nearest:4", "--epochs", "1"),
        *("--head", "mlp", "--head-widths", "64", "32", "--head-dropout", ".3"),
        "--head-batch-norm",
    )
    assert summary["image_size"] == 128
    capsys.readouterr()
    assert commands.main("evaluate", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["val_accuracy"] == summary["val_accuracy"]


def test_keras_inception_v3_with_upsampled_input(pictures: Path, tmp_path: Path):
    summary = train(
        *(pictures, tmp_path / "run", "--model", "inception_v3", "--weights", "random"),
        *("--upsample", "nearest:3", "--head", "dense:1024,dense:512,dropout:.3,dense:128"),
        *("--epochs", "1"),
    )
    assert (summary["image_size"], summary["cut"]) == (96, "head")
    widths = (2048, 1024, 512, 128, 3)
    dense = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    assert summary["trainable_params"] == dense
    assert (summary["cached_prefix"], summary["frozen_unchanged"]) == (True, True)


def test_keras_weights_from_a_file(pictures: Path, tmp_path: Path):
    file = write_h5(tmp_path, "vgg16", "keras (no top)")
    folder = tmp_path / "run"
    summary = train(
        *(pictures, folder, "--model", "vgg16", "--weights", str(file)),
        *("--image-size", "32", "--epochs", "1"),
    )
    assert summary["trainable_params"] == 3 * (512 + 1)
    restored = checkpoint.restore(folder)
    assert set(restored.variables["params"]) == {*(f"stage{i}" for i in range(1, 6)), "head"}
    assert restored.meta["input"]["preprocessing"]["channel_order"] == "bgr"
    kernel = restored.variables["params"]["stage5"]["block3"]["conv"]["kernel"]
    with h5py.File(file) as h5:
        dataset: Any = h5["block5_conv3/block5_conv3/kernel:0"]
        np.testing.assert_array_equal(kernel, dataset[:])


@pytest.fixture
def vgg16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's VGG16 with its classifier, the dense layers 16 wide instead of 4096."""
    entry = models.get("vgg16")
    backbone: Any = dataclasses.replace(entry.backbone, widths=(16, 16))
    monkeypatch.setitem(registry._ENTRIES, "vgg16", dataclasses.replace(entry, backbone=backbone))
    file = tmp_path / "vgg16.safetensors"
    save_file(tensors_of("vgg16", "torchvision", HeadSpec()), file)
    return file


def test_torchvision_surgery_on_vgg16(pictures: Path, vgg16: Path, tmp_path: Path):
    options = ("--model", "vgg16", "--weights", str(vgg16), "--image-size", "32", "--epochs", "1")
    appended = train(pictures, tmp_path / "appended", *options, "--head", "append")
    assert appended["trainable_params"] == 3 * (1000 + 1)
    params = checkpoint.restore(tmp_path / "appended").variables["params"]
    assert params["classifier"]["logits"]["kernel"].shape == (16, 1000)
    replaced = train(pictures, tmp_path / "replaced", *options)
    assert replaced["trainable_params"] == 3 * (16 + 1)
    params = checkpoint.restore(tmp_path / "replaced").variables["params"]
    assert {"fc1", "fc2", "head"} < set(params)
    assert "classifier" not in params
    assert appended["frozen_unchanged"]
    assert replaced["frozen_unchanged"]


def test_torchvision_append_to_the_classifier(pictures: Path, tmp_path: Path):
    summary = train(pictures, tmp_path / "run", "--head", "append", "--epochs", "1")
    params = checkpoint.restore(tmp_path / "run").variables["params"]
    assert params["classifier"]["logits"]["kernel"].shape == (1280, 1000)
    assert params["head"]["logits"]["kernel"].shape == (1000, 3)
    assert summary["trainable_params"] == 3003


def test_pytorch_freeze_all_but_layer4(pictures: Path, tmp_path: Path):
    folder = tmp_path / "run"
    summary = train(
        *(pictures, folder, "--model", "resnet18", "--weights", "random", "--image-size", "32"),
        *("--mask", "rules:layer4=x0.1;head=train;.*=frozen", "--epochs", "1"),
    )
    assert (summary["cut"], summary["frozen_unchanged"]) == ("stage4/block1", True)
    trained = {path[1] for path in _moved(folder)}
    assert trained == {"stage4", "head"}


def _moved(folder: Path) -> set[tuple[str, ...]]:
    from jtl.config import Config
    from jtl.initialize import initialize
    from jtl.task import rebuild_model

    restored = checkpoint.restore(folder, "latest")
    model, inputs = rebuild_model(restored.meta)
    config = Config.from_dict(json.loads((folder / "config.json").read_text()))
    start = initialize(model, None, size=inputs.device.size, seed=config.train.seed)
    end = restored.variables
    return {p for p in leaf_paths(start) if not np.array_equal(lookup(start, p), lookup(end, p))}


SMALL = ("--model", "squeezenet1_1", "--weights", "random", "--image-size", "32")


def test_pytorch_feature_extraction(pictures: Path, tmp_path: Path):
    summary = train(pictures, tmp_path / "run", *SMALL, "--epochs", "1")
    assert summary["trainable_params"] == 3 * (512 + 1)
    assert {path[1] for path in _moved(tmp_path / "run")} == {"head"}


def test_pytorch_fine_tuning_with_augmentation(pictures: Path, tmp_path: Path):
    summary = train(
        *(pictures, tmp_path / "run", *SMALL, "--mask", "full", "--optimizer", "sgd"),
        *("--lr", "1e-3", "--head-lr-mult", "1", "--augment", "light", "--epochs", "2"),
    )
    assert summary["trainable_params"] == summary["total_params"]
    assert summary["augmentation"]
    assert {path[1] for path in _moved(tmp_path / "run")} == {
        *("stem", "stage1", "stage2", "stage3", "head")
    }


def test_unfreeze_later(pictures: Path, tmp_path: Path):
    folder = tmp_path / "run"
    train(pictures, folder, *SMALL, "--phases", "freeze_unfreeze:1", "--epochs", "2")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert {"stem", "head"} <= {path[1] for path in _moved(folder)}


PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipes.md"


def config_of(command: str) -> Config:
    """What a command of the page would train."""
    found: list[Config] = []
    args = shlex.split(command)[3:]
    code = cli.main(Config, lambda config: found.append(resolve(config)), prog="x", args=args)
    assert code == 0, command
    return found[0]


def test_every_command_of_the_page_is_one():
    commands_ = re.findall(r"`(python -m jtl\.train .*?)`", PAGE.read_text(encoding="utf-8"))
    assert len(commands_) == 13
    for command in commands_:
        config_of(command)


def test_densenet_in_three_arms_has_the_page_s_counts():
    rows = re.findall(
        r"`(python -m jtl\.train --model densenet121 .*?)` \| ([\d,]+) of ([\d,]+)",
        PAGE.read_text(encoding="utf-8"),
    )
    assert len(rows) == 3
    for command, *told in rows:
        config = config_of(command)
        model = models.create("densenet121", num_classes=10, head=config.head())
        shapes = models.variable_shapes(model, config.data.image_size or 224)
        whole = config.train.mask == "full"
        trained = shapes["params"] if whole else shapes["params"]["head"]
        counts = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, shapes)]
        assert counts == [int(number.replace(",", "")) for number in told]
