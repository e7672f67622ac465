"""Large JPEGs, which are scaled while they are decoded."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jtl import models
from jtl.config import walk
from jtl.config.options import Config
from jtl.data.decoding import HostTransform, decode
from jtl.data.input_plan import InputPlan, plan_input
from jtl.data.preprocessing import Prepare
from jtl.data.sources.encoded import EncodedSplit
from jtl.models import Preprocessing
from jtl.predict import predictions
from jtl.predict.inputs import items
from jtl.runs.checkpoints.model_description import describe_model, rebuild_model
from jtl.train.checks import checked
from jtl.train.setup import prepare_setup
from support import tiny

EXACT = HostTransform(64, 0.875, "bicubic")
SCALED = dataclasses.replace(EXACT, scaled_jpeg=True)
SHORT = 73  # Pixels of the shorter side before the crop.


def photo(width: int, height: int, *, orientation: int = 1, **how: Any) -> bytes:
    """A JPEG like a photograph: soft shapes, sharp edges and a sensor's noise."""
    rng = np.random.default_rng(0)
    soft = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    pixels = np.asarray(soft.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 240, 20)
    noisy = np.clip(pixels + rng.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(noisy).convert(how.pop("mode", "RGB")).save(
        file, how.pop("format", "JPEG"), exif=exif, **{"quality": 92, **how}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("size", "factor"),
    [
        ((4 * SHORT, 4 * SHORT - 1), 1),
        ((4 * SHORT + 3, 4 * SHORT), 2),
        ((900, 8 * SHORT - 1), 2),
        ((8 * SHORT + 5, 900), 4),
        ((1500, 16 * SHORT + 7), 8),
    ],
)
def test_a_jpeg_is_scaled_only_to_twice_what_is_needed(size, factor):
    image = decode(photo(*size), "x", shorter_side=SCALED.shorter_side)
    assert image.size == tuple(-(-side // factor) for side in size)
    assert factor == 1 or min(image.size) >= 2 * SHORT


@pytest.mark.parametrize(
    ("width", "height", "how"),
    [
        (1201, 1170, {}),
        (1207, 643, {}),
        (643, 1207, {"progressive": True}),
        *((907, 613, {"orientation": orientation}) for orientation in range(2, 9)),
        (613, 907, {"subsampling": 0}),
        (907, 613, {"mode": "L"}),
        (907, 613, {"mode": "CMYK"}),
        (907, 613, {"format": "MPO"}),
    ],
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_what_is_scaled_equals_the_exact_image_nearly(width, height, how, interpolation):
    data = photo(width, height, **how)
    exact, scaled = (dataclasses.replace(t, interpolation=interpolation) for t in (EXACT, SCALED))
    whole = exact(decode(data, "x"))
    quick = scaled(decode(data, "x", shorter_side=scaled.shorter_side))
    assert quick.shape == whole.shape
    differences = np.abs(whole.astype(int) - quick)
    assert differences.mean() < 1
    assert differences.max() < 32
    # Half a pixel to the side would be more than that.
    shifted = np.abs(whole[:, 1:].astype(int) - whole[:, :-1]).mean() / 2
    assert 2 * differences.mean() < shifted


def test_other_images_are_the_same_to_the_bit():
    for data in (photo(291, 400), photo(907, 613, format="PNG")):
        whole, quick = decode(data, "x"), decode(data, "x", shorter_side=SCALED.shorter_side)
        assert np.array_equal(np.asarray(whole), np.asarray(quick))
        assert np.array_equal(EXACT(whole), SCALED(quick))


def test_training_and_prediction_see_the_same(tmp_path):
    data = photo(907, 613)
    (tmp_path / "photo.jpg").write_bytes(data)
    expected = SCALED(decode(data, "x", shorter_side=SCALED.shorter_side))
    assert not np.array_equal(expected, EXACT(decode(data, "x")))
    split = EncodedSplit("x", ["a"], np.zeros(1, np.int32), lambda row, limit: data, stored_bytes=1)
    assert np.array_equal(split.read(np.zeros(1, int), SCALED)[0], expected)
    device = plan_input(None, 64, Preprocessing(size=64)).device
    seen: Any
    for host, wanted in ((SCALED, expected), (EXACT, EXACT(decode(data, "x")))):
        [seen] = predictions.decoded(items(tmp_path / "photo.jpg"), InputPlan(host, device))
        assert np.array_equal(seen, wanted)
    opened = items(Image.open(tmp_path / "photo.jpg"))  # Decoded by whoever opened it.
    [seen] = predictions.decoded(opened, InputPlan(SCALED, device))
    assert np.array_equal(seen, EXACT(decode(data, "x")))


def test_names_of_cache_entries_from_before_stay():
    told = "HostTransform(size=64, crop_pct=0.875, interpolation='bicubic')"
    assert repr(EXACT) == repr(SCALED) == told
    assert EXACT != SCALED


@pytest.mark.parametrize("host", [EXACT, SCALED])
def test_a_checkpoint_says_how_its_images_were_decoded(host):
    inputs = InputPlan(host, Prepare(64, Preprocessing(size=64, crop_pct=0.875)))
    model = models.create("resnet18", num_classes=2, head=models.HeadSpec())
    meta = describe_model("resnet18", model, inputs, "ab", conventions={}, source={})
    assert rebuild_model(json.loads(json.dumps(meta)))[1].host == host
    assert ("scaled_jpeg" in meta["input"]) == host.scaled_jpeg


@pytest.mark.usefixtures("tiny_model")
def test_a_run_keeps_its_decoding(tmp_path):
    for number in range(4):
        folder = tmp_path / "data" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(photo(40 + number, 50))
    tiny.write_weights(tmp_path / "weights")
    config = tiny.config(tmp_path / "data", None)
    for decoding in ("scaled", "exact"):
        config = walk.replace(config, {"jpeg_decoding": decoding})
        host = prepare_setup(checked(config), tiny.quiet()).inputs.host
        assert host is not None
        assert host.scaled_jpeg == (decoding == "scaled")
        stored = json.loads(json.dumps(config.to_dict()))
        assert Config.from_dict(stored).data.jpeg_decoding == decoding
    stored = Config().to_dict()
    assert Config.from_dict(stored).data.jpeg_decoding == "scaled"
    del stored["data"]["jpeg_decoding"]  # As runs from before have it.
    assert Config.from_dict(stored).data.jpeg_decoding == "exact"
