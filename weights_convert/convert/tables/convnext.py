"""ConvNeXt: names of timm, of torchvision, and of Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from jtl.models import Preprocessing
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, TorchvisionFile, network
from weights_convert.convert.rules import Layout, Naming, Table, blocks_before, numbered

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


def _keras(final: str) -> Callable[[ConvNeXt], tuple[Naming, ...]]:
    """Keras's names, which begin with the model's; `final` is the last normalization's."""
    names = {"conv_dw": "depthwise_conv", "norm": "layernorm", "fc1": "pointwise_conv_1"}
    names |= {"fc2": "pointwise_conv_2", "layer_scale": "layer_scale"}
    kinds = {"conv": "conv", "norm": "layernorm"}

    def modules(backbone: ConvNeXt) -> tuple[Naming, ...]:
        # A KeyError is the LookupError of a model that Keras does not have.
        network = f"convnext_{_KERAS_SIZES[backbone.depths, backbone.channels[0]]}"

        def block(stage: str, index: str, name: str) -> str:
            return f"{network}_stage_{int(stage) - 1}_block_{int(index) - 1}_{names[name]}"

        return (
            (r"stem/(conv|norm)", lambda kind: f"{network}_stem_{kinds[kind]}"),
            (
                r"stage(\d)/downsample/(conv|norm)",
                lambda stage, kind: f"{network}_downsampling_{kinds[kind]}_{int(stage) - 2}",
            ),
            (r"stage(\d)/block(\d+)/(\w+)", block),
            (r"final/norm", lambda: final.format(network)),
            (r"head/logits", lambda: f"{network}_head_dense"),
        )

    return modules


_KERAS_SIZES: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 3, 9, 3), 96): "tiny",
    ((3, 3, 27, 3), 96): "small",
    ((3, 3, 27, 3), 128): "base",
}


def _keras_numbered(backbone: ConvNeXt) -> tuple[Naming, ...]:
    """The names by class and number of Keras's files without names, such as `layer_scale_3`."""

    def block(stage: str, index: str, name: str) -> str:
        number = blocks_before(backbone, stage, index)
        if name in ("fc1", "fc2"):
            return numbered("dense", 2 * number + (name == "fc2"))
        kinds = {"conv_dw": "conv2d", "norm": "layer_normalization", "layer_scale": "layer_scale"}
        return numbered(kinds[name], number)

    # What changes the size is a `Sequential` each, which counts its own layers.
    inside = {"conv": "conv2d", "norm": "layer_normalization"}
    total = sum(backbone.depths)
    return (
        (r"stem/(conv|norm)", lambda kind: f"sequential/{inside[kind]}"),
        (
            r"stage(\d)/downsample/(conv|norm)",
            lambda stage, kind: f"{numbered('sequential', int(stage) - 1)}/{inside[kind]}",
        ),
        (r"stage(\d)/block(\d+)/(\w+)", block),
        (r"final/norm", lambda: numbered("layer_normalization", total)),
        (r"head/logits", lambda: numbered("dense", 2 * total)),
    )


# All but timm's nano have dense layers where jtl has convolutions of one pixel.
_DENSE: dict[str, Layout] = {r"stage\d/block\d+/fc[12]": "dense"}


def _keras_table(library: str, modules: Callable[..., tuple[Naming, ...]], classifier: str = ""):
    return Table(
        library,
        "convnext",
        modules,
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        # By a layer of the model itself; Keras states no crop, so the field's usual one stands.
        preprocessing=Preprocessing(),
        layouts=_DENSE,
        free_classifier=True,
        scales=True,
    )


TABLES = (
    Table("timm", "convnext", _timm, "head.fc", TORCH, layouts=_DENSE),
    Table("timm (1x1 convolutions)", "convnext", _timm, "head.fc", TORCH),
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
    _keras_table("keras", _keras("{}_head_layernorm")),
    _keras_table("keras (no top)", _keras("layer_normalization"), "predictions"),
    # Keras 3's first .weights.h5 files hold no names, but count the layers of each class.
    _keras_table("keras (numbered)", _keras_numbered),
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

_LIBRARIES = ("timm", "torchvision", "keras", "keras (no top)", "keras (numbered)")
_FACEBOOK = "fb_in1k fb_in22k fb_in22k_ft_in1k fb_in22k_ft_in1k_384@384"
_SMALLER = f"{_FACEBOOK} in12k in12k_ft_in1k in12k_ft_in1k_384@384 dinov3_lvd1689m"
MODELS = {
    "convnext_nano": Published(
        ("timm (1x1 convolutions)",),
        timm={
            "convnext_nano": network(
                "in12k_ft_in1k r384_in12k_ft_in1k@384 d1h_in1k in12k r384_in12k@384 "
                "r384_ad_in12k@384",
                in12k_ft_in1k={"288": 82.86},
                d1h_in1k={"288": 81.48},
            )
        },
    ),
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
        keras="ConvNeXtTiny",
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
        keras="ConvNeXtSmall",
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
        keras="ConvNeXtBase",
        torchvision=TorchvisionFile("convnext_base-6075fbad.pth", 84.06),
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
