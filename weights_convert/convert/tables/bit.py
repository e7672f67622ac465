"""BiT: names of timm (`resnetv2_50x1_bit`) and of big_vision's `.npz` files."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jtl.models import Preprocessing
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Layout, Naming, Table

if TYPE_CHECKING:
    from jtl.models.families.bit import BiT


def _timm(_backbone: BiT) -> tuple[Naming, ...]:
    def block(stage: str, index: str, name: str) -> str:
        return f"stages.{int(stage) - 1}.blocks.{int(index) - 1}.{name}"

    return (
        (r"stem/conv", lambda: "stem.conv"),
        (r"stage(\d)/block(\d+)/((?:conv|norm)\d)", block),
        (
            r"stage(\d)/block(\d+)/down/conv",
            lambda stage, index: block(stage, index, "downsample.conv"),
        ),
        (r"final/norm", lambda: "norm"),
    )


_CONV = "standardized_conv2d"
_LAYERS = {"conv": _CONV, "norm": "group_norm"}


def _big_vision(_backbone: BiT) -> tuple[Naming, ...]:
    def unit(stage: str, index: str) -> str:
        return f"resnet/block{stage}/unit{int(index):02}"

    return (
        (r"stem/conv", lambda: f"resnet/root_block/{_CONV}"),
        (
            r"stage(\d)/block(\d+)/(conv|norm)(\d)",
            lambda stage, index, kind, number: (
                f"{unit(stage, index)}/{'abc'[int(number) - 1]}/{_LAYERS[kind]}"
            ),
        ),
        (
            r"stage(\d)/block(\d+)/down/conv",
            lambda stage, index: f"{unit(stage, index)}/a/proj/{_CONV}",
        ),
        (r"final/norm", lambda: "resnet/group_norm"),
    )


_HALVES = (0.5, 0.5, 0.5)
_HEAD: dict[str, Layout] = {"head/logits": "conv"}
TABLES = (
    Table("timm", "bit", _timm, "head.fc", TORCH, layouts=_HEAD),
    Table(
        "big_vision",
        "bit",
        _big_vision,
        "resnet/head/conv2d",
        # TensorFlow's names and layouts, but not Keras's files.
        dataclasses.replace(KERAS),
        conventions={"epsilon": 1e-10},
        preprocessing=Preprocessing(_HALVES, _HALVES, interpolation="bilinear"),
        layouts=_HEAD,
    ),
)

OUTPUTS = ((r"stem\.pool", lambda: "stem"), (r"norm\.act", lambda: "final"))
INSIDE = (
    (r"stem\.pad", lambda: "stem"),
    (
        r"stages\.(\d)\.blocks\.(\d+)\.(?:norm\d\.(?:act|drop)|drop_path|downsample\.norm)",
        lambda stage, index: f"stage{int(stage) + 1}/block{int(index) + 1}",
    ),
)

MODELS = {
    "resnetv2_50x1_bit": Published(
        ("timm", "big_vision"),
        timm={
            "resnetv2_50x1_bit": network(
                "goog_distilled_in1k goog_in21k goog_in21k_ft_in1k@448",
                goog_distilled_in1k={"224": 82.82},
                goog_in21k_ft_in1k={"448": 80.34},
            )
        },
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
