"""MobileNetV2: names of torchvision, timm and Keras, and the order of TensorFlow Lite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl import models
from jtl.models import NormSpec, Preprocessing
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Modules, Naming, Table, blocks_before
from weights_convert.convert.tables.mobile import (
    DEPTHWISE,
    TIMM_INSIDE,
    TIMM_OUTPUTS,
    keras_numbered,
    timm_modules,
)
from weights_convert.read.tflite_files import EPSILON

if TYPE_CHECKING:
    from jtl.models.families.mobilenet import MobileNetV2


# In a block: each convolution but the last is one with its normalization and activation.
_SEPARABLE = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "1", "bn2": "2"}
_INVERTED = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1"}
_INVERTED |= {"conv_pwl": "2", "bn3": "3"}
_LAYERS = {"conv": "0", "bn": "1"}


def _torchvision(backbone: MobileNetV2) -> tuple[Naming, ...]:
    def block(stage: str, index: str, name: str) -> str:
        number = blocks_before(backbone, stage, index) + 1
        return f"features.{number}.conv.{(_SEPARABLE if stage == '1' else _INVERTED)[name]}"

    last = 1 + sum(backbone.depths)
    return (
        (r"stem/(conv|bn)", lambda kind: f"features.0.{_LAYERS[kind]}"),
        (r"stage(\d)/block(\d+)/(\w+)", block),
        (r"final/(conv|bn)", lambda kind: f"features.{last}.{_LAYERS[kind]}"),
    )


def _tflite(backbone: MobileNetV2) -> tuple[Naming, ...]:
    """A normalization has its convolution's number: it is folded into it."""
    separable = {"conv_dw": 0, "bn1": 0, "conv_pw": 1, "bn2": 1}
    inverted = {"conv_pw": 0, "bn1": 0, "conv_dw": 1, "bn2": 1, "conv_pwl": 2, "bn3": 2}

    def block(stage: str, index: str, name: str) -> str:
        before = blocks_before(backbone, stage, index)
        # The stem, the first block of two layers, and the others of three.
        first = 1 if stage == "1" else 3 * before
        return f"layer_{first + (separable if stage == '1' else inverted)[name]}"

    return (
        (r"stem/(conv|bn)", lambda _kind: "layer_0"),
        (r"stage(\d)/block(\d+)/(\w+)", block),
        (r"final/(conv|bn)", lambda _kind: f"layer_{3 * sum(backbone.depths)}"),
    )


def _keras(backbone: MobileNetV2) -> tuple[Naming, ...]:
    """The names of `keras.applications`, which counts blocks through all stages."""
    separable = {"conv_dw": "depthwise", "bn1": "depthwise_BN", "conv_pw": "project"}
    separable |= {"bn2": "project_BN"}
    inverted = {"conv_pw": "expand", "bn1": "expand_BN", "conv_dw": "depthwise"}
    inverted |= {"bn2": "depthwise_BN", "conv_pwl": "project", "bn3": "project_BN"}

    def block(stage: str, index: str, name: str) -> str:
        number = blocks_before(backbone, stage, index)
        if number == 0:
            return f"expanded_conv_{separable[name]}"
        return f"block_{number}_{inverted[name]}"

    return (
        (r"stem/(conv|bn)", lambda kind: {"conv": "Conv1", "bn": "bn_Conv1"}[kind]),
        (r"stage(\d)/block(\d+)/(\w+)", block),
        (r"final/(conv|bn)", lambda kind: {"conv": "Conv_1", "bn": "Conv_1_bn"}[kind]),
    )


def _numbered(backbone: MobileNetV2) -> tuple[Naming, ...]:
    """As `keras_numbered` has them; the classifier is a dense layer."""
    ((pattern, name),) = keras_numbered(backbone)
    return ((pattern.replace("|head/logits", ""), name),)


def _keras_table(library: str, modules: Modules, classifier: str) -> Table:
    return Table(
        library,
        "mobilenet",
        modules,
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        conventions={
            "norm": NormSpec(epsilon=1e-3, momentum=0.999, unbiased=False),
            "padding": "SAME",
        },
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        layouts=DEPTHWISE,
        free_classifier=True,
    )


TABLES = (
    Table("torchvision", "mobilenet", _torchvision, "classifier.1", TORCH),
    Table("timm", "mobilenet", timm_modules, "classifier", TORCH),
    Table(
        "tflite",
        "mobilenet",
        _tflite,
        "layer_52",
        KERAS,
        ignored=(),
        conventions={
            "norm": NormSpec(epsilon=EPSILON, momentum=0.99, unbiased=False),
            "padding": "SAME",
        },
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        layouts={"head/logits": "conv"},
    ),
    _keras_table("keras", _keras, "predictions"),
    _keras_table("keras (numbered)", _numbered, "dense"),
)


def _block(number: str) -> str:
    """A unit by its number in torchvision, which counts through all stages: the stem is 0."""
    return models.get("mobilenet_v2").backbone.units()[int(number)].path


OUTPUTS = (
    *TIMM_OUTPUTS,
    (r"features\.0\.2", lambda: "stem"),
    (r"features\.18\.2", lambda: "final"),
)

INSIDE = (*TIMM_INSIDE, (r"features\.([1-9]|1[0-7])\.conv\.[01]\.2", _block))

MODELS = {
    "mobilenet_v2": Published(
        ("torchvision", "timm", "tflite", "keras", "keras (numbered)"),
        timm={"mobilenetv2_100": network("ra_in1k", ra_in1k={"224": 72.98})},
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
