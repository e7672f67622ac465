"""SqueezeNet: names of torchvision."""

from jtl.models.families.squeezenet import SqueezeNet
from weights_convert.convert.rules import TORCH, Naming, Table


def _torch(backbone: SqueezeNet) -> tuple[Naming, ...]:
    def fire(stage: str, block: str, name: str) -> str:
        # The first convolution, its ReLU, and a pooling before each stage.
        number = 2 + sum(backbone.depths[: int(stage) - 1]) + int(stage) + int(block) - 1
        return f"features.{number}.{name}"

    return (
        (r"stem/conv", lambda: "features.0"),
        (r"stage(\d)/block(\d)/(squeeze|expand\dx\d)", fire),
    )


TABLES = (
    Table(
        "torchvision",
        "squeezenet",
        _torch,
        "classifier.1",
        TORCH,
        layouts={"head/logits": "conv"},
    ),
)
