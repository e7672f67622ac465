"""The tutorials' recipes, each as one command, on pictures of 32 x 32."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import h5py
import jax
import numpy as np
import pytest
import tiny

from jtl import checkpoint, models
from jtl.freeze.split import leaf_paths, lookup
from weights_convert.export import source_tensors
from weights_convert.tables import TABLES


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("recipes") / "data", 4, 2, size=32)


@pytest.fixture(scope="module")
def notop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet50 without its top in the layout of Keras 2's weights files."""
    table = next(t for t in TABLES if t.family == "resnet" and t.library == "keras")
    model = models.create("resnet50", head=None, conventions=dict(table.conventions))
    rng = np.random.default_rng(0)
    variables = jax.tree.map_with_path(
        lambda path, leaf: _random(rng, path[-1].key, leaf.shape),
        models.variable_shapes(model, 64),
    )
    tensors = source_tensors(table, model.backbone, variables)
    layers: dict[str, list[str]] = {}
    for key in tensors:
        layers.setdefault(key.rpartition("/")[0], []).append(key)
    file = tmp_path_factory.mktemp("keras") / "resnet50_notop.h5"
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
