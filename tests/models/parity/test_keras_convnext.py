"""ConvNeXt beside Keras's own: every file format, layers, logits, heads of a user's, and back."""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "jax"

import shutil
from pathlib import Path
from typing import Any

import h5py
import jax
import keras
import numpy as np
import pytest

from jtl.common.errors import UserError
from jtl.common.trees import lookup
from support.parity import UNIT_BOUND, build, random_images, run_units
from weights_convert.checkpoint.folder import write
from weights_convert.convert.conversion import Converted, convert
from weights_convert.export.writer import export
from weights_convert.read import readers
from weights_convert.source import source_conversion, sources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.peer,
    # Keras's variables have the signature of NumPy 1.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
    pytest.mark.usefixtures("with_keras"),
]

SIZE, CLASSES = 32, 5


def network(**options: Any) -> keras.Model:
    model = keras.applications.ConvNeXtTiny(weights=None, input_shape=(SIZE, SIZE, 3), **options)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        shape: Any = variable.shape
        if len(shape) > 1:
            value = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
        elif "gamma" in variable.path or "scale" in variable.path:
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(0, 0.1, shape)
        variable.assign(value.astype(np.float32))
    return model


@pytest.fixture(scope="module")
def tiny() -> keras.Model:
    return network(classes=CLASSES, classifier_activation=None)


@pytest.fixture(scope="module")
def bare() -> keras.Model:
    return network(include_top=False, pooling="avg")


def read(path: Path) -> Converted:
    return convert(readers.read(path).tensors)


def without_names(path: Path, out: Path) -> None:
    """The file as Keras 3's first versions wrote it."""
    shutil.copyfile(path, out)
    with h5py.File(out, "a") as file:

        def strip(name: str, group: Any) -> None:
            if name.endswith("vars"):
                group.attrs.pop("name", None)

        file.visititems(strip)


def test_every_file_format(tiny, tmp_path):
    tiny.save_weights(tmp_path / "a.weights.h5")
    tiny.save(tmp_path / "a.keras")
    tiny.save(tmp_path / "a.h5")
    without_names(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5")
    converted = read(tmp_path / "a.weights.h5")
    assert (converted.model, converted.library) == ("convnext_tiny", "keras")
    assert converted.num_classes == CLASSES
    for name, library in {
        "a.keras": "keras",
        "a.h5": "keras",
        "b.weights.h5": "keras (numbered)",
    }.items():
        again = read(tmp_path / name)
        assert again.library == library
        jax.tree.map(np.testing.assert_array_equal, again.variables, converted.variables)

    images = random_images(2, SIZE, SIZE)
    model = build(converted)
    logits, seen = run_units(model, converted.variables, images)
    joints = [x.output for x in tiny.operations if type(x).__name__ == "Add"]
    first = tiny.get_layer("convnext_tiny_stem").input  # Behind what scales images.
    run = keras.Model(first, [*joints, tiny.output])
    *expected, expected_logits = (np.asarray(x) for x in run(images, training=False))
    blocks = [unit.path for unit in model.units() if "/block" in unit.path]
    assert len(blocks) == len(expected) == 18
    for path, want in zip(blocks, expected, strict=True):
        (actual,) = lookup(seen, (*path.split("/"), "__call__"))
        assert np.std(want) > 0.1
        assert np.abs(actual - want).max() <= UNIT_BOUND * np.abs(want).max(), path
    error = np.abs(logits - expected_logits).max()
    assert error <= UNIT_BOUND * np.abs(expected_logits).max()


def test_what_jtl_exports_loads_in_keras(tiny, tmp_path):
    tiny.save_weights(tmp_path / "a.weights.h5")
    source = sources.locate(str(tmp_path / "a.weights.h5"))
    found = source_conversion.convert_source(source)
    # By the layer of the network itself.
    assert found.preprocessing.mean == (0.485, 0.456, 0.406)
    write(tmp_path / "converted", found)
    export(tmp_path / "converted", "keras", tmp_path / "out.weights.h5")
    again = network(classes=CLASSES, include_preprocessing=False)
    again.load_weights(tmp_path / "out.weights.h5")
    for mine, theirs in zip(again.weights, tiny.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("file", ["a.weights.h5", "a.keras", "a.h5"])
def test_a_head_of_ones_own(bare, tmp_path, file):
    head = keras.layers.Dense(3, name="ash_birch_cedar")
    tuned = keras.Sequential([bare, keras.layers.Dropout(0.5), head])
    (tuned.save_weights if file == "a.weights.h5" else tuned.save)(tmp_path / file)
    found = source_conversion.convert_source(sources.locate(str(tmp_path / file)))
    assert (found.model, found.num_classes) == ("convnext_tiny", 3)
    np.testing.assert_array_equal(
        found.variables["params"]["head"]["logits"]["kernel"], head.kernel
    )
    final: Any = bare.layers[-1]
    np.testing.assert_array_equal(found.variables["params"]["final"]["norm"]["scale"], final.gamma)


def test_pooling_after_the_last_normalization_is_refused(tmp_path):
    # Another network: jtl's, as Keras's own classifier, normalizes what is pooled.
    base = network(include_top=False)
    pooled = keras.layers.GlobalAveragePooling2D()(base.output)
    keras.Model(base.input, keras.layers.Dense(3)(pooled)).save(tmp_path / "a.keras")
    with pytest.raises(UserError, match="a layer LayerNormalization"):
        source_conversion.convert_source(sources.locate(str(tmp_path / "a.keras")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"epsilon": 1e-06', '"epsilon": 0.001'),
        ('"activation": "gelu"', '"activation": "relu"'),
    ],
)
def test_other_layers_within_are_refused(tiny, tmp_path, old, new):
    text = tiny.to_json()
    assert old in text
    tiny.save(tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file.attrs["model_config"] = text.replace(old, new)
    with pytest.raises(UserError, match="its network has a layer"):
        source_conversion.convert_source(sources.locate(str(tmp_path / "a.h5")))
