"""The parity ladder against Keras, through its own files: counts, units, logits, a step."""

from __future__ import annotations

import dataclasses
import os
import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before the first import of Keras, which reads it once.
os.environ["KERAS_BACKEND"] = "jax"

import h5py
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from jtl import models
from jtl.common.trees import lookup
from jtl.data.preprocessing import Prepare
from jtl.models import NormSpec, registry
from support.keras_draws import randomize
from support.parity import (
    LEARNING_RATE,
    MOMENTUM,
    build,
    check_step,
    random_images,
    run_units,
    train_step,
)
from weights_convert.convert.conversion import Converted, convert, identify
from weights_convert.convert.counting import from_zero
from weights_convert.convert.rules import KERAS, leaf_paths
from weights_convert.convert.tables import TABLES
from weights_convert.read import readers
from weights_convert.source import source_conversion, sources
from weights_convert.verify import peers, report

SIZE, CLASSES = 64, 10
# As in the ladder against timm: relative to the largest value of a unit's output. Measured,
# over all units of both models: 1.4e-6.
UNIT_BOUND = 5e-6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.peer,
    # Keras's variables have the signature of NumPy 1.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
    pytest.mark.usefixtures("with_keras"),
]


def away_from_kinks(model: keras.Model, seed: int = 2) -> None:
    """Normalizations whose outputs rarely lie near ReLU's kink; see `parity.away_from_kinks`."""
    rng = np.random.default_rng(seed)
    norms: Any = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    for layer in norms:
        gamma = rng.uniform(0.5, 0.85, layer.gamma.shape)
        beta = rng.normal(3, 0.1, layer.beta.shape)
        if layer.name.endswith("_1_bn"):
            beta[::4] *= -1
        layer.gamma.assign(gamma.astype(np.float32))
        layer.beta.assign(beta.astype(np.float32))


@pytest.fixture(scope="module")
def resnet50() -> keras.Model:
    return _application("ResNet50")


@pytest.fixture(scope="module")
def densenet121() -> keras.Model:
    return _application("DenseNet121")


@pytest.fixture(scope="module")
def inception_v3() -> keras.Model:
    # Keras counts through the whole process: this model's layers do not begin at 0.
    keras.layers.Conv2D(1, 1)
    keras.layers.BatchNormalization()
    return _application("InceptionV3", size=96)


@pytest.fixture(scope="module")
def mobilenet_v3_small() -> keras.Model:
    return _application("MobileNetV3Small", include_preprocessing=False)


@pytest.fixture(scope="module")
def efficientnet_b0() -> keras.Model:
    return _application("EfficientNetB0")


@pytest.fixture(scope="module")
def efficientnet_v2_b0() -> keras.Model:
    return _application("EfficientNetV2B0", include_preprocessing=False)


@pytest.fixture(scope="module")
def vgg16_no_top() -> keras.Model:
    """Without dense layers, for images of any size, and with a classifier of one's own."""
    base = keras.applications.VGG16(
        weights=None, include_top=False, pooling="avg", input_shape=(SIZE, SIZE, 3)
    )
    logits = keras.layers.Dense(CLASSES, name="predictions")(base.output)
    return _randomized(keras.Model(base.input, logits))


@pytest.fixture(scope="module")
def narrow_vgg16() -> Iterator[keras.Model]:
    """With its dense layers, narrowed to 32 channels, also in jtl's registry."""
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    x = keras.layers.Flatten(name="flatten")(base.output)
    for name in ("fc1", "fc2"):
        x = keras.layers.Dense(32, activation="relu", name=name)(x)
    logits = keras.layers.Dense(CLASSES, name="predictions")(x)
    entry = models.get("vgg16")
    backbone: Any = dataclasses.replace(entry.backbone, widths=(32, 32))
    entry = dataclasses.replace(entry, name="narrow_vgg16", build=lambda: backbone)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.ENTRIES, entry.name, entry)
        yield _randomized(keras.Model(base.input, logits))


def _application(name: str, size: int = SIZE, **options: Any) -> keras.Model:
    model = getattr(keras.applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
        **options,
    )
    return _randomized(model)


def _randomized(model: keras.Model) -> keras.Model:
    randomize(model)
    return model


