"""The tutorials' recipes, each as one command, on images of 32 x 32."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from jtl import models
from jtl.cli import app
from jtl.common.trees import leaf_paths, lookup
from jtl.config.options import Config
from jtl.models import HeadSpec, heads, registry
from jtl.runs.checkpoints import reading
from jtl.train.checks import checked
from support import commands, tiny
from support.paths import DOCS
from weights_convert.convert.tables import TABLES
from weights_convert.export.writer import source_tensors

pytestmark = pytest.mark.slow

PAGE = DOCS / "recipes.md"
SMALL = ("--weights", "random", "--image-size", "32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def recipe(what: str) -> list[str]:
    """The options of the page's command for what its table begins a row with."""
    [row] = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith(f"| {what}")]
    [command] = re.findall(r"`(jtl train .*?)`", row)
    return shlex.split(command)[2:]


def train(images: Path, folder: Path, *options: str) -> dict:
    """Trains by the command line and gives the summary; of options given twice the last counts."""
    code = commands.main(
        "train", *options, "--data", f"folder:{images}", "--run-dir", str(folder), "--json"
    )
    assert code == 0
    return json.loads((folder / "summary.json").read_text())


def test_keras_whole_backbone_without_top(images: Path, notop: Path, tmp_path: Path):
    summary = train(
        *(images, tmp_path / "run", *recipe("whole backbone without its top")),
        *("--weights", str(notop), "--image-size", "32", "--epochs", "2"),
    )
    # One pixel of 2048 channels, flattened.
    head = 2048 * 1024 + 1024 + 1024 * 512 + 512 + 512 * 3 + 3
    assert summary["trainable_params"] == head
    assert (summary["cached_prefix"], summary["frozen_unchanged"]) == (True, True)


def test_keras_part_of_a_backbone(images: Path, notop: Path, tmp_path: Path):
    summary = train(
        *(images, tmp_path / "run", *recipe("part of a backbone")),
        *("--weights", str(notop), "--image-size", "32", "--epochs", "1"),
    )
    variables = reading.restore(tmp_path / "run").variables
    assert set(variables["params"]) == {"stem", "stage1", "stage2", "head"}
    assert set(variables["params"]["stage2"]) == {"block1"}
    # 4 x 4 pixels of 512 channels.
    assert variables["params"]["head"]["logits"]["kernel"].shape == (4 * 4 * 512, 3)
    assert summary["frozen_unchanged"] is True


