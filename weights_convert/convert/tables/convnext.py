"""ConvNeXt: names of timm, of torchvision, and of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import Preprocessing
from weights_convert.convert.published import Published, TorchvisionFile, network
from weights_convert.convert.rules import TORCH, Layout, Naming, Table

if TYPE_CHECKING:
    from jtl.models.families.convnext import ConvNeXt

_LAYERS = {"conv": "0", "norm": "1"}
_DOWN = {"norm": "0", "conv": "1"}


def _timm(_backbone: ConvNeXt) -> tuple[Naming, ...]:
    names = {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}

    def block(stage: str, index: str, name: str) -> str:
        parent = f"stages.{int(stage) - 1}.blocks.{int(index) - 1}"
        # The factors are a param of the block itself.
        return parent if name == "layer_scale" else f"{parent}.{names.get(name, name)}"

    return (
        (r"stem/(conv|norm)", lambda kind: f"stem.{_LAYERS[kind]}"),
        (
            r"stage(\d)/downsample/(conv|norm)",
            lambda stage, kind: f"stages.{int(stage) - 1}.downsample.{_DOWN[kind]}",
        ),
        (r"stage(\d)/block(\d+)/(\w+)", block),
        (r"final/norm", lambda: "head.norm"),
    )


def _torchvision(_backbone: ConvNeXt) -> tuple[Naming, ...]:
    # Their numbers count what permutes axes and activates, too.
    names = {"conv_dw": "block.0", "norm": "block.2", "fc1": "block.3", "fc2": "block.5"}

    def block(stage: str, index: str, name: str) -> str:
        parent = f"features.{2 * int(stage) - 1}.{int(index) - 1}"
        return parent if name == "layer_scale" else f"{parent}.{names[name]}"

    return (
        (r"stem/(conv|norm)", lambda kind: f"features.0.{_LAYERS[kind]}"),
        (
            r"stage(\d)/downsample/(conv|norm)",
            lambda stage, kind: f"features.{2 * int(stage) - 2}.{_DOWN[kind]}",
        ),
        (r"stage(\d)/block(\d+)/(\w+)", block),
        (r"final/norm", lambda: "classifier.0"),
    )


# Both have dense layers where jtl has convolutions of one pixel.
_DENSE: dict[str, Layout] = {r"stage\d/block\d+/fc[12]": "dense"}
TABLES = (
    Table("timm", "convnext", _timm, "head.fc", TORCH, layouts=_DENSE),
    Table(
        "torchvision",
        "convnext",
        _torchvision,
        "classifier.2",
        TORCH,
        preprocessing={
            f"convnext_{name}": Preprocessing(crop_pct=224 / resize, interpolation="bilinear")
            for name, resize in {"tiny": 236, "small": 230, "base": 232}.items()
        },
        layouts={**_DENSE, r".*/layer_scale/gamma": "channels"},
        leaf_names={"gamma": "layer_scale"},
    ),
)

OUTPUTS = (
    (
        r"stages\.(\d)\.downsample",
        lambda stage: f"stage{int(stage) + 1}/downsample",
    ),
    (
        r"features\.([246])",
        lambda number: f"stage{int(number) // 2 + 1}/downsample",
    ),
)
INSIDE = (
    (
        r"stages\.(\d)\.blocks\.(\d+)\.(?:mlp(?:\.act)?|drop_path|shortcut)",
        lambda stage, block: f"stage{int(stage) + 1}/block{int(block) + 1}",
    ),
)

_LIBRARIES = ("timm", "torchvision")
_FACEBOOK = "fb_in1k fb_in22k fb_in22k_ft_in1k fb_in22k_ft_in1k_384@384"
_SMALLER = f"{_FACEBOOK} in12k in12k_ft_in1k in12k_ft_in1k_384@384 dinov3_lvd1689m"
MODELS = {
    "convnext_tiny": Published(
        _LIBRARIES,
        timm={
            "convnext_tiny": network(
                _SMALLER,
                fb_in1k={"288": 82.70},
                fb_in22k_ft_in1k={"288": 78.90},
                fb_in22k_ft_in1k_384={"384": 84.09},
                in12k_ft_in1k={"288": 84.45},
                in12k_ft_in1k_384={"384": 85.12},
            )
        },
        torchvision=TorchvisionFile("convnext_tiny-983f1562.pth", 82.52),
    ),
    "convnext_small": Published(
        _LIBRARIES,
        timm={
            "convnext_small": network(
                _SMALLER,
                fb_in1k={"288": 83.70},
                fb_in22k_ft_in1k={"288": 85.26},
                fb_in22k_ft_in1k_384={"384": 85.78},
                in12k_ft_in1k={"288": 85.33},
                in12k_ft_in1k_384={"384": 86.18},
            )
        },
        torchvision=TorchvisionFile("convnext_small-0c510722.pth", 83.62),
    ),
    "convnext_base": Published(
        _LIBRARIES,
        timm={
            "convnext_base": network(
                f"{_FACEBOOK} dinov3_lvd1689m",
                fb_in1k={"288": 84.43},
                fb_in22k_ft_in1k={"288": 86.27},
                fb_in22k_ft_in1k_384={"384": 86.80},
            )
        },
        torchvision=TorchvisionFile("convnext_base-6075fbad.pth", 84.06),
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