def save_old_layout(
    model: keras.Model, path: Path, rename: Callable[[str], str] = lambda layer: layer
) -> None:
    """Keras 2's weights alone: the whole-model file's inner level, with its `:0` suffixes."""
    with h5py.File(path, "w") as file:
        names = [rename(layer.name) for layer in model.layers]
        file.attrs["layer_names"] = [name.encode() for name in names]
        file.attrs["keras_version"] = b"2.2.4"
        for name, layer in zip(names, model.layers, strict=True):
            group = file.create_group(name)
            keys = [f"{name}/{v.name}:0".encode() for v in layer.weights]
            group.attrs["weight_names"] = keys
            for key, variable in zip(keys, layer.weights, strict=True):
                group.create_dataset(key, data=variable.numpy())


SAVE: dict[str, Callable[[keras.Model, Path], Any]] = {
    "keras3.weights.h5": lambda model, path: model.save_weights(path),
    "keras3.h5": lambda model, path: model.save(path),
    "keras2.h5": save_old_layout,
}


def tensors(model: keras.Model) -> dict[str, np.ndarray]:
    return {f"{layer.name}/{v.name}": v.numpy() for layer in model.layers for v in layer.weights}


def run_layers(model: keras.Model, names: list[str], images: np.ndarray) -> list[np.ndarray]:
    """The outputs of some layers in inference, and the model's."""
    outputs = [model.get_layer(name).output for name in names]
    inner = keras.Model(model.input, [*outputs, model.output])
    variables = (
        [v.value for v in inner.trainable_variables],
        [v.value for v in inner.non_trainable_variables],
    )
    run = jax.jit(lambda a, b, x: inner.stateless_call(a, b, x, training=False)[0])
    return [np.asarray(output) for output in run(*variables, images)]


def keras_layer(path: str, family: str, model: keras.Model) -> str:
    """Keras's layer whose output is that of the unit at `path`."""
    if family == "inception":
        return _inception_layer(path, model)
    if family == "vgg":
        return _vgg_layer(path, model)
    if family.startswith("efficientnet"):
        return _efficientnet_layer(path, model)
    if family == "mobilenet_v3":
        return _mobile_layer(path, model)
    single = {"pool": "avg_pool", "final": "relu"}
    single["stem"] = {"resnet": "pool1_pool", "densenet": "pool1"}[family]
    if path in single:
        return single[path]
    stage, block = path.split("/")
    number = int(stage.removeprefix("stage")) + 1
    if block == "transition":
        return f"pool{number}_pool"
    return f"conv{number}_{block}_{'out' if family == 'resnet' else 'concat'}"


def _of_kind(model: keras.Model, kind: type) -> list[str]:
    return [layer.name for layer in model.layers if isinstance(layer, kind)]


def _inception_layer(path: str, model: keras.Model) -> str:
    if path == "stem":
        return _of_kind(model, keras.layers.MaxPooling2D)[1]
    if path == "pool":
        return "avg_pool"
    stage, block = (int(part[-1]) for part in path.split("/"))
    return f"mixed{(0, 3, 8)[stage - 1] + block - 1}"


def _efficientnet_layer(path: str, model: keras.Model) -> str:
    ends = {"stem": "stem_activation", "final": "top_activation", "pool": "avg_pool"}
    if path in ends:
        return ends[path]
    stage, block = (int(re.sub(r"\D", "", part)) for part in path.split("/"))
    prefix = f"block{stage}{string.ascii_lowercase[block - 1]}_"
    names = {layer.name for layer in model.layers}
    ends = ("add", "project_activation", "project_bn")
    return next(prefix + end for end in ends if prefix + end in names)


def _mobile_layer(path: str, model: keras.Model) -> str:
    ends = {"stem": "conv_bn", "final": "conv_1_bn", "fc": "conv_2", "pool": "conv_2"}
    if path not in ends:
        blocks = [u.path for u in models.get("mobilenet_v3_small").backbone.units()][1:-2]
        prefix = f"expanded_conv_{blocks.index(path)}_" if blocks.index(path) else "expanded_conv_"
        names = {layer.name for layer in model.layers}
        return prefix + ("add" if f"{prefix}add" in names else "project_bn")
    before = model.get_layer(ends[path]).output
    return next(x.name for x in model.layers if getattr(x, "input", None) is before)


