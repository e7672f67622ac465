"""DenseNet: names of torchvision and timm, of torchvision before 0.3 (`norm.1`), of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import NormSpec, Preprocessing
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Naming, Table
from weights_convert.convert.tables.names import keras_block

if TYPE_CHECKING:
    from jtl.models.families.densenet import DenseNet


def _torch(dot: str):
    """`dot` stands between a layer's kind and its number: `norm1`, or `norm.1` long ago."""

    def modules(_backbone: DenseNet) -> tuple[Naming, ...]:
        def dense_layer(stage: str, block: str, kind: str, number: str) -> str:
            kind = {"bn": "norm", "conv": "conv"}[kind]
            return f"features.denseblock{stage}.denselayer{block}.{kind}{dot}{number}"

        return (
            (r"stem/conv", lambda: "features.conv0"),
            (r"stem/bn", lambda: "features.norm0"),
            (r"stage(\d)/block(\d+)/(bn|conv)(\d)", dense_layer),
            (r"stage(\d)/transition/bn", lambda stage: f"features.transition{stage}.norm"),
            (r"stage(\d)/transition/conv", lambda stage: f"features.transition{stage}.conv"),
            (r"final/bn", lambda: "features.norm5"),
        )

    return modules


def _keras(stem: str):
    """`stem` stands between the stem's name and its layers: `conv1_bn`, or `conv1/bn` long ago."""

    def modules(_backbone: DenseNet) -> tuple[Naming, ...]:
        def dense_layer(stage: str, block: str, kind: str, number: str) -> str:
            # Normalizations are counted from 0, convolutions from 1.
            index = int(number) - (kind == "bn")
            return f"conv{int(stage) + 1}_block{block}_{index}_{kind}"

        return (
            (r"stem/(conv|bn)", lambda kind: f"conv1{stem}{kind}"),
            (r"stage(\d)/block(\d+)/(bn|conv)(\d)", dense_layer),
            (
                r"stage(\d)/transition/(bn|conv)",
                lambda stage, kind: f"pool{int(stage) + 1}_{kind}",
            ),
            (r"final/bn", lambda: "bn"),
        )

    return modules


def _keras_numbered(backbone: DenseNet) -> tuple[Naming, ...]:
    classes = {"conv": "conv2d", "bn": "batch_normalization"}

    def before(stage: str) -> int:
        """Layers of one class in the stem and in the stages before, with their transitions."""
        return 1 + sum(2 * depth + 1 for depth in backbone.depths[: int(stage) - 1])

    def dense_layer(stage: str, block: str, kind: str, number: str) -> str:
        return f"{classes[kind]}_{before(stage) + 2 * (int(block) - 1) + int(number) - 1}"

    def transition(stage: str, kind: str) -> str:
        return f"{classes[kind]}_{before(stage) + 2 * backbone.depths[int(stage) - 1]}"

    return (
        (r"stem/(conv|bn)", lambda kind: classes[kind]),
        (r"stage(\d)/block(\d+)/(bn|conv)(\d)", dense_layer),
        (r"stage(\d)/transition/(bn|conv)", transition),
        (r"final/bn", lambda: transition(str(len(backbone.depths)), "bn")),
    )


def _keras_table(library: str, modules, classifier: str) -> Table:
    return Table(
        library,
        "densenet",
        modules,
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        conventions={"norm": NormSpec(epsilon=1.001e-5, momentum=0.99, unbiased=False)},
        # Converted from PyTorch, whose mean and standard deviation Keras keeps here; it states
        # no crop, so the field's usual one stands.
        preprocessing=Preprocessing(),
        free_classifier=True,
    )


TABLES = (
    Table("timm/torchvision", "densenet", _torch(""), "classifier", TORCH),
    Table("torchvision (old keys)", "densenet", _torch("."), "classifier", TORCH),
    _keras_table("keras", _keras("_"), "predictions"),
    # Keras 2: slashes, which Keras 3 does not allow in a layer's name.
    _keras_table("keras (old keys)", _keras("/"), "fc1000"),
    # Keras 3's first .weights.h5 files hold no names, but count the layers of each class.
    _keras_table("keras (numbered)", _keras_numbered, "dense"),
)


def _keras_transition(stage: str) -> str:
    return f"stage{int(stage) - 1}/transition"


OUTPUTS = (
    (r"(?:features\.)?pool0|pool1|pool1_pool", lambda: "stem"),
    (r"conv(\d)_block(\d+)_concat", keras_block),
    (r"pool([234])_pool", _keras_transition),
    (r"features\.transition(\d)\.pool", lambda stage: f"stage{stage}/transition"),
    (r"relu", lambda: "final"),
)

INSIDE = (
    (r"features\.relu0|conv1[_/]relu|zero_padding2d(?:_1)?", lambda: "stem"),
    (r"conv(\d)_block(\d+)_\d_relu", keras_block),
    (
        r"features\.denseblock(\d)\.denselayer(\d+)\.relu\d",
        lambda stage, block: f"stage{stage}/block{block}",
    ),
    (r"pool([234])_relu", _keras_transition),
    (r"features\.transition(\d)\.relu", lambda stage: f"stage{stage}/transition"),
)

MODELS = {
    "densenet121": Published(
        (
            "timm/torchvision",
            "torchvision (old keys)",
            "keras",
            "keras (old keys)",
            "keras (numbered)",
        ),
        timm={
            "densenet121": network(
                "ra_in1k tv_in1k", ra_in1k={"224": 75.57, "288": 76.49}, tv_in1k={"224": 74.75}
            )
        },
        keras="DenseNet121",
    ),
    "densenet161": Published(
        ("timm/torchvision", "torchvision (old keys)"),
        timm={"densenet161": network("tv_in1k", tv_in1k={"224": 77.14})},
    ),
    "densenet169": Published(
        (
            "timm/torchvision",
            "torchvision (old keys)",
            "keras",
            "keras (old keys)",
            "keras (numbered)",
        ),
        timm={"densenet169": network("tv_in1k", tv_in1k={"224": 75.60})},
        keras="DenseNet169",
    ),
    "densenet201": Published(
        (
            "timm/torchvision",
            "torchvision (old keys)",
            "keras",
            "keras (old keys)",
            "keras (numbered)",
        ),
        timm={"densenet201": network("tv_in1k", tv_in1k={"224": 76.90})},
        keras="DenseNet201",
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
