"""EfficientNetV2: names of torchvision, of timm and of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import NormSpec, Preprocessing
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, TorchvisionFile, network
from weights_convert.convert.rules import Naming, Table
from weights_convert.convert.tables.efficientnet import INVERTED
from weights_convert.convert.tables.mobile import (
    DEPTHWISE,
    TIMM_INSIDE,
    TIMM_OUTPUTS,
    keras_names,
    keras_numbered,
    timm_modules,
)

if TYPE_CHECKING:
    from jtl.models.families.efficientnet_v2 import EfficientNetV2

_LAYERS = {"conv": "0", "bn": "1"}
_FUSED = {"conv": "0.0", "conv_exp": "0.0", "bn1": "0.1", "conv_pwl": "1.0", "bn2": "1.1"}


def _torchvision(_backbone: EfficientNetV2) -> tuple[Naming, ...]:
    def block(stage: str, index: str, name: str) -> str:
        names = _FUSED if stage in "123" else INVERTED
        return f"features.{stage}.{int(index) - 1}.block.{names[name]}"

    return (
        (r"stem/(conv|bn)", lambda kind: f"features.0.{_LAYERS[kind]}"),
        (r"stage(\d)/block(\d+)/(\w+|se/\w+)", block),
        (r"final/(conv|bn)", lambda kind: f"features.7.{_LAYERS[kind]}"),
    )


_HALF = 128 / 255
_HALVES = (_HALF, _HALF, _HALF)
_S = "efficientnet_v2_s"


def _keras_table(library: str, modules, classifier: str) -> Table:
    return Table(
        library,
        "efficientnet_v2",
        modules,
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        conventions={"norm": NormSpec(epsilon=1e-3, momentum=0.9, unbiased=False)},
        # By layers of the model itself. Keras states no crop, so the field's usual one stands.
        preprocessing={
            **{
                f"efficientnet_v2_b{n}": Preprocessing(size=size)
                for n, size in enumerate((224, 240, 260, 300))
            },
            _S: Preprocessing(_HALVES, _HALVES, size=384),
        },
        layouts=DEPTHWISE,
        free_classifier=True,
        scales=True,
    )


TABLES = (
    Table(
        "torchvision",
        "efficientnet_v2",
        _torchvision,
        "classifier.1",
        TORCH,
        conventions={"padding": "symmetric"},
        preprocessing=Preprocessing(crop_pct=1.0, interpolation="bilinear", size=384),
    ),
    Table("timm", "efficientnet_v2", timm_modules, "classifier", TORCH),
    _keras_table("keras", keras_names("dwconv2"), "predictions"),
    # Keras 3's first .weights.h5 files hold no names, but count the layers of each class.
    _keras_table("keras (numbered)", keras_numbered, "dense"),
)

OUTPUTS = (
    *TIMM_OUTPUTS,
    (r"stem_activation|features\.0\.2", lambda: "stem"),
    (r"top_activation|features\.7\.2", lambda: "final"),
)
INSIDE = TIMM_INSIDE

_LIBRARIES = ("timm", "keras", "keras (numbered)")


def _base(number: int, size: int, top1: float, tags: str = "in1k", **more: float) -> Published:
    name = f"tf_efficientnetv2_b{number}"
    tests = {tag: {str(size): value} for tag, value in {"in1k": top1, **more}.items()}
    timm = {name: network(tags, None, None, **tests)}
    return Published(_LIBRARIES, timm, f"EfficientNetV2B{number}")


MODELS = {
    "efficientnet_v2_b0": _base(0, 224, 78.36),
    "efficientnet_v2_b1": _base(1, 240, 79.46),
    "efficientnet_v2_b2": _base(2, 260, 80.19),
    "efficientnet_v2_b3": _base(3, 300, 81.97, "in1k in21k in21k_ft_in1k", in21k_ft_in1k=82.67),
    "efficientnet_v2_s": Published(
        ("torchvision", *_LIBRARIES),
        timm={
            "tf_efficientnetv2_s": network(
                "in1k in21k in21k_ft_in1k", in1k={"384": 83.90}, in21k_ft_in1k={"384": 84.29}
            ),
            # Trained nowhere, but PyTorch's own form of the network, which keys do not show.
            "efficientnetv2_s": network(
                conventions={"norm": NormSpec(), "padding": "symmetric"},
                preprocessing=Preprocessing(size=384, crop_pct=1.0),
            ),
        },
        keras="EfficientNetV2S",
        torchvision=TorchvisionFile("efficientnet_v2_s-dd5fe13b.pth", 84.23),
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
