"""What a Keras model computes around its backbone, told from its configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
import pytest
from keras import layers

from jtl.common.errors import UserError
from weights_convert.source import keras_graph, keras_layers

pytestmark = [
    pytest.mark.peer,
    # Keras's variables have the signature of NumPy 1.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword"),
]

SIDE = 16
LAST = layers.ReLU
AVERAGE = layers.GlobalAveragePooling2D


def backbone(family: str = "resnet", last: bool = True) -> keras.Model:
    """The end of a network of a family: what its weights' last layers are, and what follows."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = skip = layers.Conv2D(4, 3, 2, "same", activation="relu" if family == "vgg" else None)(x)
    if family in ("resnet", "densenet"):
        x = layers.BatchNormalization(epsilon=1.001e-5)(x)
    if family == "resnet":
        x = layers.Add()([x, skip])
    if last and family in ("resnet", "densenet"):
        x = layers.Activation("relu")(x)
    if last and family == "vgg":
        x = layers.MaxPooling2D(2, 2)(x)
    return keras.Model(inputs, x)


def config(
    *head: Callable[[], Any], family: str = "resnet", last: bool = True, nested: bool = True
) -> dict[str, Any]:
    """A model's configuration as a `.keras` archive has it."""
    base = backbone(family, last)
    inputs = keras.Input((SIDE, SIDE, 3)) if nested else base.input
    x = base(inputs) if nested else base.output
    for layer in head:
        x = layer()(x)
    return json.loads(keras.Model(inputs, x).to_json())


def dense(**options: Any) -> Callable[[], Any]:
    return lambda: layers.Dense(5, **options)


HARMLESS: dict[str, list[Callable[[], Any]]] = {
    "plain": [AVERAGE, dense()],
    "softmax": [AVERAGE, dense(activation="softmax")],
    "softmax as a layer's activation": [AVERAGE, dense(activation=layers.Softmax())],
    "softmax as a layer": [AVERAGE, dense(), layers.Softmax],
    "softmax as an activation": [AVERAGE, dense(), lambda: layers.Activation("softmax")],
    "dropout": [AVERAGE, lambda: layers.Dropout(0.5), dense(), lambda: layers.Dropout(0.1)],
    "flattened vector": [AVERAGE, layers.Flatten, dense()],
    "pooled by a window": [lambda: layers.AveragePooling2D(8), layers.Flatten, dense()],
    "twice activated": [layers.ReLU, AVERAGE, lambda: layers.Activation("relu"), dense()],
    "linear": [AVERAGE, lambda: layers.Activation("linear"), dense()],
}
# What is there, and what the message names.
WRONG: dict[str, tuple[list[Callable[[], Any]], str]] = {
    "max": ([layers.GlobalMaxPooling2D, dense()], "GlobalMaxPooling2D"),
    "scaled features": ([AVERAGE, lambda: layers.Rescaling(2.0), dense()], "Rescaling"),
    "normalized features": ([AVERAGE, layers.UnitNormalization, dense()], "UnitNormalization"),
    "tanh": ([AVERAGE, lambda: layers.Activation("tanh"), dense()], "Activation"),
    "relu after": ([AVERAGE, dense(), layers.ReLU], "ReLU"),
    "relu within": ([AVERAGE, dense(activation="relu")], "Dense .* with the activation relu"),
    "relu within, as a layer": ([AVERAGE, dense(activation=layers.ReLU())], "activation relu"),
    "sigmoid": ([AVERAGE, dense(activation="sigmoid")], "Dense .* with the activation sigmoid"),
    "scaled logits": ([AVERAGE, dense(), lambda: layers.Rescaling(0.5)], "Rescaling"),
    "a smaller window": ([lambda: layers.AveragePooling2D(7), layers.Flatten, dense()], "Average"),
    "relu6": ([AVERAGE, lambda: layers.ReLU(max_value=6), dense()], "ReLU"),
    "max by a window": ([lambda: layers.MaxPooling2D(8), layers.Flatten, dense()], "MaxPooling2D"),
    "no pooling": ([dense()], "no pooling between it and the classifier"),
}


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("case", HARMLESS)
def test_heads_that_are_jtls(case, nested):
    keras_graph.check_head(config(*HARMLESS[case], nested=nested), "resnet")


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("case", WRONG)
def test_heads_that_jtl_does_not_have(case, nested):
    head, named = WRONG[case]
    with pytest.raises(UserError, match=named) as caught:
        keras_graph.check_head(config(*head, nested=nested), "resnet")
    assert "--drop-head" in str(caught.value)


