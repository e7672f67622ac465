"""ResNet: names of torchvision and timm (the same), Keras and `microsoft/resnet-50`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jtl.models import NormSpec
from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, network
from weights_convert.convert.rules import Naming, Table
from weights_convert.convert.tables.names import keras_block
from weights_convert.convert.tables.preprocessing import CAFFE

if TYPE_CHECKING:
    from jtl.models.families.resnet import ResNet

_SEEDS = (r".*seed_generator.*",)


def _torch(_backbone: ResNet) -> tuple[Naming, ...]:
    return (
        (r"stem/(conv1|bn1)", lambda name: name),
        (
            r"stage(\d)/block(\d+)/((?:conv|bn)\d)",
            lambda stage, block, name: f"layer{stage}.{int(block) - 1}.{name}",
        ),
        (
            r"stage(\d)/block(\d+)/down/(conv|bn)",
            lambda stage, block, name: (
                f"layer{stage}.{int(block) - 1}.downsample.{['conv', 'bn'].index(name)}"
            ),
        ),
    )


def _keras(_backbone: ResNet) -> tuple[Naming, ...]:
    def layer(stage: str, block: str, kind: str, number: str) -> str:
        return f"conv{int(stage) + 1}_block{block}_{number}_{kind}"

    return (
        (r"stem/(conv|bn)1", lambda kind: f"conv1_{kind}"),
        (r"stage(\d)/block(\d+)/(conv|bn)(\d)", layer),
        (
            r"stage(\d)/block(\d+)/down/(conv|bn)",
            lambda stage, block, kind: layer(stage, block, kind, "0"),
        ),
    )


def _keras_old(_backbone: ResNet) -> tuple[Naming, ...]:
    def layer(stage: str, block: str, kind: str, branch: str) -> str:
        prefix = {"conv": "res", "bn": "bn"}[kind]
        return f"{prefix}{int(stage) + 1}{'abcdef'[int(block) - 1]}_branch{branch}"

    return (
        (r"stem/conv1", lambda: "conv1"),
        (r"stem/bn1", lambda: "bn_conv1"),
        (
            r"stage(\d)/block([1-6])/(conv|bn)([123])",
            lambda stage, block, kind, number: layer(
                stage, block, kind, f"2{'abc'[int(number) - 1]}"
            ),
        ),
        (
            r"stage(\d)/block([1-6])/down/(conv|bn)",
            lambda stage, block, kind: layer(stage, block, kind, "1"),
        ),
    )


def _keras_numbered(backbone: ResNet) -> tuple[Naming, ...]:
    classes = {"conv": "conv2d", "bn": "batch_normalization"}

    def layer(stage: str, block: str, kind: str, name: str) -> str:
        # The stem comes first. A stage's first block has four convolutions, of which the
        # shortcut's is the third: Keras orders layers by their distance from the output.
        before = 1 + sum(3 * depth + 1 for depth in backbone.depths[: int(stage) - 1])
        before += 3 * (int(block) - 1) + (block != "1")
        order = ["1", "2", "down", "3"] if block == "1" else ["1", "2", "3"]
        return f"{classes[kind]}_{before + order.index(name)}"

    return (
        (r"stem/(conv|bn)1", lambda kind: classes[kind]),
        (r"stage(\d)/block(\d+)/(conv|bn)(\d)", layer),
        (
            r"stage(\d)/block(\d+)/down/(conv|bn)",
            lambda stage, block, kind: layer(stage, block, kind, "down"),
        ),
    )


_TRANSFORMERS_KINDS = {"conv": "convolution", "bn": "normalization"}


def _transformers(_backbone: ResNet) -> tuple[Naming, ...]:
    def layer(stage: str, block: str, inner: str, kind: str) -> str:
        place = f"resnet.encoder.stages.{int(stage) - 1}.layers.{int(block) - 1}"
        return f"{place}.{inner}.{_TRANSFORMERS_KINDS[kind]}"

    return (
        (r"stem/(conv|bn)1", lambda kind: f"resnet.embedder.embedder.{_TRANSFORMERS_KINDS[kind]}"),
        (
            r"stage(\d)/block(\d+)/(conv|bn)(\d)",
            lambda stage, block, kind, number: layer(
                stage, block, f"layer.{int(number) - 1}", kind
            ),
        ),
        (
            r"stage(\d)/block(\d+)/down/(conv|bn)",
            lambda stage, block, kind: layer(stage, block, "shortcut", kind),
        ),
    )


def _keras_table(library: str, modules, classifier: str, epsilon: float) -> Table:
    return Table(
        library,
        "resnet",
        modules,
        classifier,
        KERAS,
        ignored=_SEEDS,
        conventions={
            "norm": NormSpec(epsilon=epsilon, momentum=0.99, unbiased=False),
            "stride_in_1x1": True,
            "conv_bias": True,
        },
        preprocessing=CAFFE,
        free_classifier=True,
    )


TABLES = (
    Table("timm/torchvision", "resnet", _torch, "fc", TORCH),
    _keras_table("keras", _keras, "predictions", 1.001e-5),
    # Keras before 2.2.5 had ResNet50 alone, its normalizations with Keras's default epsilon.
    _keras_table("keras (old keys)", _keras_old, "fc1000", 1e-3),
    # Keras 3's first .weights.h5 files hold no names, but count the layers of each class.
    _keras_table("keras (numbered)", _keras_numbered, "dense", 1.001e-5),
    Table("transformers", "resnet", _transformers, "classifier.1", TORCH),
)

OUTPUTS = (
    (r"maxpool|pool1_pool", lambda: "stem"),
    (r"conv(\d)_block(\d+)_out", keras_block),
)

INSIDE = (
    (r"relu|act1|conv1_relu|conv1_pad|pool1_pad", lambda: "stem"),
    (r"conv(\d)_block(\d+)_(?:\d_relu|add)", keras_block),
    (
        r"layer(\d)\.(\d+)\.(?:relu|act\d|drop_block|aa)",
        lambda stage, block: f"stage{stage}/block{int(block) + 1}",
    ),
)

MODELS = {
    "resnet18": Published(
        ("timm/torchvision", "transformers"),
        timm={
            "resnet18": network(
                "a1_in1k a2_in1k a3_in1k@160 fb_ssl_yfcc100m_ft_in1k "
                "fb_swsl_ig1b_ft_in1k gluon_in1k tv_in1k",
                a1_in1k={"288": 73.16},
                tv_in1k={"224": 69.76},
            )
        },
    ),
    "resnet34": Published(
        ("timm/torchvision", "transformers"),
        timm={
            "resnet34": network(
                "a1_in1k a2_in1k a3_in1k@160 bt_in1k gluon_in1k ra4_e3600_r224_in1k tv_in1k",
                a1_in1k={"288": 77.92},
                tv_in1k={"224": 73.31},
            )
        },
    ),
    "resnet50": Published(
        ("timm/torchvision", "keras", "keras (old keys)", "keras (numbered)", "transformers"),
        timm={
            "resnet50": network(
                "a1_in1k a1h_in1k@176 a2_in1k a3_in1k@160 am_in1k b1k_in1k "
                "b2k_in1k bt_in1k c1_in1k c2_in1k d_in1k "
                "fb_ssl_yfcc100m_ft_in1k fb_swsl_ig1b_ft_in1k gluon_in1k "
                "ra_in1k ram_in1k tv2_in1k@176 tv_in1k",
                a1_in1k={"224": 80.38, "288": 81.24},
                tv2_in1k={"224": 80.86},
                tv_in1k={"224": 76.16},
            )
        },
        keras="ResNet50",
    ),
    "resnet101": Published(
        ("timm/torchvision", "keras", "keras (numbered)", "transformers"),
        timm={
            "resnet101": network(
                "a1_in1k a1h_in1k a2_in1k a3_in1k@160 gluon_in1k tv_in1k tv2_in1k@176",
                a1h_in1k={"288": 82.78},
                tv_in1k={"224": 77.37},
                tv2_in1k={"224": 81.89},
            )
        },
        keras="ResNet101",
    ),
    "resnet152": Published(
        ("timm/torchvision", "keras", "keras (numbered)", "transformers"),
        timm={
            "resnet152": network(
                "a1_in1k a1h_in1k a2_in1k a3_in1k@160 gluon_in1k tv_in1k tv2_in1k@176",
                a1h_in1k={"288": 83.45},
                tv_in1k={"224": 78.31},
                tv2_in1k={"224": 82.28},
            )
        },
        keras="ResNet152",
    ),
    "wide_resnet50_2": Published(
        ("timm/torchvision",),
        timm={
            "wide_resnet50_2": network(
                "racm_in1k tv_in1k tv2_in1k@176", tv_in1k={"224": 78.47}, tv2_in1k={"224": 81.60}
            )
        },
    ),
    "wide_resnet101_2": Published(
        ("timm/torchvision",),
        timm={
            "wide_resnet101_2": network(
                "tv_in1k tv2_in1k@176", tv_in1k={"224": 78.85}, tv2_in1k={"224": 82.51}
            )
        },
    ),
    "resnext50_32x4d": Published(
        ("timm/torchvision",),
        timm={
            "resnext50_32x4d": network(
                "a1_in1k a1h_in1k a2_in1k a3_in1k@160 fb_ssl_yfcc100m_ft_in1k "
                "fb_swsl_ig1b_ft_in1k gluon_in1k ra_in1k tv_in1k tv2_in1k@176",
                a1h_in1k={"288": 82.01},
                tv_in1k={"224": 77.62},
                tv2_in1k={"224": 81.20},
            )
        },
    ),
    "resnext101_32x8d": Published(
        ("timm/torchvision",),
        timm={
            "resnext101_32x8d": network(
                "fb_ssl_yfcc100m_ft_in1k fb_swsl_ig1b_ft_in1k "
                "fb_wsl_ig1b_ft_in1k tv_in1k tv2_in1k@176",
                tv_in1k={"224": 79.31},
                tv2_in1k={"224": 82.83},
            )
        },
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
