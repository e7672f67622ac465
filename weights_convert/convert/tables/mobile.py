"""What networks of inverted residuals share: names of timm and Keras, the order of its layers."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from typing import Any

from weights_convert.convert.rules import Layout, Naming, blocks_before, numbered


def timm_block(stage: str, block: str, name: str) -> str:
    """A layer of a block, which may be inside its squeeze-and-excitation: `se/conv_reduce`."""
    return f"blocks.{int(stage) - 1}.{int(block) - 1}.{name.replace('/', '.')}"


def timm_modules(_backbone: Any) -> tuple[Naming, ...]:
    """The names of those whose last 1x1 convolution stands before the pooling."""
    return (
        (r"stem/conv", lambda: "conv_stem"),
        (r"stem/bn", lambda: "bn1"),
        (r"stage(\d)/block(\d+)/(\w+|se/\w+)", timm_block),
        (r"final/conv", lambda: "conv_head"),
        (r"final/bn", lambda: "bn2"),
    )


def lukemelas(backbone: Any) -> tuple[Naming, ...]:
    """The names of lukemelas's port of EfficientNet and its Lite variants."""
    # The expansion, where a block has one, comes with the norm that is numbered 0.
    squeeze = {"se/conv_reduce": "_se_reduce", "se/conv_expand": "_se_expand"}
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv"}
    separable |= squeeze | {"bn2": "_bn2"}
    inverted = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
    inverted |= squeeze | {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}

    def block(stage: str, index: str, name: str) -> str:
        number = blocks_before(backbone, stage, index)
        names = separable if stage == "1" else inverted
        return f"_blocks.{number}.{names[name]}"

    return (
        (r"stem/conv", lambda: "_conv_stem"),
        (r"stem/bn", lambda: "_bn0"),
        (r"stage(\d)/block(\d+)/(\w+|se/\w+)", block),
        (r"final/conv", lambda: "_conv_head"),
        (r"final/bn", lambda: "_bn1"),
    )


def keras_names(depthwise: str) -> Callable[[Any], tuple[Naming, ...]]:
    """Keras's names for EfficientNet and its second version, whose depthwise layer differs."""
    common = {"conv_dw": depthwise, "se/conv_reduce": "se_reduce", "se/conv_expand": "se_expand"}
    # By the module of a block.
    names = {
        "DepthwiseSeparable": common
        | {"bn1": "bn", "conv_pw": "project_conv", "bn2": "project_bn"},
        "InvertedResidual": common
        | {"conv_pw": "expand_conv", "bn1": "expand_bn", "bn2": "bn"}
        | {"conv_pwl": "project_conv", "bn3": "project_bn"},
        "FusedInvertedResidual": {"conv_exp": "expand_conv", "bn1": "expand_bn"}
        | {"conv_pwl": "project_conv", "bn2": "project_bn"},
        "FusedBlock": {"conv": "project_conv", "bn1": "project_bn"},
    }

    def modules(backbone: Any) -> tuple[Naming, ...]:
        kinds = {unit.path: unit.module.__name__ for unit in backbone.units()}

        def block(stage: str, index: str, name: str) -> str:
            kind = kinds[f"stage{stage}/block{index}"]
            return f"block{stage}{string.ascii_lowercase[int(index) - 1]}_{names[kind][name]}"

        return (
            (r"stem/(conv|bn)", lambda kind: f"stem_{kind}"),
            (r"stage(\d)/block(\d+)/(\w+|se/\w+)", block),
            (r"final/(conv|bn)", lambda kind: f"top_{kind}"),
        )

    return modules


TIMM_OUTPUTS = ((r"act1|bn1\.act", lambda: "stem"), (r"act2|bn2\.act", lambda: "final"))
TIMM_INSIDE = (
    (
        r"blocks\.([0-6])\.(\d+)\.(?:bn\d\.)?(?:act\d?|drop_path|drop)",
        lambda stage, block: f"stage{int(stage) + 1}/block{int(block) + 1}",
    ),
)

# The layers of units in the order in which they work.
_SQUEEZE = ("se/conv_reduce", "se/conv_expand")
_ORDERS = {
    "Stem": ("conv", "bn"),
    "DepthwiseSeparable": ("conv_dw", "bn1", *_SQUEEZE, "conv_pw", "bn2"),
    "InvertedResidual": ("conv_pw", "bn1", "conv_dw", "bn2", *_SQUEEZE, "conv_pwl", "bn3"),
    "FusedInvertedResidual": ("conv_exp", "bn1", "conv_pwl", "bn2"),
    "FusedBlock": ("conv", "bn1"),
    "Final": ("conv", "bn"),
    "PooledDense": ("conv",),
}
# Keras's depthwise kernels are [height, width, channels, 1].
DEPTHWISE: dict[str, Layout] = {r"stage\d/block\d+/conv_dw": "depthwise"}


def keras_numbered(backbone: Any) -> tuple[Naming, ...]:
    """The names by class and number of Keras's files without names, such as `conv2d_3`."""
    numbers: dict[str, int] = {}
    names = {}
    for path in _in_order(backbone):
        name = path.rpartition("/")[2]
        kind = "batch_normalization" if name.startswith("bn") else "conv2d"
        kind = "depthwise_conv2d" if name == "conv_dw" else kind
        number = numbers[kind] = numbers.get(kind, -1) + 1
        names[path] = numbered(kind, number)
    return ((r"((?:stem|final|fc|stage\d/block\d+)/.*|head/logits)", _looked_up(names)),)


def _in_order(backbone: Any) -> Iterator[str]:
    """The paths of all layers in the order in which they work, the classifier as a convolution."""
    for unit in backbone.units():
        squeezes = dict(unit.options).get("squeeze")
        for name in _ORDERS[unit.module.__name__]:
            if squeezes or name not in _SQUEEZE:
                yield f"{unit.path}/{name}"
    yield "head/logits"


def _looked_up(names: dict[str, str]) -> Callable[[str], str]:
    def name(path: str) -> str:
        return names[path]  # A KeyError is the LookupError of what there is no rule for.

    return name