@pytest.mark.parametrize(
    ("family", "missing"), [("resnet", "ReLU"), ("densenet", "ReLU"), ("vgg", "MaxPooling2D")]
)
def test_a_backbone_that_was_cut_before_its_end(family, missing):
    head = [AVERAGE, dense()]
    keras_graph.check_head(config(*head, family=family), family)
    with pytest.raises(UserError, match=f"with no {missing} between it and the classifier"):
        keras_graph.check_head(config(*head, family=family, last=False), family)


def test_a_pooling_more_than_vgg_has():
    head = [lambda: layers.MaxPooling2D(2), AVERAGE, dense()]
    with pytest.raises(UserError, match="MaxPooling2D"):
        keras_graph.check_head(config(*head, family="vgg"), "vgg")


def test_a_sequential_model():
    for middle, wrong in ((AVERAGE, False), (layers.GlobalMaxPooling2D, True)):
        model = keras.Sequential([keras.Input((SIDE, SIDE, 3)), backbone(), middle(), dense()()])
        as_dict = json.loads(model.to_json())
        if wrong:
            with pytest.raises(UserError, match="GlobalMaxPooling2D"):
                keras_graph.check_head(as_dict, "resnet")
        else:
            keras_graph.check_head(as_dict, "resnet")


def test_operations_on_the_logits():
    base = backbone()
    logits = layers.Dense(5)(AVERAGE()(base.output))
    for outputs in (logits * 0.5, keras.ops.tanh(logits)):
        with pytest.raises(UserError, match="after its classifier its model has a layer"):
            keras_graph.check_head(json.loads(keras.Model(base.input, outputs).to_json()), "resnet")
    # Beside the logits a model may give its features.
    both = keras.Model(base.input, [base.output, logits])
    keras_graph.check_head(json.loads(both.to_json()), "resnet")


def test_the_graph_as_keras_2_writes_it():
    def layer(kind: str, name: str, *inputs: str, **options: Any) -> dict[str, Any]:
        nodes = [[[other, 0, 0, {}] for other in inputs]] if inputs else []
        return {
            "class_name": kind,
            "name": name,
            "config": {"name": name, **options},
            "inbound_nodes": nodes,
        }

    def model(pool: str) -> dict[str, Any]:
        chain = [
            layer("InputLayer", "in"),
            layer("Conv2D", "conv", "in", activation="linear"),
            layer("BatchNormalization", "bn", "conv", epsilon=1e-3),
            layer("Add", "add", "bn", "conv"),
            layer("Activation", "out", "add", activation="relu"),
            layer(pool, "pool", "out", pool_size=[7, 7]),
            layer("Flatten", "flat", "pool"),
            layer("Dense", "fc1000", "flat", activation="softmax"),
        ]
        outputs = [["fc1000", 0, 0]]
        return {"class_name": "Model", "config": {"layers": chain, "output_layers": outputs}}

    keras_graph.check_head(model("AveragePooling2D"), "resnet")
    keras_graph.check_head(model("GlobalAveragePooling2D"), "resnet")
    with pytest.raises(UserError, match=r"MaxPooling2D \('pool'\)"):
        keras_graph.check_head(model("MaxPooling2D"), "resnet")
    keras_graph.check_backbone(model("AveragePooling2D"), None)


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"class_name": "MyModel", "config": {}},
        {"class_name": "Functional", "config": {"layers": [], "output_layers": [["x", 0, 0]]}},
        {
            "class_name": "Functional",
            "config": {
                "layers": [
                    {"class_name": "Dropout", "name": "x", "inbound_nodes": [[["x", 0, 0, {}]]]}
                ],
                "output_layers": [["x", 0, 0]],
            },
        },
    ],
)
def test_a_graph_that_cannot_be_followed(broken):
    with pytest.raises(UserError, match="cannot be followed in its configuration"):
        keras_graph.check_head(broken, "resnet")


# Within the backbone.


def within(layer: Any) -> dict[str, Any]:
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for part in (layers.Conv2D(4, 3), layer, layers.Conv2D(4, 3)):
        x = part(x)
    return json.loads(keras.Model(inputs, x).to_json())


