"""DenseNet: names of torchvision and timm, of torchvision before 0.3 (`norm.1`), of Keras."""

from jtl.models import NormSpec, Preprocessing
from jtl.models.families.densenet import DenseNet
from weights_convert.convert.rules import KERAS, TORCH, Naming, Table


def _torch(dot: str):
    """`dot` stands between a layer's kind and its number: `norm1`, or `norm.1` long ago."""

    def modules(_backbone: DenseNet) -> tuple[Naming, ...]:
        def dense_layer(stage: str, block: str, kind: str, number: str) -> str:
            kind = {"bn": "norm", "conv": "conv"}[kind]
            return f"features.denseblock{stage}.denselayer{block}.{kind}{dot}{number}"

        return (
            (r"stem/conv", lambda: "features.conv0"),
            (r"stem/bn", lambda: "features.norm0"),
            (r"stage(\d)/block(\d+)/(bn|conv)(\d)", dense_layer),
            (r"stage(\d)/transition/bn", lambda stage: f"features.transition{stage}.norm"),
            (r"stage(\d)/transition/conv", lambda stage: f"features.transition{stage}.conv"),
            (r"final/bn", lambda: "features.norm5"),
        )

    return modules


def _keras(stem: str):
    """`stem` stands between the stem's name and its layers: `conv1_bn`, or `conv1/bn` long ago."""

    def modules(_backbone: DenseNet) -> tuple[Naming, ...]:
        def dense_layer(stage: str, block: str, kind: str, number: str) -> str:
            # Normalizations are counted from 0, convolutions from 1.
            index = int(number) - (kind == "bn")
            return f"conv{int(stage) + 1}_block{block}_{index}_{kind}"

        return (
            (r"stem/(conv|bn)", lambda kind: f"conv1{stem}{kind}"),
            (r"stage(\d)/block(\d+)/(bn|conv)(\d)", dense_layer),
            (
                r"stage(\d)/transition/(bn|conv)",
                lambda stage, kind: f"pool{int(stage) + 1}_{kind}",
            ),
            (r"final/bn", lambda: "bn"),
        )

    return modules


def _keras_numbered(backbone: DenseNet) -> tuple[Naming, ...]:
    classes = {"conv": "conv2d", "bn": "batch_normalization"}

    def before(stage: str) -> int:
        """Layers of one class in the stem and in the stages before, with their transitions."""
        return 1 + sum(2 * depth + 1 for depth in backbone.depths[: int(stage) - 1])

    def dense_layer(stage: str, block: str, kind: str, number: str) -> str:
        return f"{classes[kind]}_{before(stage) + 2 * (int(block) - 1) + int(number) - 1}"

    def transition(stage: str, kind: str) -> str:
        return f"{classes[kind]}_{before(stage) + 2 * backbone.depths[int(stage) - 1]}"

    return (
        (r"stem/(conv|bn)", lambda kind: classes[kind]),
        (r"stage(\d)/block(\d+)/(bn|conv)(\d)", dense_layer),
        (r"stage(\d)/transition/(bn|conv)", transition),
        (r"final/bn", lambda: transition(str(len(backbone.depths)), "bn")),
    )


def _keras_table(library: str, modules, classifier: str) -> Table:
    return Table(
        library,
        "densenet",
        modules,
        classifier,
        KERAS,
        ignored=(r".*seed_generator.*",),
        conventions={"norm": NormSpec(epsilon=1.001e-5, momentum=0.99, unbiased=False)},
        # Converted from PyTorch, whose mean and standard deviation Keras keeps here; it states
        # no crop, so the field's usual one stands.
        preprocessing=Preprocessing(),
        free_classifier=True,
    )


TABLES = (
    Table("timm/torchvision", "densenet", _torch(""), "classifier", TORCH),
    Table("torchvision (old keys)", "densenet", _torch("."), "classifier", TORCH),
    _keras_table("keras", _keras("_"), "predictions"),
    # Keras 2: slashes, which Keras 3 does not allow in a layer's name.
    _keras_table("keras (old keys)", _keras("/"), "fc1000"),
    # Keras 3's first .weights.h5 files hold no names, but count the layers of each class.
    _keras_table("keras (numbered)", _keras_numbered, "dense"),
)
