"""AlexNet: names of torchvision."""

from jtl.models.families.alexnet import AlexNet
from weights_convert.convert.rules import TORCH, Naming, Table

# Number of a stage's first convolution in `features`.
_FIRST = {"1": 0, "2": 3, "3": 6}


def _torch(_backbone: AlexNet) -> tuple[Naming, ...]:
    return (
        (
            r"stage(\d)/block(\d)/conv",
            lambda stage, block: f"features.{_FIRST[stage] + 2 * (int(block) - 1)}",
        ),
        (r"fc(\d)/conv", lambda number: f"classifier.{3 * int(number) - 2}"),
    )


TABLES = (
    Table(
        "torchvision",
        "alexnet",
        _torch,
        "classifier.6",
        TORCH,
        layouts={"fc1/conv": "dense", "fc2/conv": "dense"},
    ),
)