def test_layers_within_a_network():
    for usual in (
        layers.BatchNormalization(epsilon=1.001e-5),
        layers.Activation("relu"),
        layers.ReLU(),
        layers.ZeroPadding2D(1),
        layers.Dropout(0.1),
    ):
        keras_graph.check_backbone(within(usual), 1.001e-5)
    for activation in ("relu", layers.ReLU()):
        usual = layers.Conv2D(4, 3, activation=activation)
        keras_graph.check_backbone(within(usual), 1.001e-5)


@pytest.mark.parametrize("epsilon", [1.001e-5, 1e-3])
def test_a_synchronized_normalization_is_one(epsilon):
    text = json.dumps(within(layers.BatchNormalization(epsilon=epsilon)))
    found = json.loads(text.replace('"BatchNormalization"', '"SyncBatchNormalization"'))
    if epsilon == 1e-3:
        with pytest.raises(UserError, match=r"epsilon 0\.001"):
            keras_graph.check_backbone(found, 1.001e-5)
    else:
        keras_graph.check_backbone(found, 1.001e-5)


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (lambda: layers.BatchNormalization(epsilon=1e-3), "BatchNormalization .* epsilon 0.001"),
        (lambda: layers.Activation("swish"), "Activation"),
        (lambda: layers.LeakyReLU(), "LeakyReLU"),
        (lambda: layers.ReLU(max_value=6), "ReLU"),
        (lambda: layers.Conv2D(4, 3, dilation_rate=2), "Conv2D .* dilation_rate"),
        (lambda: layers.Conv2D(4, 3, activation="gelu"), "Conv2D .* the activation gelu"),
    ],
)
def test_another_layer_within_a_network(layer, named):
    with pytest.raises(UserError, match=named):
        keras_graph.check_backbone(within(layer()), 1.001e-5)


# Before it.


def before(*first: Any) -> dict[str, Any]:
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for layer in (*first, layers.Conv2D(4, 3)):
        x = layer(x)
    return json.loads(keras.Model(inputs, x).to_json())


def test_augmentation_is_of_training_alone():
    model = before(
        layers.RandomFlip(),
        layers.RandomRotation(0.1),
        layers.GaussianNoise(0.1),
        layers.Dropout(0.1),
    )
    assert keras_layers.declared(model, (), {}) == {}
    assert keras_layers.framing(model) == (None, ())


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (lambda: layers.Resizing(96, 96), 96),
        (lambda: layers.CenterCrop(64, 64), 64),
        (lambda: layers.Resizing(96, 64), None),
    ],
)
def test_layers_that_frame_an_image_are_said(layer, size):
    model = before(layer(), layers.Rescaling(1 / 255))
    assert keras_layers.declared(model, (), {})["mean"] == (0.0, 0.0, 0.0)
    found, notes = keras_layers.framing(model)
    assert found == size
    (note,) = notes
    assert f"its layer {type(layer()).__name__} (" in note


def test_a_mean_of_zero_has_no_sign():
    fields = keras_layers.declared(before(layers.Rescaling(1 / 255)), (), {})
    assert str(fields["mean"]) == "(0.0, 0.0, 0.0)"


def test_a_padding_that_is_not_the_first_convolutions():
    assert keras_layers.declared(before(layers.ZeroPadding2D(3)), (), {}) == {}
    with pytest.raises(UserError, match=r"ZeroPadding2D .*whose effect on an image is not read"):
        keras_layers.declared(before(layers.ZeroPadding2D(2)), (), {})


def _keras_2(function: str, number: float) -> dict[str, Any]:
    return {
        "class_name": "TFOpLambda",
        "config": {"name": "tf.op", "function": function},
        "inbound_nodes": [["input_1", 0, 0, {"y": number, "name": None}]],
    }


def test_operations_before_the_network_are_read_as_keras_2_writes_them():
    model = before()
    inputs, first, *others = model["config"]["layers"]
    scaling = [_keras_2("math.truediv", 127.5), _keras_2("math.subtract", 1.0)]
    model["config"]["layers"] = [inputs, *scaling, first, *others]
    fields = keras_layers.declared(model, (), {})
    assert fields["mean"] == pytest.approx((0.5, 0.5, 0.5))
    assert fields["std"] == pytest.approx((0.5, 0.5, 0.5))
    model["config"]["layers"][1] = _keras_2("math.mod", 127.5)
    with pytest.raises(UserError, match=r"TFOpLambda .*whose effect on an image is not read"):
        keras_layers.declared(model, (), {})
