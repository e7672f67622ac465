"""EfficientNet B0 to B4: names of torchvision, of timm, of lukemelas's port, and of Keras."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import NormSpec, Preprocessing
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, TorchvisionFile, network
from weights_convert.convert.rules import Naming, Table
from weights_convert.convert.tables.mobile import (
    DEPTHWISE,
    TIMM_INSIDE,
    TIMM_OUTPUTS,
    keras_names,
    keras_numbered,
    lukemelas,
    timm_modules,
)

if TYPE_CHECKING:
    from jtl.models.families.efficientnet import EfficientNet

_LAYERS = {"conv": "0", "bn": "1"}
# Each convolution is one with its normalization and activation.
_SEPARABLE = {"conv_dw": "0.0", "bn1": "0.1", "conv_pw": "2.0", "bn2": "2.1"}
_SEPARABLE |= {"se/conv_reduce": "1.fc1", "se/conv_expand": "1.fc2"}
INVERTED = {"conv_pw": "0.0", "bn1": "0.1", "conv_dw": "1.0", "bn2": "1.1"}
INVERTED |= {"se/conv_reduce": "2.fc1", "se/conv_expand": "2.fc2", "conv_pwl": "3.0", "bn3": "3.1"}


def _torchvision(_backbone: EfficientNet) -> tuple[Naming, ...]:
    def block(stage: str, index: str, name: str) -> str:
        names = _SEPARABLE if stage == "1" else INVERTED
        return f"features.{stage}.{int(index) - 1}.block.{names[name]}"

    return (
        (r"stem/(conv|bn)", lambda kind: f"features.0.{_LAYERS[kind]}"),
        (r"stage(\d)/block(\d)/(\w+|se/\w+)", block),
        (r"final/(conv|bn)", lambda kind: f"features.8.{_LAYERS[kind]}"),
    )


def _keras_table(library: str, modules, classifier: str) -> Table:
    return Table(
        library,
        "efficientnet",
        modules,
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        conventions={
            "norm": NormSpec(epsilon=_EPSILON, momentum=0.99, unbiased=False),
            "padding": "SAME",
        },
        # By layers of the model itself. Keras states no crop, so the field's usual one stands.
        preprocessing={
            f"efficientnet_b{n}": Preprocessing(size=size)
            for n, size in enumerate((224, 240, 260, 300, 380))
        },
        layouts=DEPTHWISE,
        free_classifier=True,
        scales=True,
    )


_EPSILON = 1e-3
TABLES = (
    Table(
        "torchvision",
        "efficientnet",
        _torchvision,
        "classifier.1",
        TORCH,
        preprocessing={
            "efficientnet_b0": Preprocessing(crop_pct=224 / 256),
            "efficientnet_b1": Preprocessing(crop_pct=240 / 256, size=240),
            "efficientnet_b2": Preprocessing(crop_pct=1.0, size=288),
            "efficientnet_b3": Preprocessing(crop_pct=300 / 320, size=300),
            "efficientnet_b4": Preprocessing(crop_pct=380 / 384, size=380),
        },
    ),
    Table("timm", "efficientnet", timm_modules, "classifier", TORCH),
    Table(
        "lukemelas",
        "efficientnet",
        lukemelas,
        "_fc",
        TORCH,
        conventions={"norm": NormSpec(epsilon=_EPSILON, momentum=0.99), "padding": "SAME"},
    ),
    _keras_table("keras", keras_names("dwconv"), "predictions"),
    # Keras 3's first .weights.h5 files hold no names, but count the layers of each class.
    _keras_table("keras (numbered)", keras_numbered, "dense"),
)

OUTPUTS = (
    *TIMM_OUTPUTS,
    (r"stem_activation|features\.0\.2", lambda: "stem"),
    (r"top_activation|features\.8\.2", lambda: "final"),
)
INSIDE = TIMM_INSIDE

_LIBRARIES = ("torchvision", "timm", "lukemelas", "keras", "keras (numbered)")
# timm's `tf_`, and those without: PyTorch's padding and epsilon, which keys do not show.
_SAME = {"norm": NormSpec(epsilon=_EPSILON), "padding": "SAME"}


def _tensorflow(size: int, crop_pct: float, **top1: float):
    """The original weights of a network, as timm has them."""
    pre = Preprocessing(crop_pct=crop_pct, size=size)
    tags = " ".join(f"{tag}@{size}" for tag in top1)
    return network(tags, _SAME, pre, **{tag: {str(size): top} for tag, top in top1.items()})


MODELS = {
    "efficientnet_b0": Published(
        _LIBRARIES,
        timm={
            "efficientnet_b0": network("ra_in1k ra4_e3600_r224_in1k", ra_in1k={"224": 77.69}),
            "tf_efficientnet_b0": _tensorflow(
                *(224, 0.875), in1k=76.53, aa_in1k=76.83, ap_in1k=77.09, ns_jft_in1k=78.67
            ),
        },
        keras="EfficientNetB0",
        torchvision=TorchvisionFile("efficientnet_b0_rwightman-7f5810bc.pth", 77.69),
    ),
    "efficientnet_b1": Published(
        _LIBRARIES,
        timm={
            "efficientnet_b1": network("ft_in1k ra4_e3600_r240_in1k@240", ft_in1k={"256": 78.80}),
            "tf_efficientnet_b1": _tensorflow(
                *(240, 0.882), in1k=78.56, aa_in1k=78.83, ap_in1k=79.28, ns_jft_in1k=81.39
            ),
        },
        keras="EfficientNetB1",
        torchvision=TorchvisionFile("efficientnet_b1_rwightman-bac287d4.pth", 78.64),
    ),
    "efficientnet_b2": Published(
        _LIBRARIES,
        timm={
            "efficientnet_b2": network("ra_in1k", ra_in1k={"288": 80.61}),
            "tf_efficientnet_b2": _tensorflow(
                *(260, 0.89), in1k=79.60, aa_in1k=80.08, ap_in1k=80.31, ns_jft_in1k=82.38
            ),
        },
        keras="EfficientNetB2",
        torchvision=TorchvisionFile("efficientnet_b2_rwightman-c35c1473.pth", 80.61),
    ),
    "efficientnet_b3": Published(
        _LIBRARIES,
        timm={
            "efficientnet_b3": network("ra2_in1k", ra2_in1k={"320": 82.24}),
            "tf_efficientnet_b3": _tensorflow(
                *(300, 0.904), in1k=80.88, aa_in1k=81.64, ap_in1k=81.83, ns_jft_in1k=84.06
            ),
        },
        keras="EfficientNetB3",
        torchvision=TorchvisionFile("efficientnet_b3_rwightman-b3899882.pth", 82.01),
    ),
    "efficientnet_b4": Published(
        _LIBRARIES,
        timm={
            "efficientnet_b4": network("ra2_in1k", ra2_in1k={"384": 83.41}),
            "tf_efficientnet_b4": _tensorflow(
                *(380, 0.922), in1k=82.61, aa_in1k=83.02, ap_in1k=83.25
            ),
        },
        keras="EfficientNetB4",
        torchvision=TorchvisionFile("efficientnet_b4_rwightman-23ab8bcd.pth", 83.38),
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
