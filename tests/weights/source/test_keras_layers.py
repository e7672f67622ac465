"""Keras files with heads and with layers of their own, beside what Keras computes from bytes."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from jtl.data.preprocessing import Prepare
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.source import keras_layers, source_conversion, sources

SIZE = 64
BOUND = 1e-4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.peer,
    # Keras's variables have the signature of NumPy 1.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
    pytest.mark.usefixtures("with_keras"),
]


@pytest.fixture(scope="module")
def base() -> keras.Model:
    """DenseNet121 without its top, small values that keep activations in range."""
    keras.utils.set_random_seed(0)
    return keras.applications.DenseNet121(
        weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3)
    )


def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


@functools.cache
def program(num_classes: int | None) -> Any:
    """DenseNet121's logits, or averaged features; compiled once for all files."""
    head = models.get("densenet121").classifier if num_classes else None
    # As Keras's; what batches would do is not asked.
    norm = models.NormSpec(epsilon=1.001e-5, momentum=0.99, unbiased=False)
    model = models.create(
        "densenet121", num_classes=num_classes or 1, head=head, conventions={"norm": norm}
    )

    def run(variables: Any, x: Any) -> Any:
        out = model.apply(variables, x, train=False)
        return out if num_classes else out.mean((1, 2))

    return jax.jit(run)


def ours(checkpoint: ConvertedCheckpoint) -> np.ndarray:
    """Logits, or features, of bytes."""
    assert list(checkpoint.conventions) == ["norm"]
    assert checkpoint.conventions["norm"].epsilon == 1.001e-5
    x = Prepare(SIZE, checkpoint.preprocessing)(jnp.asarray(images()))
    return np.asarray(program(checkpoint.num_classes)(checkpoint.variables, x))


def theirs(model: keras.Model) -> np.ndarray:
    # Not step by step: each operation would be compiled alone.
    return np.asarray(jax.jit(model)(jnp.asarray(images(), jnp.float32)))


def assert_close(checkpoint: ConvertedCheckpoint, model: keras.Model) -> None:
    """The whole network gives what Keras gives, from bytes on. Compiles both: for one test."""
    expected = theirs(model)
    assert np.abs(ours(checkpoint) - expected).max() <= BOUND * np.abs(expected).max()


def assert_same_input(checkpoint: ConvertedCheckpoint, layers: list[Any]) -> None:
    """The network sees what Keras's layers make of bytes; its own parity is tested elsewhere."""
    x: Any = jnp.asarray(images(), jnp.float32)
    for layer in layers:
        # Which changes images in training alone, and outside of a model always.
        if not isinstance(layer, keras.layers.RandomFlip):
            x = layer(x)
    ours = Prepare(SIZE, checkpoint.preprocessing)(jnp.asarray(images()))
    assert np.abs(np.asarray(ours) - np.asarray(x)).max() <= BOUND * np.abs(np.asarray(x)).max()


def assert_same_weights(checkpoint: ConvertedCheckpoint, base: keras.Model) -> None:
    """The first and the last kernel of the backbone are the base's."""
    params = checkpoint.variables["params"]
    pairs = {
        "conv1_conv": params["stem"]["conv"],
        "conv5_block16_2_conv": params["stage4"]["block16"]["conv2"],
    }
    for name, ours in pairs.items():
        np.testing.assert_array_equal(ours["kernel"], np.asarray(base.get_layer(name).kernel))


def adapted() -> keras.layers.Layer:
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(1).uniform(-1, 3, (8, 4, 4, 3)))
    return layer


LAYERS = {
    "rescaling": lambda: [keras.layers.Rescaling(1 / 127.5, -1)],
    "normalization": lambda: [
        keras.layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[4000.0, 3000.0, 2500.0])
    ],
    "both, and adapted": lambda: [keras.layers.Rescaling(1 / 255), adapted()],
    "with augmentation": lambda: [
        keras.layers.RandomFlip(),
        keras.layers.Rescaling([0.01, 0.02, 0.03], [0.1, 0.2, 0.3]),
    ],
}


def whole(base: keras.Model, layers: list[Any], *heads: int, nested: bool = True) -> keras.Model:
    """Layers, the base and dense layers; the base a layer of its own, or its layers in line."""
    x = inputs = keras.Input((SIZE, SIZE, 3))
    for layer in layers:
        x = layer(x)
    x = base(x) if nested else keras.models.clone_model(base, input_tensors=x).output
    for width in heads:
        x = keras.layers.Dense(width)(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("case", "file"),
    [
        ("rescaling", "model.keras"),
        ("normalization", "model.keras"),
        ("both, and adapted", "model.keras"),
        ("both, and adapted", "model.h5"),
        ("with augmentation", "model.keras"),
    ],
)
def test_layers_that_scale_an_image_become_its_preprocessing(tmp_path, base, case, file):
    layers = LAYERS[case]()
    model = whole(base, layers, 5)
    model.save(tmp_path / file)
    checkpoint = source_conversion.convert_source(sources.locate(str(tmp_path / file)))
    assert (checkpoint.model, checkpoint.num_classes) == ("densenet121", 5)
    assert checkpoint.reading.preprocessing_by == "the model's own layers"
    assert checkpoint.source_format == {"model.keras": "keras-archive"}.get(file, "keras-h5")
    assert_same_input(checkpoint, layers)
    assert_same_weights(checkpoint, base)
    if case == "both, and adapted" and file == "model.keras":
        assert_close(checkpoint, model)