def test_keras_input_upsampled_by_pixel_repetition(images: Path, tmp_path: Path, capsys):
    summary = train(
        *(images, tmp_path / "run", "--upsample", "nearest:4", "--epochs", "1"),
        *("--head", "mlp", "--head-widths", "64", "32", "--head-dropout", ".3"),
        "--head-batch-norm",
    )
    assert summary["image_size"] == 128
    capsys.readouterr()
    assert commands.main("evaluate", tmp_path / "run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["val_accuracy"] == summary["val_accuracy"]


def test_keras_inception_v3_with_upsampled_input(images: Path, tmp_path: Path):
    summary = train(
        *(images, tmp_path / "run", *recipe("upsampled input for InceptionV3")),
        *("--weights", "random", "--epochs", "1"),
    )
    assert (summary["image_size"], summary["cut"]) == (96, "head")
    widths = (2048, 1024, 512, 128, 3)
    dense = sum((a + 1) * b for a, b in itertools.pairwise(widths))
    assert summary["trainable_params"] == dense
    assert (summary["cached_prefix"], summary["frozen_unchanged"]) == (True, True)


def test_keras_weights_from_a_file(images: Path, tmp_path: Path):
    file = write_h5(tmp_path, "vgg16", "keras (no top)")
    folder = tmp_path / "run"
    summary = train(
        *(images, folder, *recipe("weights from a file, for VGG16")),
        *("--weights", str(file), "--image-size", "32", "--epochs", "1"),
    )
    assert summary["trainable_params"] == 3 * (512 + 1)
    restored = reading.restore(folder)
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
    entry = dataclasses.replace(entry, build=lambda: backbone)
    monkeypatch.setitem(registry.ENTRIES, "vgg16", entry)
    file = tmp_path / "vgg16.safetensors"
    save_file(tensors_of("vgg16", "torchvision", HeadSpec()), file)
    return file


def test_torchvision_surgery_on_vgg16(images: Path, vgg16: Path, tmp_path: Path):
    short = ("--weights", str(vgg16), "--image-size", "32", "--epochs", "1")
    append, replace = (recipe(what) for what in ("append a layer", "replace the classifier"))
    appended = train(images, tmp_path / "appended", *append, *short)
    assert appended["trainable_params"] == 3 * (1000 + 1)
    params = reading.restore(tmp_path / "appended").variables["params"]
    assert params["classifier"]["logits"]["kernel"].shape == (16, 1000)
    replaced = train(images, tmp_path / "replaced", *replace, *short)
    assert replaced["trainable_params"] == 3 * (16 + 1)
    params = reading.restore(tmp_path / "replaced").variables["params"]
    assert {"fc1", "fc2", "head"} < set(params)
    assert "classifier" not in params
    assert appended["frozen_unchanged"]
    assert replaced["frozen_unchanged"]


def test_torchvision_append_to_the_classifier(images: Path, tmp_path: Path):
    summary = train(images, tmp_path / "run", "--head", "append", "--epochs", "1")
    params = reading.restore(tmp_path / "run").variables["params"]
    assert params["classifier"]["logits"]["kernel"].shape == (1280, 1000)
    assert params["head"]["logits"]["kernel"].shape == (1000, 3)
    assert summary["trainable_params"] == 3003


def test_freeze_by_name(images: Path, tmp_path: Path):
    folder = tmp_path / "run"
    summary = train(images, folder, *recipe("freeze by name"), *SMALL, "--epochs", "1")
    assert (summary["cut"], summary["frozen_unchanged"]) == ("stage4/block1", True)
    trained = {path[1] for path in _moved(folder)}
    assert trained == {"stage4", "head"}


def _moved(folder: Path) -> set[tuple[str, ...]]:
    from jtl.config.options import Config
    from jtl.models.initialization import initialize
    from jtl.runs.checkpoints.model_description import rebuild_model

    restored = reading.restore(folder, "latest")
    model, inputs = rebuild_model(restored.meta)
    config = Config.from_dict(json.loads((folder / "config.json").read_text()))
    start = initialize(model, None, size=inputs.device.size, seed=config.train.seed)
    end = restored.variables
    return {p for p in leaf_paths(start) if not np.array_equal(lookup(start, p), lookup(end, p))}


@pytest.fixture
def _shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet18 and DenseNet121 with one block in each stage."""
    for name, options in (("resnet18", {}), ("densenet121", {"growth": 8})):
        entry = models.get(name)
        backbone: Any = dataclasses.replace(entry.backbone, depths=(1, 1, 1, 1), **options)
        entry = dataclasses.replace(entry, build=functools.partial(dataclasses.replace, backbone))
        monkeypatch.setitem(registry.ENTRIES, name, entry)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Cats and dogs as they are downloaded: no splits, an empty image, a file that is none."""
    rng = np.random.default_rng(5)
    for name in ("Cat", "Dog"):
        folder = tmp_path / "PetImages" / name
        folder.mkdir(parents=True)
        for index in range(1, 11):
            pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.jpg")
        (folder / "Thumbs.db").write_bytes(b"no image")
    (tmp_path / "PetImages" / "Cat" / "666.jpg").touch()
    return tmp_path / "PetImages"


def rates_of(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["learning_rate"] for line in lines]


@pytest.mark.usefixtures("_shallow")
@pytest.mark.parametrize("of", ["ants and bees", "cats and dogs"])
@pytest.mark.parametrize("what", ["feature extraction", "fine-tuning"])
def test_pytorch(what: str, of: str, images: Path, pets: Path, tmp_path: Path):
    data, folder = (pets if of == "cats and dogs" else images), tmp_path / "run"
    # Of 25 epochs the rate falls after 7, 14 and 21, so of 4 after the first, second and third.
    summary = train(data, folder, *recipe(f"{what}, {of}"), *SMALL, "--epochs", "4")
    classes = summary["num_classes"]
    units = {path[1] for path in _moved(folder)}
    if what == "feature extraction":
        assert (summary["trainable_params"], units) == (classes * (512 + 1), {"head"})
    else:
        assert summary["trainable_params"] == summary["total_params"] - _statistics(folder)
        assert units == {"stem", *(f"stage{i}" for i in range(1, 5)), "head"}
    assert summary["augmentation"] == "random crops of at least 8 % of the area, horizontal flip"
    assert rates_of(folder) == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6], rel=1e-5)
    if of == "cats and dogs":
        assert (summary["num_train"], summary["num_val"]) == (16, 4)
        assert summary["class_names"] == ["Cat", "Dog"]
        assert any("666.jpg" in note for note in summary["notes"])


def _statistics(folder: Path) -> int:
    tree = reading.restore(folder).variables["batch_stats"]
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.usefixtures("_shallow")
def test_feature_extraction_by_default(images: Path, tmp_path: Path):
    summary = train(
        *(images, tmp_path / "run", *recipe("feature extraction as jtl does it"), *SMALL),
        *("--epochs", "2"),
    )
    assert summary["trainable_params"] == 3 * (512 + 1)
    assert (summary["cached_prefix"], summary["frozen_unchanged"]) == (True, True)


