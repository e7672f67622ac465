"""MobileNetV2 of Keras in every form of its files, beside what Keras computes."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np
import pytest

from jtl import models
from jtl.common.errors import UserError
from weights_convert.source import keras_graph, source_conversion, sources

pytestmark = [
    pytest.mark.slow,
    pytest.mark.peer,
    # Keras's variables have the signature of NumPy 1.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
    pytest.mark.usefixtures("with_keras"),
]

SIDE = 64
SHAPE = (SIDE, SIDE, 3)
BYTES = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype(np.float32)
BYTES[1, :, : SIDE // 2] = 20  # Noise alone looks the same to every network.


def application(**options: Any) -> keras.Model:
    options |= {"weights": None, "input_shape": SHAPE}
    model = keras.applications.MobileNetV2(**options)
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            scale, bias, mean, var = (array.shape for array in layer.get_weights())
            layer.set_weights([
                random.uniform(0.6, 1.2, scale), random.normal(0, 0.2, bias),
                random.normal(0, 0.2, mean), random.uniform(0.6, 1.6, var),
            ])  # fmt: skip
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            # As large as keeps the signal: Keras's own fade from block to block.
            [kernel] = layer.get_weights()
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_in = np.prod(kernel.shape[: 2 if depthwise else 3])
            layer.set_weights([random.normal(0, (2 / fan_in) ** 0.5, kernel.shape)])
    return model


def converted(path: Path) -> Any:
    return source_conversion.convert_source(sources.locate(str(path), None))


def test_with_a_head_of_its_user(tmp_path: Path):
    """As in TensorFlow's tutorial: `preprocess_input`, a network without a top, a dense layer."""
    images = keras.Input(SHAPE)
    scaled = keras.applications.mobilenet_v2.preprocess_input(images)
    features = application(include_top=False)(scaled, training=False)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(images, keras.layers.Dense(5, activation="softmax")(pooled))
    model.save(tmp_path / "x.keras")
    found = converted(tmp_path / "x.keras")
    assert (found.model, found.num_classes) == ("mobilenet_v2", 5)
    assert found.preprocessing.mean == pytest.approx((0.5, 0.5, 0.5))
    assert found.preprocessing.std == pytest.approx((0.5, 0.5, 0.5))
    head = models.get("mobilenet_v2").classifier
    network = models.create("mobilenet_v2", num_classes=5, head=head, conventions=found.conventions)
    apply = jax.jit(functools.partial(network.apply, train=False))
    scores = jax.nn.softmax(apply(found.variables, BYTES / 127.5 - 1))
    expected = np.asarray(model.predict(BYTES, verbose=0))
    assert np.ptp(expected, axis=0).max() > 1e-3  # The images tell on them.
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_all_forms_of_a_file_are_one_network(tmp_path: Path):
    model = application(classes=7)
    found = []
    for name in ("x.h5", "x.keras", "x.weights.h5"):
        path = tmp_path / name
        model.save_weights(path) if ".weights" in name else model.save(path)
        found.append(converted(path))
    assert {(f.model, f.num_classes) for f in found} == {("mobilenet_v2", 7)}
    kernel = found[0].variables["params"]["stage2"]["block1"]["conv_dw"]["kernel"]
    own = model.get_layer("block_1_depthwise").get_weights()[0]
    np.testing.assert_array_equal(kernel[:, :, 0], own[..., 0])
    for other in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, found[0].variables, other.variables)


def test_another_activation_or_epsilon_is_refused():
    model = application(include_top=False)
    config = {"class_name": "Functional", "config": model.get_config()}
    backbone = models.create("mobilenet_v2").backbone
    usual = keras_graph.usual(backbone)
    keras_graph.check_backbone(config, 1e-3, usual)
    with pytest.raises(UserError, match=r"with epsilon 0\.001 where it has 1e-05"):
        keras_graph.check_backbone(config, 1e-5, usual)
    (first, *_) = (layer for layer in config["config"]["layers"] if layer["class_name"] == "ReLU")
    first["config"]["max_value"] = None
    with pytest.raises(UserError, match=r"a layer ReLU \('Conv1_relu'\), which jtl's network"):
        keras_graph.check_backbone(config, 1e-3, usual)
