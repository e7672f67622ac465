"""ResNet-D: timm's names, as in `resnet50d`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Naming, Table

if TYPE_CHECKING:
    from jtl.models.families.resnet import ResNet

_STEM = {"conv1": "conv1.0", "bn1": "conv1.1", "conv2": "conv1.3", "bn2": "conv1.4"}
_STEM |= {"conv3": "conv1.6", "bn3": "bn1"}
# The pooling before them has a number, also where there is none.
_DOWN = {"conv": "1", "bn": "2"}


def _timm(_backbone: ResNet) -> tuple[Naming, ...]:
    def block(stage: str, index: str, name: str) -> str:
        return f"layer{stage}.{int(index) - 1}.{name}"

    return (
        (r"stem/(\w+)", lambda name: _STEM[name]),
        (r"stage(\d)/block(\d+)/((?:conv|bn)\d)", block),
        (
            r"stage(\d)/block(\d+)/down/(conv|bn)",
            lambda stage, index, kind: block(stage, index, f"downsample.{_DOWN[kind]}"),
        ),
    )


TABLES = (Table("timm", "resnet_d", _timm, "fc", TORCH),)

OUTPUTS = ((r"maxpool", lambda: "stem"),)
INSIDE = (
    (r"conv1\.[25]|act1", lambda: "stem"),
    (
        r"layer(\d)\.(\d+)\.(?:act\d|drop_block|aa|downsample\.0)",
        lambda stage, index: f"stage{stage}/block{int(index) + 1}",
    ),
)


def _published(name: str, tags: str, **top1: float) -> Published:
    """Accuracies at 288 pixels, but gluon's at 224 and from ResNet101 on ra2's at 320."""
    large = name in ("resnet101d", "resnet152d")
    sizes = {"gluon_in1k": "224", "a3_in1k": "224", "ra2_in1k": "320" if large else "288"}
    tests = {tag: {sizes.get(tag, "288"): value} for tag, value in top1.items()}
    return Published(("timm",), {name: network(tags, None, None, **tests)})


MODELS = {
    "resnet18d": _published("resnet18d", "ra2_in1k ra4_e3600_r224_in1k", ra2_in1k=73.79),
    "resnet26d": _published("resnet26d", "bt_in1k", bt_in1k=77.41),
    "resnet34d": _published("resnet34d", "ra2_in1k", ra2_in1k=78.44),
    "resnet50d": _published(
        *("resnet50d", "a1_in1k a2_in1k a3_in1k@160 gluon_in1k ra2_in1k ra4_e3600_r224_in1k"),
        a1_in1k=81.45,
        a2_in1k=81.16,
        a3_in1k=78.72,
        gluon_in1k=79.08,
        ra2_in1k=81.36,
    ),
    "resnet101d": _published(
        *("resnet101d", "gluon_in1k@224 ra2_in1k"), gluon_in1k=80.43, ra2_in1k=83.02
    ),
    "resnet152d": _published(
        *("resnet152d", "gluon_in1k@224 ra2_in1k"), gluon_in1k=80.48, ra2_in1k=83.68
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