def _vgg_layer(path: str, model: keras.Model) -> str:
    if path == "pool":
        return (_of_kind(model, keras.layers.GlobalAveragePooling2D) or ["fc2"])[0]
    stage, _, block = path.partition("/")
    return f"block{stage[5:]}_{block.replace('block', 'conv')}" if block else path


def relative_error(actual: Any, expected: np.ndarray) -> float:
    # A dense layer's [N, C] is [N, 1, 1, C] here.
    assert expected.squeeze().shape == actual.squeeze().shape
    expected = expected.reshape(actual.shape)
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


def backbone_weights(peer: keras.Model) -> int:
    """How many weights there are, but for those of layers that scale images."""
    scaling = [x for x in peer.layers if isinstance(x, keras.layers.Normalization)]
    return len(peer.weights) - sum(len(layer.weights) for layer in scaling)


def assert_ladder(peer: keras.Model, converted: Converted) -> None:
    model = build(converted)
    family = models.get(converted.model).family
    sizes = [leaf.size for leaf in jax.tree.leaves(converted.variables["params"])]
    assert sum(sizes) == sum(int(np.prod(v.shape)) for v in peer.trainable_variables)
    assert len(leaf_paths(converted.variables)) == backbone_weights(peer)

    images = random_images(2, *peer.input_shape[1:3])
    paths = [unit.path for unit in model.units() if unit.path != "head"]
    *expected, expected_logits = run_layers(
        peer,
        [keras_layer(path, family, peer) for path in paths],
        images * 255 if family == "efficientnet" else images,  # Its first layer divides by 255.
    )
    logits, intermediates = run_units(model, converted.variables, images)
    errors, before = {}, np.zeros((0,))
    for path, want in zip(paths, expected, strict=True):
        assert np.abs(want).max() < 100, f"{path} explodes"
        assert want.std() > 0.05, f"{path} vanishes"
        (actual,) = lookup(intermediates, (*path.split("/"), "__call__"))
        new = 0
        if family == "densenet" and "/block" in path:
            # What was there passes untouched, and could hide an error in what is new.
            new = before.shape[-1]
            np.testing.assert_array_equal(actual[..., :new], before)
        errors[path] = relative_error(actual[..., new:], want[..., new:])
        before = actual
    assert {p: e for p, e in errors.items() if e > UNIT_BOUND} == {}
    assert relative_error(logits, expected_logits) <= UNIT_BOUND


LIBRARIES = {
    "resnet50": "keras",
    "densenet121": "keras",
    "inception_v3": "keras",
    "mobilenet_v3_small": "keras",
    "efficientnet_b0": "keras",
    "efficientnet_v2_b0": "keras",
    "vgg16_no_top": "keras (no top)",
    "narrow_vgg16": "keras",
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_ladder_through_every_file_format(name, request, tmp_path):
    peer = request.getfixturevalue(name)
    converted = None
    for file, save in SAVE.items():
        save(peer, tmp_path / file)
        source = readers.read(tmp_path / file)
        arrays = {k: a for k, a in source.tensors.items() if not k.startswith("normalization")}
        again = convert(arrays, name if name.startswith("narrow") else None)
        if converted is None:
            converted = again
            assert source.format == "keras-weights-h5"
            assert again.dtypes == {"float32": backbone_weights(peer)}
            assert again.model == name.removesuffix("_no_top")
            assert (again.library, again.num_classes) == (LIBRARIES[name], CLASSES)
            assert_ladder(peer, again)
        else:
            assert source.format == "keras-h5"
            assert again.library == converted.library
            assert again.conventions == converted.conventions
            jax.tree.map(np.testing.assert_array_equal, again.variables, converted.variables)


def keras_train_step(model: keras.Model, images: np.ndarray, labels: np.ndarray) -> float:
    """One step of Keras's SGD with momentum, in place; returns the loss."""
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def compute_loss(trained: list, others: list) -> Any:
        result: Any = model.stateless_call(trained, others, images, training=True)
        logits, others = result
        return loss_of(labels, logits), others

    def step(trained: list, others: list, slots: list) -> Any:
        gradient_of = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, others), gradients = gradient_of(trained, others)
        trained = optimizer.stateless_apply(slots, gradients, trained)[0]
        return loss, trained, others

    groups = model.trainable_variables, model.non_trainable_variables, optimizer.variables
    values = [[variable.value for variable in group] for group in groups]
    loss, *updated = jax.jit(step)(*values)
    for group, news in zip(groups, updated, strict=False):
        for variable, new in zip(group, news, strict=True):
            variable.assign(new)
    return float(loss)


