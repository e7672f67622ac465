"""VGG: names of torchvision and timm, which number all layers, of Keras and of Caffe."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Naming, Table, blocks_before, numbered
from weights_convert.convert.tables.preprocessing import CAFFE

if TYPE_CHECKING:
    from jtl.models.families.vgg import VGG

_DENSE: dict[str, Literal["dense"]] = {"fc1/conv": "dense", "fc2/conv": "dense"}


def _torch(dense: Callable[[str], str]):
    def modules(backbone: VGG) -> tuple[Naming, ...]:
        def layer(stage: str, block: str, kind: str) -> str:
            # Each convolution with its normalization and ReLU, each stage with its pooling.
            each = 3 if backbone.batch_norm else 2
            number = each * blocks_before(backbone, stage, block) + int(stage) - 1
            return f"features.{number + (kind == 'bn')}"

        return ((r"stage(\d)/block(\d)/(conv|bn)", layer), (r"fc(\d)/conv", dense))

    return modules


def _keras(_backbone: VGG) -> tuple[Naming, ...]:
    return (
        (r"stage(\d)/block(\d)/conv", lambda stage, block: f"block{stage}_conv{block}"),
        (r"fc(\d)/conv", lambda number: f"fc{number}"),
    )


def _caffe(_backbone: VGG) -> tuple[Naming, ...]:
    return (
        (r"stage(\d)/block(\d)/conv", lambda stage, block: f"conv{stage}_{block}"),
        (r"fc(\d)/conv", lambda number: f"fc{int(number) + 5}"),
    )


def _keras_numbered(backbone: VGG) -> tuple[Naming, ...]:
    return (
        (
            r"stage(\d)/block(\d)/conv",
            lambda stage, block: numbered("conv2d", blocks_before(backbone, stage, block)),
        ),
        (r"fc(\d)/conv", lambda number: numbered("dense", int(number) - 1)),
    )


def _keras_table(library: str, modules, classifier: str, *, dense: bool) -> Table:
    return Table(
        library,
        "vgg",
        modules,
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        conventions={"dropout": 0.0, "dense": dense},
        preprocessing=CAFFE,
        layouts=_DENSE if dense else {},
        free_classifier=True,
    )


TABLES = (
    Table(
        "torchvision",
        "vgg",
        _torch(lambda number: f"classifier.{3 * (int(number) - 1)}"),
        "classifier.6",
        TORCH,
        layouts=_DENSE,
    ),
    # timm's dense layers are convolutions without dropout.
    Table(
        "timm",
        "vgg",
        _torch(lambda number: f"pre_logits.fc{number}"),
        "head.fc",
        TORCH,
        conventions={"fit": "sliding", "dropout": 0.0},
    ),
    _keras_table("keras", _keras, "predictions", dense=True),
    _keras_table("keras (no top)", _keras, "predictions", dense=False),
    _keras_table("keras (numbered)", _keras_numbered, "dense_2", dense=True),
    _keras_table("keras (numbered, no top)", _keras_numbered, "dense", dense=False),
    # Of its authors, at 224 pixels; Caffe's poolings take a last partial window elsewhere.
    Table("caffe", "vgg", _caffe, "fc8", TORCH, preprocessing=CAFFE, layouts=_DENSE),
)

OUTPUTS = (
    # Keras's convolutions and dense layers activate.
    (r"block(\d)_conv(\d)", lambda stage, block: f"stage{stage}/block{block}"),
    (r"block(\d)_pool", lambda stage: f"stage{stage}/pool"),
)

MODELS = {
    "vgg11": Published(
        ("torchvision", "timm"),
        timm={"vgg11": network("tv_in1k", tv_in1k={"224": 69.02})},
    ),
    "vgg11_bn": Published(
        ("torchvision", "timm"),
        timm={"vgg11_bn": network("tv_in1k", tv_in1k={"224": 70.37})},
    ),
    "vgg13": Published(
        ("torchvision", "timm"),
        timm={"vgg13": network("tv_in1k", tv_in1k={"224": 69.93})},
    ),
    "vgg13_bn": Published(
        ("torchvision", "timm"),
        timm={"vgg13_bn": network("tv_in1k", tv_in1k={"224": 71.59})},
    ),
    "vgg16": Published(
        (
            "torchvision",
            "timm",
            "keras",
            "keras (no top)",
            "keras (numbered)",
            "keras (numbered, no top)",
            "caffe",
        ),
        timm={"vgg16": network("tv_in1k", tv_in1k={"224": 71.59})},
        keras="VGG16",
    ),
    "vgg16_bn": Published(
        ("torchvision", "timm"),
        timm={"vgg16_bn": network("tv_in1k", tv_in1k={"224": 73.36})},
    ),
    "vgg19": Published(
        (
            "torchvision",
            "timm",
            "keras",
            "keras (no top)",
            "keras (numbered)",
            "keras (numbered, no top)",
            "caffe",
        ),
        timm={"vgg19": network("tv_in1k", tv_in1k={"224": 72.38})},
        keras="VGG19",
    ),
    "vgg19_bn": Published(
        ("torchvision", "timm"),
        timm={"vgg19_bn": network("tv_in1k", tv_in1k={"224": 74.22})},
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
