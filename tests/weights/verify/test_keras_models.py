"""Verification against a whole Keras model: layers around the backbone, which is a layer itself."""

from __future__ import annotations

import json
import os
import types
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
import pytest
from keras import layers

from jtl.common.errors import UserError
from weights_convert.__main__ import main
from weights_convert.source import keras_graph, source_conversion, sources
from weights_convert.verify import keras_model, keras_peer, peers
from weights_convert.verify import report as verify

SIZE = 64

pytestmark = [
    pytest.mark.usefixtures("with_keras"),
    pytest.mark.slow,
    pytest.mark.peer,
    pytest.mark.filterwarnings(
        # Keras's variables have the signature of NumPy 1.
        "ignore:__array__ implementation doesn't accept a copy keyword",
        "ignore:You are saving your model as an HDF5 file",
    ),
]


@pytest.fixture(scope="module")
def base() -> keras.Model:
    keras.utils.set_random_seed(0)
    network = keras.applications.VGG16(weights=None, include_top=False, input_shape=(SIZE, SIZE, 3))
    rng = np.random.default_rng(0)
    for layer in network.layers:
        for variable in layer.weights:
            kernel = variable.name == "kernel"
            spread = (2 / np.prod(variable.shape[:-1])) ** 0.5 if kernel else 0.1
            variable.assign(spread * rng.standard_normal(variable.shape).astype(np.float32))
    return network


def save(base: keras.Model, path: Path, *head: Any) -> Path:
    """As the guides of Keras build a transfer: augmentation, scaling, a frozen base, a head."""
    x = inputs = keras.Input((SIZE, SIZE, 3))
    for layer in (layers.RandomFlip(), layers.Rescaling(1 / 127.5, -1)):
        x = layer(x)
    base.trainable = False
    x = base(x, training=False)
    for layer in head or HEAD():
        x = layer(x)
    model = keras.Model(inputs, x)
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return path


def HEAD() -> list[Any]:
    dropout = layers.Dropout(0.5)
    return [layers.GlobalAveragePooling2D(), dropout, layers.Dense(5, activation="softmax")]


@pytest.mark.parametrize(("file", "flags"), [("m.keras", []), ("m.h5", ["--drop-head"])])
def test_a_model_with_the_network_as_a_layer_is_verified(base, tmp_path, monkeypatch, file, flags):
    monkeypatch.setattr(verify, "_BATCHES", 1)
    monkeypatch.setattr(verify, "_STEP_IMAGES", 4)
    if flags:  # One step is enough.
        monkeypatch.setattr(verify, "_compare_step", lambda *_: ([], 0.0))
    path, report = save(base, tmp_path / file), tmp_path / "report.json"
    arguments = [str(path), "--out", str(tmp_path / "out"), "--report", str(report), *flags]
    assert main(arguments) == 0
    facts = json.loads(report.read_text())
    assert facts["reference"].startswith("the file's own model in keras ")
    assert sum(row["layers"] for row in facts["units"]) == (13 if flags else 14)
    measured = {figure["name"]: figure["measured"] for figure in facts["figures"]}
    what = "features" if flags else "logits"
    assert 0 < measured[f"{what}: largest relative difference"] < 1e-5
    assert flags or 0 < measured["SGD step: updates, relative difference of length"] < 1e-3


@pytest.mark.parametrize(
    "head",
    [
        lambda: [layers.GlobalMaxPooling2D(), layers.Dense(5)],
        lambda: [layers.GlobalAveragePooling2D(), layers.Rescaling(2.0), layers.Dense(5)],
    ],
)
def test_a_graph_that_conversion_let_through_is_found(base, tmp_path, monkeypatch, capsys, head):
    """The verification does not share the conversion's idea of the graph."""
    monkeypatch.setattr(verify, "_BATCHES", 1)
    monkeypatch.setattr(keras_graph, "check_head", lambda *_: None)
    monkeypatch.setattr(verify, "_compare_step", lambda *_: ([], 0.0))
    path = save(base, tmp_path / "m.keras", *head())
    assert main([str(path), "--out", str(tmp_path / "out"), "--verify"]) == 1
    assert "| logits: largest relative difference |" in capsys.readouterr().out


def test_what_follows_the_logits_is_found(base, tmp_path, monkeypatch):
    monkeypatch.setattr(keras_graph, "check_head", lambda *_: None)
    path = save(base, tmp_path / "m.keras", *HEAD()[:2], layers.Dense(5), layers.ReLU())
    source = sources.locate(str(path))
    peer = peers.load(source_conversion.convert_source(source), source)
    with pytest.raises(UserError, match="neither its classifier's logits nor their softmax"):
        peer.forward(np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 3)).astype("f"))


def test_weights_of_such_a_model_alone_cannot_be_verified(base, tmp_path, capsys):
    path = save(base, tmp_path / "m.weights.h5")
    flags = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5", "--input-size", str(SIZE)]
    assert main([str(path), "--out", str(tmp_path / "out"), *flags]) == 0
    assert main([str(path), "--out", str(tmp_path / "v"), *flags, "--verify"]) == 2
    message = capsys.readouterr().err
    assert "it may hold the weights of a model that has the network as a layer" in message
    assert "model.save('model.keras')" in message
    assert message.count("\n") == 1
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize(
    "layer",
    [
        {"class_name": "Lambda", "module": "keras.layers"},
        {"class_name": "Mine", "module": "mine.layers"},
        {"class_name": "Dense", "config": {"activation": {"class_name": "__lambda__"}}},
    ],
)
def test_code_of_the_authors_is_not_loaded(layer):
    with pytest.raises(UserError, match=r"code that is not Keras's own and is not run, so there"):
        keras_model._check_code({"class_name": "Functional", "config": {"layers": [layer]}}, "m")


def test_of_two_heads_the_one_that_was_converted_is_compared():
    heads = [layers.Dense(3, name="predictions"), layers.Dense(3, name="aux")]
    for head in heads:
        head.build((None, 4))

    def of(kernel: Any) -> Any:
        variables = {"params": {"head": {"logits": {"kernel": np.asarray(kernel)}}}}
        return types.SimpleNamespace(variables=variables, source="m.keras")

    for head in heads:
        assert keras_model._classifier(of(head.kernel.value), heads) == head.name
    for found in (heads, []):
        with pytest.raises(UserError, match=r"'m.keras' has no Dense .* Convert without --verify"):
            keras_model._classifier(of(np.zeros((4, 3))), found)


@pytest.mark.parametrize("activation", [None, "linear", "softmax", layers.Softmax()])
def test_the_activation_of_a_classifier_is_set_aside(activation):
    """It may be a layer itself."""
    head = layers.Dense(3, activation=activation)
    head.build((None, 4))
    assert keras_peer.activates(head) == (activation not in (None, "linear"))
    x = np.ones((1, 4), np.float32)
    seen: dict[str, Any] = {}
    keras_peer.keeping(head, seen)(x)
    np.testing.assert_allclose(seen[head.name], x @ np.asarray(head.kernel.value), rtol=1e-5)