def test_one_train_step_equals_kerass(resnet50):
    before = [v.numpy().copy() for v in resnet50.variables]
    try:
        away_from_kinks(resnet50)
        converted = convert(tensors(resnet50))
        images = random_images(8, SIZE, SIZE)
        labels = np.random.default_rng(3).integers(0, CLASSES, 8)
        expected_loss = keras_train_step(resnet50, images, labels)
        expected = convert(tensors(resnet50)).variables
    finally:
        for variable, value in zip(resnet50.variables, before, strict=True):
            variable.assign(value)
    loss, after = train_step(build(converted), converted.variables, images, labels)
    check_step(loss, after, converted.variables, expected_loss, expected, moved=50)


# Keras's other conventions, from the same models.


def rename_resnet(layer: str) -> str:
    """Keras 2.2's name of a layer of ResNet50."""
    names = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000"}
    if layer not in names and layer.startswith("conv"):
        stage, block, number, kind = layer.split("_")
        branch = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}[number]
        prefix = {"conv": "res", "bn": "bn"}.get(kind, kind)
        return f"{prefix}{stage[4]}{'_abcdef'[int(block[5:])]}_branch{branch}"
    return names.get(layer, layer)


def rename_densenet(layer: str) -> str:
    names = {"conv1_conv": "conv1/conv", "conv1_bn": "conv1/bn", "predictions": "fc1000"}
    return names.get(layer, layer)


def test_resnet50_of_keras_2_2(resnet50):
    norms = [x for x in resnet50.layers if isinstance(x, keras.layers.BatchNormalization)]
    source = {
        f"{rename_resnet(key.split('/')[0])}/{key.split('/')[1]}": array
        for key, array in tensors(resnet50).items()
    }
    assert "res4f_branch2c/kernel" in source
    converted = convert(source)
    assert (converted.model, converted.library) == ("resnet50", "keras (old keys)")
    assert converted.conventions["norm"] == NormSpec(1e-3, 0.99, unbiased=False)
    assert converted.num_classes == CLASSES
    assert {norm.epsilon for norm in norms} == {1.001e-5}
    try:
        for norm in norms:
            norm.epsilon = 1e-3
        assert_ladder(resnet50, converted)
    finally:
        for norm in norms:
            norm.epsilon = 1.001e-5


def test_densenet121_of_keras_2(densenet121, tmp_path):
    save_old_layout(densenet121, tmp_path / "a.h5", rename_densenet)
    source = readers.read(tmp_path / "a.h5")
    assert "conv1/bn/gamma" in source.tensors
    converted, expected = convert(source.tensors), convert(tensors(densenet121))
    assert (converted.model, converted.library) == ("densenet121", "keras (old keys)")
    assert converted.conventions == expected.conventions
    jax.tree.map(np.testing.assert_array_equal, converted.variables, expected.variables)


@pytest.mark.parametrize("name", LIBRARIES)
def test_files_of_early_keras_3_hold_no_names(name, request, tmp_path):
    peer = request.getfixturevalue(name)
    peer.save_weights(tmp_path / "a.weights.h5")
    with h5py.File(tmp_path / "a.weights.h5", "a") as file:
        layers: Any = file["layers"]
        for group in [file, *layers.values()]:
            group["vars"].attrs.pop("name", None)
    source = readers.read(tmp_path / "a.weights.h5").tensors
    source = {k: a for k, a in source.items() if not k.startswith("normalization")}
    assert "conv2d/kernel" in source
    assert not {"conv", "conv1_conv", "block1_conv1"} & {key.split("/")[0] for key in source}
    model = name if name.startswith("narrow") else None
    named = {k: a for k, a in tensors(peer).items() if not k.startswith("normalization")}
    converted, expected = convert(source, model), convert(named, model)
    numbered = "(numbered, no top)" if name.endswith("_no_top") else "(numbered)"
    assert converted.library == f"keras {numbered}"
    assert converted.model == name.removesuffix("_no_top")
    assert converted.conventions == expected.conventions
    jax.tree.map(np.testing.assert_array_equal, converted.variables, expected.variables)