@pytest.mark.usefixtures("_shallow")
def test_unfreeze_later(images: Path, tmp_path: Path):
    folder = tmp_path / "run"
    train(images, folder, *recipe("unfreeze later"), *SMALL, "--epochs", "4")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["mask"] for line in lines] == ["head_only"] * 3 + ["full"]
    assert {"stem", "head"} <= {path[1] for path in _moved(folder)}


@pytest.mark.usefixtures("_shallow")
@pytest.mark.parametrize("arm", ["base", "a larger head", "frozen"])
def test_densenet_in_three_arms(arm: str, tmp_path: Path):
    rng = np.random.default_rng(6)
    arrays = {
        f"{x}_{part}": rng.integers(0, high, (20, *shape), np.uint8)
        for part in ("train", "test")
        for x, high, shape in (("x", 256, (32, 32, 3)), ("y", 10, ()))
    }
    arrays["y_train"][:10] = arrays["y_test"][:10] = np.arange(10)
    np.savez(tmp_path / "cifar10.npz", **arrays)
    options = (*recipe(arm), "--data", f"npz:{tmp_path / 'cifar10.npz'}", "--epochs", "1")
    folder = tmp_path / "run"
    options = (*options, "--weights", "random", "--run-dir", str(folder), "--json")
    assert commands.main("train", *options) == 0
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert (summary["num_classes"], summary["cached_prefix"]) == (10, arm == "frozen")
    assert summary["frozen_unchanged"]


@pytest.fixture
def few(tiny_model: str, tmp_path: Path) -> list[str]:
    """Options of a small training on class folders of images, in pairs `0_0.png`, `0_1.png`, ..."""
    root = tiny.write_folder(tmp_path / "images", 10, 0) / "train"
    for number, path in enumerate(sorted(root.rglob("*.png"))):
        path.rename(path.with_name(f"{number // 2}_{number % 2}.png"))
    weights = tiny.write_weights(tmp_path / "weights")
    return ["--data", f"folder:{root}", "--model", "tiny", "--weights", str(weights)]


SMALL_ONES = (
    "five folds of groups",
    "images that belong together",
    "wide images as a whole",
    "a rare class counts",
    "a rare class is drawn",
)


@pytest.mark.parametrize("what", SMALL_ONES)
def test_groups_folds_fits_and_weights(what: str, few: list[str], tmp_path: Path):
    run = tmp_path / "run"
    given = [*recipe(what), *few, "--epochs", "1", "--run-dir", str(run)]
    assert commands.main("train", *given, "--image-size", "32") == 0
    if "folds" in what:
        assert json.loads((run / "folds.json").read_text())["folds"] == 5
        run = run / "fold-1"
    summary = json.loads((run / "summary.json").read_text())
    config = json.loads((run / "config.json").read_text())
    assert (config["data"]["fit"] == "squash") == ("wide" in what)
    assert (summary["class_weights"] is not None) == ("counts" in what)
    assert (config["train"]["sampler"] == "balanced") == ("drawn" in what)
    grouped = any("groups" in note for note in summary["notes"])
    assert grouped == (what in ("images that belong together", "five folds of groups"))


def test_wrong_labels(few: list[str], elsewhere: Path):
    [row] = [line for line in PAGE.read_text("utf-8").splitlines() if "| wrong labels" in line]
    clean, train_ = re.findall(r"`jtl (.*?)`", row)
    assert clean == "data clean folder:images"
    assert commands.main("data", "clean", few[1], *few[2:]) == 0
    words = [*shlex.split(train_)[1:], *few, "--epochs", "1", "--run-dir", "run"]
    assert commands.main("train", *words) == 0
    text = Path("cleaning/clean.csv").read_text()
    excluded = {line.split(",")[0] for line in text.splitlines() if line.endswith(",yes")}
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["num_train"] + summary["num_val"] == 30 - len(excluded)


def config_of(command: str) -> Config:
    """What a command of the page would train."""
    found: list[Config] = []
    args = shlex.split(command)[2:]
    code = app.main(Config, lambda config: found.append(checked(config)), prog="x", args=args)
    assert code == 0, command
    return found[0]


def test_every_command_of_the_page_is_one():
    commands_ = re.findall(r"`(jtl train .*?)`", PAGE.read_text(encoding="utf-8"))
    assert len(commands_) == 25
    for command in commands_:
        config_of(command)


def test_densenet_in_three_arms_has_the_page_s_counts():
    rows = re.findall(
        r"`(jtl train --model densenet121 .*?)` \| ([\d,]+) of ([\d,]+)",
        PAGE.read_text(encoding="utf-8"),
    )
    assert len(rows) == 3
    for command, *told in rows:
        config = config_of(command)
        model = models.create("densenet121", num_classes=10, head=heads.from_options(config.model))
        shapes = models.variable_shapes(model, config.data.image_size or 224)
        whole = config.train.mask == "full"
        trained = shapes["params"] if whole else shapes["params"]["head"]
        counts = [sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (trained, shapes)]
        assert counts == [int(number.replace(",", "")) for number in told]
