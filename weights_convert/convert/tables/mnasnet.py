"""MnasNet: names of torchvision (B1) and of timm (`mnasnet`, `semnasnet` for A1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import NormSpec, Preprocessing
from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.published import Published, TorchvisionFile, network
from weights_convert.convert.rules import Naming, Table
from weights_convert.convert.tables.mobile import TIMM_INSIDE, TIMM_OUTPUTS, timm_modules

if TYPE_CHECKING:
    from jtl.models.families.mnasnet import MnasNet

# All layers have numbers, those without params, too.
_SEPARABLE = {"conv_dw": 3, "bn1": 4, "conv_pw": 6, "bn2": 7}
_INVERTED = {"conv_pw": 0, "bn1": 1, "conv_dw": 3, "bn2": 4, "conv_pwl": 6, "bn3": 7}


def _torchvision(_backbone: MnasNet) -> tuple[Naming, ...]:
    def block(stage: str, index: str, name: str) -> str:
        if stage == "1":
            return f"layers.{_SEPARABLE[name]}"
        return f"layers.{int(stage) + 6}.{int(index) - 1}.layers.{_INVERTED[name]}"

    return (
        (r"stem/(conv|bn)", lambda kind: f"layers.{('conv', 'bn').index(kind)}"),
        (r"stage(\d)/block(\d)/(\w+)", block),
        (r"final/(conv|bn)", lambda kind: f"layers.{14 + ('conv', 'bn').index(kind)}"),
    )


_BILINEAR = Preprocessing(interpolation="bilinear")
_LATER = Preprocessing(crop_pct=224 / 232, interpolation="bilinear")
TABLES = (
    Table(
        "torchvision",
        "mnasnet",
        _torchvision,
        "classifier.1",
        TORCH,
        conventions={"norm": NormSpec(momentum=0.9997)},
        preprocessing={
            **{"mnasnet0_5": _BILINEAR, "mnasnet1_0": _BILINEAR},
            **{"mnasnet0_75": _LATER, "mnasnet1_3": _LATER},
        },
    ),
    Table("timm", "mnasnet", timm_modules, "classifier", TORCH),
)

OUTPUTS = (
    *TIMM_OUTPUTS,
    (r"layers\.2", lambda: "stem"),
    (r"layers\.16", lambda: "final"),
)
INSIDE = (
    *TIMM_INSIDE,
    (r"layers\.5", lambda: "stage1/block1"),
    (
        r"layers\.(8|9|1[0-3])\.(\d)\.layers\.[25]",
        lambda stack, block: f"stage{int(stack) - 6}/block{int(block) + 1}",
    ),
)

_BOTH = ("torchvision", "timm")


def _a1(name: str, top1: float) -> Published:
    return Published(("timm",), {name: network("rmsp_in1k", rmsp_in1k={"224": top1})})


MODELS = {
    "mnasnet0_5": Published(
        _BOTH,
        timm={"mnasnet_050": network()},
        torchvision=TorchvisionFile("mnasnet0.5_top1_67.823-3ffadce67e.pth", 67.73),
    ),
    "mnasnet0_75": Published(
        _BOTH,
        timm={"mnasnet_075": network()},
        torchvision=TorchvisionFile("mnasnet0_75-7090bc5f.pth", 71.18),
    ),
    "mnasnet1_0": Published(
        _BOTH,
        timm={"mnasnet_100": network("rmsp_in1k", rmsp_in1k={"224": 74.65})},
        torchvision=TorchvisionFile("mnasnet1.0_top1_73.512-f206786ef8.pth", 73.46),
    ),
    "mnasnet1_3": Published(
        ("torchvision",), torchvision=TorchvisionFile("mnasnet1_3-a4c69d6f.pth", 76.51)
    ),
    "semnasnet_075": _a1("semnasnet_075", 72.99),
    "semnasnet_100": _a1("semnasnet_100", 75.45),
    "mnasnet_small": Published(
        ("timm",), {"mnasnet_small": network("lamb_in1k", lamb_in1k={"224": 66.20})}
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
