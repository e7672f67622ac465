"""HGNetV2: timm's names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Naming, Table

if TYPE_CHECKING:
    from jtl.models.families.hgnet import HGNetV2

_JOINING = {"squeeze": "0", "excite": "1"}
_LAYER = {"conv": "conv", "bn": "bn", "affine": "lab"}
_LIGHT = {"conv_pw": "conv1", "conv_dw": "conv2"}


def _timm(_backbone: HGNetV2) -> tuple[Naming, ...]:
    def place(stage: str, block: str) -> str:
        return f"stages.{int(stage) - 1}.blocks.{int(block) - 1}"

    return (
        (
            r"stem/layer(\w+)/(conv|bn|affine)",
            lambda name, kind: f"stem.stem{name}.{_LAYER[kind]}",
        ),
        (
            r"stage(\d)/downsample/(conv|bn)",
            lambda stage, kind: f"stages.{int(stage) - 1}.downsample.{kind}",
        ),
        (
            r"stage(\d)/block(\d)/layer(\d)/(conv|bn|affine)",
            lambda stage, block, index, kind: (
                f"{place(stage, block)}.layers.{int(index) - 1}.{_LAYER[kind]}"
            ),
        ),
        (
            r"stage(\d)/block(\d)/layer(\d)/(conv_pw|conv_dw)/(conv|bn|affine)",
            lambda stage, block, index, part, kind: (
                f"{place(stage, block)}.layers.{int(index) - 1}.{_LIGHT[part]}.{_LAYER[kind]}"
            ),
        ),
        (
            r"stage(\d)/block(\d)/(squeeze|excite)/(conv|bn|affine)",
            lambda stage, block, part, kind: (
                f"{place(stage, block)}.aggregation.{_JOINING[part]}.{_LAYER[kind]}"
            ),
        ),
        (r"fc/conv", lambda: "head.last_conv.0"),
        (r"fc/affine", lambda: "head.last_conv.2"),
    )


TABLES = (Table("timm", "hgnet", _timm, "head.fc", TORCH),)

OUTPUTS = ((r"head\.last_conv", lambda: "fc"),)
INSIDE = (
    (r"stem\.pool", lambda: "stem"),
    (r"head\.last_conv\.1", lambda: "fc"),
)


def _published(name: str, top1: float) -> Published:
    """PaddleClas's own accuracy: timm's list has none of these weights."""
    tags = "ssld_stage1_in22k_in1k ssld_stage2_ft_in1k"
    return Published(("timm",), {name: network(tags, ssld_stage2_ft_in1k={"224": top1})})


MODELS = {
    name: _published(name, top1)
    for name, top1 in (
        ("hgnetv2_b0", 77.77),
        ("hgnetv2_b1", 79.18),
        ("hgnetv2_b2", 81.74),
        ("hgnetv2_b3", 82.98),
        ("hgnetv2_b4", 83.57),
    )
}
"""What is published of each model; see `weights_convert.convert.published`."""