def test_without_such_layers_the_usual_preprocessing_stands(tmp_path, base):
    whole(base, [], 5).save(tmp_path / "model.keras")
    checkpoint = source_conversion.convert_source(sources.locate(str(tmp_path / "model.keras")))
    assert checkpoint.preprocessing == models.Preprocessing(size=SIZE)  # As its input has.
    told = "the model's own layers, the usual of such weights"
    assert checkpoint.reading.preprocessing_by == told


@pytest.mark.parametrize("file", ["model.weights.h5", "legacy.h5"])
def test_weights_alone_do_not_hold_the_constants(tmp_path, base, file):
    scaling = keras.layers.Rescaling(1 / 127.5, -1)
    model = whole(base, [scaling], 5)
    if file == "legacy.h5":
        legacy(model, tmp_path / file)
    else:
        model.save_weights(tmp_path / file)
    with pytest.raises(UserError, match=r"\(rescaling.*\).*model.save\('model.keras'\)") as caught:
        source_conversion.convert_source(sources.locate(str(tmp_path / file)))
    assert "--mean, --std and --bgr" in str(caught.value)
    # Whoever knows them says so.
    source = sources.locate(str(tmp_path / file))
    half = (0.5, 0.5, 0.5)
    source = source.declaring({"mean": half, "std": half}, "the flags")
    checkpoint = source_conversion.convert_source(source)
    assert_same_input(checkpoint, [scaling])
    assert_same_weights(checkpoint, base)


def legacy(model: keras.Model, path: Path) -> None:
    """As Keras 2 saved weights alone: without the configuration."""
    import h5py

    model.save(path)
    with h5py.File(path, "r+") as file:
        del file.attrs["model_config"]
        for name in list(file["model_weights"]):
            file.move(f"model_weights/{name}", name)
        for key, value in file["model_weights"].attrs.items():
            file.attrs[key] = value
        del file["model_weights"]


def test_operations_before_the_network_are_refused(tmp_path, base):
    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = base(keras.ops.square(x))
    keras.Model(inputs, x).save(tmp_path / "model.keras")
    with pytest.raises(UserError, match=r"a layer Square .*whose effect on an image is not read"):
        source_conversion.convert_source(sources.locate(str(tmp_path / "model.keras")))


@pytest.mark.parametrize("file", ["model.keras", "model.h5"])
def test_a_graph_that_jtl_does_not_have_is_refused_with_its_head(tmp_path, base, file):
    """A classifier on the largest values, not on the mean ones."""
    x = keras.layers.GlobalMaxPooling2D()(base.layers[-2].output)
    keras.Model(base.input, keras.layers.Dense(5)(x)).save(tmp_path / file)
    source = sources.locate(str(tmp_path / file))
    with pytest.raises(UserError, match=r"GlobalMaxPooling2D .*--drop-head"):
        source_conversion.convert_source(source)
    checkpoint = source_conversion.convert_source(source, drop_head=True)
    assert checkpoint.num_classes is None
    assert_same_weights(checkpoint, base)


def test_blue_first(tmp_path, base):
    """`--bgr`, with the mean and deviation of red, green and blue."""
    whole(base, [], 5).save_weights(tmp_path / "w.weights.h5")
    source = sources.locate(str(tmp_path / "w.weights.h5"), bgr=True)
    source = source.declaring({"mean": (0.5,) * 3, "std": (0.5,) * 3}, "the flags")
    checkpoint = source_conversion.convert_source(source)
    assert checkpoint.preprocessing.channel_order == "bgr"
    assert_same_input(checkpoint, [lambda x: x[..., ::-1] / 127.5 - 1])


@pytest.mark.parametrize(
    ("file", "nested"),
    [("model.keras", True), ("model.weights.h5", False), ("model.h5", True)],
)
def test_a_head_of_two_dense_layers_is_left_out_and_said(tmp_path, base, file, nested):
    model = whole(base, [], 32, 5, nested=nested)
    (model.save_weights if "weights" in file else model.save)(tmp_path / file)
    for drop_head in (False, True):
        source = sources.locate(str(tmp_path / file), "densenet121")
        checkpoint = source_conversion.convert_source(source, drop_head=drop_head)
        assert checkpoint.num_classes is None
        (keys,) = checkpoint.reading.ignored_because.values()
        assert len(keys) == 4
    if nested:
        assert_same_weights(checkpoint, base)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([("Rescaling", {"scale": -1, "offset": 0})], "which is no scale"),
        ([("Rescaling", {"scale": "x", "offset": 0})], "which is no scale"),
        ([("Rescaling", {"scale": [1, 2], "offset": 0})], "which is no scale"),
        ([("Normalization", {"axis": [1], "mean": 1, "variance": 1})], "along axis"),
        ([("Normalization", {"axis": [-1], "mean": None, "variance": None})], "without numbers"),
        ([("Lambda", {"name": "mine"})], r"a layer Lambda \('mine'\)"),
    ],
)
def test_layers_that_cannot_be_read(layers, message):
    config = {"class_name": "Functional", "config": {"layers": []}}
    for kind, options in [*layers, ("Conv2D", {})]:
        config["config"]["layers"].append({"class_name": kind, "config": options})
    with pytest.raises(UserError, match=message):
        keras_layers.declared(config, (), {})


def test_a_damaged_archive(tmp_path, base):
    whole(base, [], 5).save(tmp_path / "model.keras")
    good = bytearray((tmp_path / "model.keras").read_bytes())
    good[len(good) // 2] ^= 1
    (tmp_path / "model.keras").write_bytes(good)
    with pytest.raises(UserError, match=r"damaged .keras archive"):
        source_conversion.convert_source(sources.locate(str(tmp_path / "model.keras")))
