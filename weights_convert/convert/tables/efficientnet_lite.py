"""EfficientNet-Lite: names of timm (`tf_efficientnet_lite*`) and of lukemelas's port."""

from jtl.models import NormSpec
from jtl.models.families.efficientnet import EfficientNetLite
from weights_convert.convert.rules import TORCH, Naming, Table
from weights_convert.convert.tables.mobilenet import timm_modules


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