@pytest.mark.parametrize("file", ["a.weights.h5", "a.h5"])
def test_a_head_of_ones_own(resnet50, tmp_path, file):
    features = resnet50.get_layer("conv5_block3_out").output
    bare = keras.Model(resnet50.input, features, name="resnet50")
    tuned = keras.Sequential(
        [
            bare,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3, name="ash_birch_cedar"),
        ]
    )
    expected = convert(tensors(resnet50)).variables
    for model, classes in ((bare, None), (tuned, 3)):
        save = model.save_weights if file.endswith(".weights.h5") else model.save
        save(tmp_path / file, overwrite=True)
        source = readers.read(tmp_path / file).tensors
        converted = convert(source)
        assert (converted.library, converted.num_classes) == ("keras", classes)
        head = converted.variables["params"].pop("head", None)
        kernel = tuned.layers[-1].kernel.numpy()
        assert head is None or np.array_equal(head["logits"]["kernel"], kernel)
        del (stripped := {**expected["params"]})["head"]
        jax.tree.map(np.testing.assert_array_equal, converted.variables["params"], stripped)
        without = convert(source, drop_head=True)
        assert without.num_classes is None
        assert without.variables["params"].keys() == stripped.keys()
    assert "classifier 'ash_birch_cedar' with 3 classes" in identify(source)[1]


# Preprocessing.


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("resnet50", "resnet50"),
        ("densenet121", "densenet"),
        ("vgg16", "vgg16"),
        ("inception_v3", "inception_v3"),
    ],
)
def test_preprocessing(name, module):
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    preprocessing: Any
    (preprocessing,) = {t.preprocessing for t in TABLES if t.leaves is KERAS and t.family in name}
    expected = getattr(keras.applications, module).preprocess_input(images.astype(np.float64))
    prepare = Prepare(32, preprocessing)
    assert relative_error(prepare(jnp.asarray(images)), expected) < 1e-6


def test_a_files_preprocessing_reaches_the_checkpoint(densenet121, resnet50, tmp_path):
    for model, order in ((resnet50, "bgr"), (densenet121, "rgb")):
        model.save_weights(tmp_path / "a.weights.h5", overwrite=True)
        found = source_conversion.convert_source(sources.locate(str(tmp_path / "a.weights.h5")))
        assert found.preprocessing.channel_order == order
        assert found.source_format == "keras-weights-h5"


@pytest.mark.parametrize("name", ["vgg16_no_top", "inception_v3"])
def test_every_layer_is_compared_before_its_activation(name, request, tmp_path):
    """The peer of a verification, in a network whose layers activate and in one of numbers."""
    request.getfixturevalue(name).save_weights(tmp_path / "a.weights.h5")
    size = request.getfixturevalue(name).input_shape[1]
    located = sources.locate(str(tmp_path / "a.weights.h5"))
    source = dataclasses.replace(located, preprocessing={"size": size})
    # Keras's own network has no classifier behind VGG16's last pooling.
    found = source_conversion.convert_source(source, drop_head=name.startswith("vgg"))
    peer = peers.load(found, source)
    model = report.build(found)
    rows, figures = report._compare_forward(peer, model, found, [random_images(2, size, size)])
    layers = {"vgg16_no_top": 13, "inception_v3": 2 * 94 + 1}[name]
    assert sum(row.layers for row in rows) == layers
    assert max(row.max_rel for row in rows) < 1e-5
    assert all(figure.within for figure in figures)
    # The step has a network of its own, whose layers Keras may call otherwise.
    again = peer._build(size)
    found = peer._by_source_key(again, {v.path: v.numpy() for v in again.variables})
    given = from_zero(readers.read(source.path).tensors)
    assert found.keys() <= given.keys()
    assert all(np.array_equal(array, given[key]) for key, array in found.items())
