"""Published files of older formats, with the ImageNet weights that they hold."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jtl import models
from jtl.common.errors import UserError
from support.paths import SHARED_DATA as SHARED
from weights_convert.read.readers import read
from weights_convert.source import source_conversion, sources

WEIGHTS = SHARED / "weights"
TFLITE = WEIGHTS / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
SQUEEZENET = WEIGHTS / "squeezenet1_1_keras1_notop.h5"

needs_tflite = pytest.mark.skipif(not TFLITE.is_file(), reason="needs ../shared/data/weights")
needs_squeezenet = pytest.mark.skipif(not SQUEEZENET.is_file(), reason="needs ../shared/data")


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Every sixth image of the sample, prepared as TensorFlow does, and its class from 0."""
    found, labels = [], []
    with zipfile.ZipFile(SHARED / "imagenet-sample.zip") as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".jpg"))[::6][:count]:
            image = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
            scale = 256 / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            image = image.resize(size, Image.Resampling.BICUBIC)
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            found.append(np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32))
            labels.append(int(Path(name).name[:4]))
    return np.stack(found), np.array(labels)


@needs_tflite
@pytest.mark.slow
def test_an_int8_mobilenet_recognizes_what_is_in_images():
    checkpoint = source_conversion.convert_source(sources.locate(str(TFLITE)))
    assert (checkpoint.model, checkpoint.library) == ("mobilenet_v2", "tflite")
    assert (checkpoint.num_classes, checkpoint.num_params) == (1001, 3_506_153)
    assert any("--bn frozen" in note for note in checkpoint.notes)
    model = models.create("mobilenet_v2", num_classes=1001, conventions=checkpoint.conventions)
    pixels, labels = images(80)
    pre = checkpoint.preprocessing
    x = (pixels / 255 - np.float32(pre.mean)) / np.float32(pre.std)
    predict = jax.jit(model.apply)
    logits = np.concatenate([predict(checkpoint.variables, batch) for batch in np.split(x, 4)])
    # Class 0 is the background.
    assert (logits.argmax(-1) == labels + 1).sum() >= 71


@needs_tflite
def test_damaged_tflite_files_are_read_or_refused(tmp_path):
    good = TFLITE.read_bytes()
    path = tmp_path / "x.tflite"
    rng = np.random.default_rng(0)
    for cut in (9, 40, len(good) // 2, len(good) - 30_000):
        path.write_bytes(good[:cut])
        with pytest.raises(UserError, match=r"TensorFlow Lite file"):
            read(path)
    ends = np.concatenate([np.arange(4), np.arange(8, 200), len(good) - 1 - np.arange(60_000)])
    for _ in range(60):
        damaged = bytearray(good)
        for place in rng.choice(ends, 3):
            damaged[int(place)] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with contextlib.suppress(UserError):
            assert read(path).tensors


@needs_squeezenet
def test_a_keras_1_file_whose_names_say_nothing():
    """`uniform12`, `conv1_b`: the order in a layer decides what a variable is."""
    for model in (None, "squeezenet1_1"):
        checkpoint = source_conversion.convert_source(sources.locate(str(SQUEEZENET), model))
        assert (checkpoint.model, checkpoint.num_classes) == ("squeezenet1_1", None)
        assert (checkpoint.num_params, checkpoint.library) == (722_496, "keras-squeezenet")
        assert checkpoint.preprocessing.channel_order == "bgr"


@needs_squeezenet
@pytest.mark.peer
@pytest.mark.usefixtures("keras_drawn")
@pytest.mark.parametrize("size", [96, 99])
def test_the_squeezenet_computes_what_keras_computes(size):
    """At 99 pixels a pooling meets a last partial window, which Keras drops."""
    with jax.numpy_rank_promotion("allow"):  # Keras relies on broadcasting.
        import keras

        source = read(SQUEEZENET).tensors
        x = inputs = keras.Input((size, size, 3))
        layers = {}

        def convolution(name: str, filters: int, kernel: int, **options):
            layers[name] = keras.layers.Conv2D(filters, kernel, activation="relu", **options)
            return layers[name]

        x = convolution("conv1", 64, 3, strides=2)(x)
        x = keras.layers.MaxPooling2D(3, 2)(x)
        widths = [16, 16, 32, 32, 48, 48, 64, 64]
        for number, width in enumerate(widths, 2):
            x = convolution(f"fire{number}/squeeze1x1", width, 1)(x)
            left = convolution(f"fire{number}/expand1x1", 4 * width, 1)(x)
            right = convolution(f"fire{number}/expand3x3", 4 * width, 3, padding="same")(x)
            x = keras.layers.Concatenate()([left, right])
            if number in (3, 5):
                x = keras.layers.MaxPooling2D(3, 2)(x)
        network = keras.Model(inputs, x)
        for name, layer in layers.items():
            layer.set_weights([source[f"{name}/kernel"], source[f"{name}/bias"]])
        pixels = np.random.default_rng(0).uniform(-110, 140, (2, size, size, 3)).astype(np.float32)
        expected = np.asarray(network(pixels))
    checkpoint = source_conversion.convert_source(sources.locate(str(SQUEEZENET)))
    model = models.create("squeezenet1_1", head=None, conventions=checkpoint.conventions)
    ours = np.asarray(model.apply(checkpoint.variables, jnp.asarray(pixels), train=False))
    assert ours.shape == expected.shape
    assert np.abs(ours - expected).max() <= 1e-4 * np.abs(expected).max()
