"""RegNetY: names of torchvision and of timm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import Preprocessing
from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.published import Published, TorchvisionFile, network
from weights_convert.convert.rules import Naming, Table

if TYPE_CHECKING:
    from jtl.models.families.regnet import RegNetY

_LAYERS = {"conv": "0", "bn": "1"}
_SQUEEZE = {"conv_reduce": "fc1", "conv_expand": "fc2"}


def _torchvision(_backbone: RegNetY) -> tuple[Naming, ...]:
    def block(stage: str, index: str) -> str:
        return f"trunk_output.block{stage}.block{stage}-{int(index) - 1}"

    def inner(stage: str, index: str, kind: str, number: str) -> str:
        return f"{block(stage, index)}.f.{'abc'[int(number) - 1]}.{_LAYERS[kind]}"

    return (
        (r"stem/(conv|bn)", lambda kind: f"stem.{_LAYERS[kind]}"),
        (r"stage(\d)/block(\d+)/(conv|bn)(\d)", inner),
        (
            r"stage(\d)/block(\d+)/se/(\w+)",
            lambda stage, index, name: f"{block(stage, index)}.f.se.{_SQUEEZE[name]}",
        ),
        (
            r"stage(\d)/block(\d+)/down/(conv|bn)",
            lambda stage, index, kind: f"{block(stage, index)}.proj.{_LAYERS[kind]}",
        ),
    )


def _timm(_backbone: RegNetY) -> tuple[Naming, ...]:
    return (
        (r"stem/(conv|bn)", lambda kind: f"stem.{kind}"),
        (
            r"stage(\d)/block(\d+)/(conv|bn)(\d)",
            lambda stage, index, kind, number: f"s{stage}.b{index}.conv{number}.{kind}",
        ),
        (
            r"stage(\d)/block(\d+)/se/(\w+)",
            lambda stage, index, name: f"s{stage}.b{index}.se.{_SQUEEZE[name]}",
        ),
        (
            r"stage(\d)/block(\d+)/down/(conv|bn)",
            lambda stage, index, kind: f"s{stage}.b{index}.downsample.{kind}",
        ),
    )


TABLES = (
    Table(
        "torchvision",
        "regnet",
        _torchvision,
        "fc",
        TORCH,
        # Of torchvision's second weights.
        preprocessing=Preprocessing(crop_pct=224 / 232, interpolation="bilinear"),
    ),
    Table("timm", "regnet", _timm, "head.fc", TORCH),
)

INSIDE = (
    (
        r"s(\d)\.b(\d+)\.(?:act3|conv\d\.bn\.(?:act|drop)|drop_path)",
        lambda stage, index: f"stage{stage}/block{index}",
    ),
    (
        r"trunk_output\.block(\d)\.block\d-(\d+)\.(?:activation|f\.[ab]\.2)",
        lambda stage, index: f"stage{stage}/block{int(index) + 1}",
    ),
)
OUTPUTS = ((r"stem\.2|stem\.bn\.act", lambda: "stem"),)

_BOTH = ("torchvision", "timm")
MODELS = {
    "regnet_y_400mf": Published(
        _BOTH,
        timm={
            "regnety_004": network(
                "pycls_in1k tv2_in1k", pycls_in1k={"224": 74.03}, tv2_in1k={"224": 75.60}
            )
        },
        torchvision=TorchvisionFile("regnet_y_400mf-e6988f5f.pth", 75.80),
    ),
    "regnet_y_800mf": Published(
        _BOTH,
        timm={"regnety_008_tv": network("tv2_in1k", tv2_in1k={"224": 78.67})},
        torchvision=TorchvisionFile("regnet_y_800mf-58fc7688.pth", 78.83),
    ),
    # The paper's, whose widths torchvision rounds otherwise.
    "regnety_008": Published(
        ("timm",), timm={"regnety_008": network("pycls_in1k", pycls_in1k={"224": 76.30})}
    ),
    "regnet_y_1_6gf": Published(
        _BOTH,
        timm={
            "regnety_016": network(
                "pycls_in1k tv2_in1k", pycls_in1k={"224": 77.86}, tv2_in1k={"224": 80.67}
            )
        },
        torchvision=TorchvisionFile("regnet_y_1_6gf-0d7bc02a.pth", 80.88),
    ),
    "regnet_y_3_2gf": Published(
        _BOTH,
        timm={
            "regnety_032": network(
                "pycls_in1k ra_in1k tv2_in1k",
                pycls_in1k={"224": 78.88},
                ra_in1k={"288": 82.73},
                tv2_in1k={"224": 81.76},
            )
        },
        torchvision=TorchvisionFile("regnet_y_3_2gf-9180c971.pth", 81.98),
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
