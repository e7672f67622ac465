"""EfficientNet-Lite: names of timm (`tf_efficientnet_lite*`) and of lukemelas's port."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import NormSpec
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import TORCH, Naming, Table
from weights_convert.convert.tables.mobile import TIMM_INSIDE, TIMM_OUTPUTS, timm_modules

if TYPE_CHECKING:
    from jtl.models.families.efficientnet import EfficientNetLite


def _lukemelas(backbone: EfficientNetLite) -> tuple[Naming, ...]:
    # The expansion, where a block has one, comes with the norm that is numbered 0.
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv"}
    separable["bn2"] = "_bn2"
    inverted = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
    inverted |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}

    def block(stage: str, index: str, name: str) -> str:
        number = sum(backbone.depths[: int(stage) - 1]) + int(index) - 1
        names = separable if stage == "1" else inverted
        return f"_blocks.{number}.{names[name]}"

    return (
        (r"stem/conv", lambda: "_conv_stem"),
        (r"stem/bn", lambda: "_bn0"),
        (r"stage(\d)/block(\d+)/(\w+)", block),
        (r"final/conv", lambda: "_conv_head"),
        (r"final/bn", lambda: "_bn1"),
    )


TABLES = (
    # timm builds these with PyTorch's default momentum (0.1), TensorFlow trained with 0.99.
    Table(
        "timm",
        "efficientnet_lite",
        timm_modules,
        "classifier",
        TORCH,
        conventions={"norm": NormSpec(epsilon=1e-3, momentum=0.9)},
    ),
    Table(
        "lukemelas",
        "efficientnet_lite",
        _lukemelas,
        "_fc",
        TORCH,
        conventions={"norm": NormSpec(epsilon=1e-3, momentum=0.99)},
    ),
)

OUTPUTS, INSIDE = TIMM_OUTPUTS, TIMM_INSIDE

# What timm's Lite without `tf_` has of its own.
_SYMMETRIC = {"norm": NormSpec(epsilon=1e-5, momentum=0.9), "padding": "symmetric"}
MODELS = {
    "efficientnet_lite0": Published(
        ("timm", "lukemelas"),
        timm={
            "tf_efficientnet_lite0": network("in1k", in1k={"224": 74.85}),
            "efficientnet_lite0": network("ra_in1k", conventions=_SYMMETRIC),
        },
    ),
    "efficientnet_lite1": Published(
        ("timm", "lukemelas"),
        timm={
            "tf_efficientnet_lite1": network("in1k"),
            "efficientnet_lite1": network(conventions=_SYMMETRIC),
        },
    ),
    "efficientnet_lite2": Published(
        ("timm", "lukemelas"),
        timm={
            "tf_efficientnet_lite2": network("in1k"),
            "efficientnet_lite2": network(conventions=_SYMMETRIC),
        },
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
