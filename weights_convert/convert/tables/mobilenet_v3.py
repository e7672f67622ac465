"""MobileNetV3: names of torchvision, of timm, and of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import NormSpec, Preprocessing
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, TorchvisionFile, network
from weights_convert.convert.rules import Naming, Table
from weights_convert.convert.tables.mobile import (
    DEPTHWISE,
    keras_numbered,
    timm_block,
)

if TYPE_CHECKING:
    from jtl.models.families.mobilenet_v3 import MobileNetV3

_LAYERS = {"conv": "0", "bn": "1"}


def _timm(backbone: MobileNetV3) -> tuple[Naming, ...]:
    # The last convolution before the pooling is a stage of its own.
    last = f"blocks.{len(backbone.stages())}.0"
    return (
        (r"stem/conv", lambda: "conv_stem"),
        (r"stem/bn", lambda: "bn1"),
        (r"stage(\d)/block(\d)/(\w+|se/\w+)", timm_block),
        (r"final/conv", lambda: f"{last}.conv"),
        (r"final/bn", lambda: f"{last}.bn1"),
        (r"fc/conv", lambda: "conv_head"),
    )


def _torchvision(backbone: MobileNetV3) -> tuple[Naming, ...]:
    stages = backbone.stages()

    def block(stage: str, index: str, name: str) -> str:
        convolutions = (
            ["conv_dw", "conv_pw"] if stage == "1" else ["conv_pw", "conv_dw", "conv_pwl"]
        )
        order = list(convolutions)
        if stages[int(stage) - 1][int(index) - 1].squeezes:
            order.insert(-1, "se")
        places = {}
        for number, layer in enumerate(convolutions, 1):
            # A convolution and its normalization have the same place.
            places[layer] = f"{order.index(layer)}.0"
            places[f"bn{number}"] = f"{order.index(layer)}.1"
        if "se" in order:
            places["se/conv_reduce"] = f"{order.index('se')}.fc1"
            places["se/conv_expand"] = f"{order.index('se')}.fc2"
        return f"features.{_before(backbone, stage, index)}.block.{places[name]}"

    last = 1 + sum(map(len, stages))
    return (
        (r"stem/(conv|bn)", lambda kind: f"features.0.{_LAYERS[kind]}"),
        (r"stage(\d)/block(\d)/(\w+|se/\w+)", block),
        (r"final/(conv|bn)", lambda kind: f"features.{last}.{_LAYERS[kind]}"),
        (r"fc/conv", lambda: "classifier.0"),
    )


def _before(backbone: MobileNetV3, stage: str, block: str) -> int:
    """How many blocks there are up to a block, with it."""
    return sum(map(len, backbone.stages()[: int(stage) - 1])) + int(block)


def _keras(*, old: bool):
    """`old` for the names before Keras 3, which have slashes."""

    def modules(backbone: MobileNetV3) -> tuple[Naming, ...]:
        norm = "/BatchNorm" if old else "_bn"
        squeeze = {"conv_reduce": "conv", "conv_expand": "conv_1"}
        if old:
            squeeze = {"conv_reduce": "Conv", "conv_expand": "Conv_1"}
        inverted = {"conv_pw": "expand", "conv_dw": "depthwise", "conv_pwl": "project"}
        inverted |= {"bn1": f"expand{norm}", "bn2": f"depthwise{norm}", "bn3": f"project{norm}"}
        separable = {"conv_dw": "depthwise", "bn1": f"depthwise{norm}"}
        separable |= {"conv_pw": "project", "bn2": f"project{norm}"}
        between = "/" if old else "_"

        def block(stage: str, index: str, name: str) -> str:
            number = _before(backbone, stage, index) - 1
            prefix = f"expanded_conv{f'_{number}' if number else ''}{between}"
            if name.startswith("se/"):
                return f"{prefix}squeeze_excite{between}{squeeze[name.removeprefix('se/')]}"
            return prefix + (inverted if number else separable)[name]

        first = "Conv" if old else "conv"
        return (
            (r"stem/(conv|bn)", lambda kind: first + (norm if kind == "bn" else "")),
            (r"stage(\d)/block(\d)/(\w+|se/\w+)", block),
            (r"final/(conv|bn)", lambda kind: f"{first}_1" + (norm if kind == "bn" else "")),
            (r"fc/conv", lambda: f"{first}_2"),
        )

    return modules


_EPSILON = 1e-3


def _keras_table(library: str, modules, classifier: str, *, dense: bool):
    return Table(
        library,
        "mobilenet_v3",
        modules,
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        conventions={
            "norm": NormSpec(epsilon=_EPSILON, momentum=0.999, unbiased=False),
            "padding": "SAME",
            "dense": dense,
        },
        # Pixels from -1 to 1, by a layer of the model itself. Keras states no crop, so the field's
        # usual one stands.
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        # The classifier stands on one pixel; users put a dense layer on a network without a top.
        layouts={**DEPTHWISE, **({"head/logits": "conv"} if dense else {})},
        free_classifier=not dense,
        scales=True,
    )


TABLES = (
    Table(
        "torchvision",
        "mobilenet_v3",
        _torchvision,
        "classifier.3",
        TORCH,
        conventions={"norm": NormSpec(epsilon=_EPSILON, momentum=0.99)},
        preprocessing=Preprocessing(interpolation="bilinear"),
        layouts={"fc/conv": "dense"},
    ),
    Table("timm", "mobilenet_v3", _timm, "classifier", TORCH),
    _keras_table("keras", _keras(old=False), "logits", dense=True),
    _keras_table("keras (no top)", _keras(old=False), "predictions", dense=False),
    _keras_table("keras (old keys)", _keras(old=True), "Logits", dense=True),
    _keras_table("keras (old keys, no top)", _keras(old=True), "predictions", dense=False),
    # Keras 3's first .weights.h5 files hold no names, but count the layers of each class.
    _keras_table("keras (numbered)", keras_numbered, "", dense=True),
    _keras_table("keras (numbered, no top)", keras_numbered, "dense", dense=False),
)


OUTPUTS = (
    (r"act1|bn1\.act|features\.0\.2", lambda: "stem"),
    (r"blocks\.[56]\.0\.bn1\.act|features\.(?:12|16)\.2", lambda: "final"),
    (r"act2|classifier\.1", lambda: "fc"),
)


# timm's `tf_`, and those without: PyTorch's padding and epsilon, which keys do not show.
_SAME = {"norm": NormSpec(epsilon=_EPSILON), "padding": "SAME"}
_HALVES = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), interpolation="bilinear")
_LIBRARIES = ("torchvision", "timm", "keras", "keras (no top)")
_LIBRARIES += ("keras (old keys)", "keras (old keys, no top)", "keras (numbered)")
_LIBRARIES += ("keras (numbered, no top)",)
MODELS = {
    "mobilenet_v3_large": Published(
        _LIBRARIES,
        timm={
            "mobilenetv3_large_100": network(
                "ra_in1k ra4_e3600_r224_in1k miil_in21k_ft_in1k",
                ra_in1k={"224": 75.77},
                miil_in21k_ft_in1k={"224": 77.92},
            ),
            "tf_mobilenetv3_large_100": network("in1k", _SAME, _HALVES, in1k={"224": 75.52}),
        },
        keras="MobileNetV3Large",
        torchvision=TorchvisionFile("mobilenet_v3_large-5c1a4163.pth", 75.27),
    ),
    "mobilenet_v3_small": Published(
        _LIBRARIES,
        timm={
            "mobilenetv3_small_100": network("lamb_in1k", lamb_in1k={"224": 67.66}),
            "tf_mobilenetv3_small_100": network("in1k", _SAME, _HALVES, in1k={"224": 67.92}),
        },
        keras="MobileNetV3Small",
        torchvision=TorchvisionFile("mobilenet_v3_small-047dcff4.pth", 67.67),
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
