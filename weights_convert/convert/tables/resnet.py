"""ResNet: names of torchvision and timm, which agree, and of Keras through its versions."""

from jtl.models import NormSpec
from jtl.models.families.resnet import ResNet
from weights_convert.convert.rules import KERAS, TORCH, Naming, Table
from weights_convert.convert.tables.preprocessing import CAFFE

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
)
