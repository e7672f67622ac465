"""`--fit`: images that are no squares, cut, padded or squashed, alike wherever they are used."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jtl
from jtl.cache.keys import key_of
from jtl.config.data import Fit
from jtl.data import square_fit
from jtl.data.decoding import HostTransform, decode
from jtl.data.input_plan import host_transform, plan_input
from jtl.export import inference
from jtl.models import Preprocessing
from jtl.runs.checkpoints.model_description import describe_model, rebuild_model
from support import tiny
from support.commands import main
from support.data_files import class_folders, encode, flat
from weights_convert.export import writer

PRE = Preprocessing(size=32)
FILL = (124, 116, 104)


def drawn(width: int, height: int) -> Image.Image:
    """Smooth blotches with sharp edges."""
    random = np.random.default_rng(width)
    coarse = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(("width", "height"), [(90, 40), (41, 90), (64, 64), (31, 7), (300, 2)])
def test_all_of_an_image_is_there(width: int, height: int):
    image = drawn(width, height)
    squashed = host_transform(32, PRE, fit="squash")(image)
    bicubic = Image.Resampling.BICUBIC
    np.testing.assert_array_equal(squashed, image.resize((32, 32), bicubic))
    padded = host_transform(32, PRE, fit="pad")(image)
    new = max(32 * width // max(width, height), 1), max(32 * height // max(width, height), 1)
    left, top = (32 - new[0]) // 2, (32 - new[1]) // 2
    inside = padded[top : top + new[1], left : left + new[0]]
    np.testing.assert_array_equal(inside, image.resize(new, bicubic))
    margin = np.ones((32, 32), bool)
    margin[top : top + new[1], left : left + new[0]] = False
    assert (padded[margin] == FILL).all()


def test_the_crop_stays_what_it_was():
    assert host_transform(32, PRE) == HostTransform(32, 0.875, "bicubic")
    assert repr(host_transform(32, PRE, fit="pad")) == repr(host_transform(32, PRE))


@pytest.mark.parametrize("how", ["pad", "squash"])
@pytest.mark.parametrize(("width", "height"), [(800, 300), (300, 801)])
def test_jpegs_scaled_while_they_are_decoded_are_nearly_the_same(how: Fit, width: int, height: int):
    data = encode(drawn(width, height), "JPEG", quality=95)
    scaled = host_transform(32, PRE, True, how)
    small = decode(data, "x", shorter_side=scaled.shorter_side)
    assert small.width < width
    whole = host_transform(32, PRE, False, how)(decode(data, "x"))
    difference = np.abs(scaled(small).astype(int) - whole)
    assert difference.mean() < 1


@pytest.mark.parametrize("how", ["pad", "squash"])
@pytest.mark.parametrize(("width", "height"), [(90, 40), (41, 90), (64, 64), (20, 20)])
@pytest.mark.parametrize("native", [None, (16, 16)])
def test_a_program_does_the_same(how: Fit, width: int, height: int, native: Any):
    inputs = plan_input(native, 32, PRE, fit=how)
    image = drawn(width, height)
    host = inputs.host_for((height, width))
    if host is None:
        return  # Small squares are enlarged whole, as ever.
    expected = host(image).astype(int)
    found = np.asarray(inference._fitted(jnp.asarray(np.asarray(image)[None]), inputs)[0])
    difference = np.abs(found - expected)
    # Pillow rounds after each direction, and takes them in the order that costs less.
    assert difference.max() <= 1
    assert difference.mean() < 0.15


@pytest.mark.parametrize("how", ["crop", "pad", "squash"])
@pytest.mark.parametrize(
    ("width", "height"), [(11, 30), (3, 100), (33, 43), (33, 44), (44, 33), (40, 130), (130, 40)]
)
def test_a_program_takes_rows_and_columns_in_the_order_of_pillow(how: Fit, width: int, height: int):
    """Noise, of which the other order makes other values."""
    inputs = plan_input(None, 24, PRE, fit=how)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    host = inputs.host_for((height, width))
    assert host is not None
    expected = host(Image.fromarray(pixels)).astype(int)
    found = np.asarray(inference._fitted(jnp.asarray(pixels[None]), inputs)[0])
    assert np.abs(found - expected).max() <= 1


@pytest.mark.parametrize("how", ["crop", "pad", "squash"])
@pytest.mark.parametrize("native", [None, (16, 16)])
def test_a_checkpoint_says_it(how: Fit, native: Any):
    inputs = plan_input(native, 32, PRE, fit=how)
    told = describe_model("resnet18", tiny.MODEL, inputs, "ab", conventions={}, source={})
    assert told["input"].get("fit", "crop") == how
    assert ("fit" in told["input"]) == (how != "crop")
    assert rebuild_model(json.loads(json.dumps(told)))[1] == inputs


def test_features_of_one_fit_are_not_taken_for_others():
    prefix: Any = dataclasses.make_dataclass("P", [("model", str)])("m")
    split = tiny.array_split(3)
    keys = {
        key_of(
            prefix, split, data="d", fingerprint="f", split_name="val",
            host=host_transform(32, PRE, fit=how), prepare=tiny.PREPARE,
        ).digest
        for how in ("crop", "pad", "squash")
    }  # fmt: skip
    assert len(keys) == 3


def test_random_crops_are_cut_from_all_of_it():
    inputs = plan_input(None, 32, PRE, fit="pad")
    assert inputs.host is not None
    augmented: Any = dataclasses.replace(
        inputs, augmentation=type("A", (), {"options": type("O", (), {"crops": True})})()
    )
    assert augmented.host_for(None, training=True) == dataclasses.replace(
        inputs.host, size=40, crop_pct=1.0
    )


def stripes(root: Path) -> Path:
    """Wide images whose classes are told by their ends alone."""
    for split, count in (("train", 8), ("val", 4)):
        for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (64, 16), (90 + index, 90, 90))
                image.paste(colour, (0, 0, 12, 16))
                image.save(root / split / name / f"{index}.png")
    return root


def test_a_run_sees_what_the_crop_loses(tiny_model: str, tmp_path: Path, capsys):
    data = stripes(tmp_path / "data")
    weights = tiny.write_weights(tmp_path / "weights")
    reached = {}
    for how in ("crop", "pad"):
        run = tmp_path / how
        given = ["--model", "tiny", "--weights", weights, "--data", data, "--run-dir", run]
        assert main("train", *given, "--fit", how, "--l2", "0.001") == 0
        summary = json.loads((run / "summary.json").read_text())
        reached[how] = summary["val_accuracy"]
        capsys.readouterr()
        assert main("evaluate", run, "--json") == 0
        assert json.loads(capsys.readouterr().out)["val_loss"] == summary["val_loss"]
    assert reached == {"crop": 0.5, "pad": 1.0}
    classifier = jtl.load(tmp_path / "pad")
    assert classifier.inputs.fit == "pad"
    assert classifier.predict(data / "val" / "red").labels == ["red"] * 4
    assert writer.load(tmp_path / "pad").use == {"fit": "pad"}
    assert writer.load(tmp_path / "crop").use == {}
    assert "--fit pad" in (tmp_path / "pad" / "report.md").read_text()


def test_check_says_what_the_crop_loses(tmp_path: Path, capsys):
    class_folders(tmp_path, "train/a", "train/b", count=5)
    for name in "abc":
        wide = io.BytesIO(encode(flat(160, 90, colour=(ord(name), 0, 0)), "PNG"))
        (tmp_path / "train" / "a" / f"{name}.png").write_bytes(wide.getvalue())
    main("data", "check", tmp_path)
    told = capsys.readouterr().out
    assert "loses 40 % or more of 3 of 13 images (23%), for example" in told
    assert "--fit pad or --fit squash" in told
    assert square_fit.crop_warning([(90, 160)] + [(100, 120)] * 19, ["x"] * 20) == []
    assert square_fit.crop_warning([], []) == []
