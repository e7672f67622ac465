"""AlexNet: names of torchvision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.published import Published, TorchvisionFile
from weights_convert.convert.rules import Naming, Table

if TYPE_CHECKING:
    from jtl.models.families.alexnet import AlexNet

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

MODELS = {
    "alexnet": Published(
        ("torchvision",),
        torchvision=TorchvisionFile("alexnet-owt-7be5be79.pth", 56.52),
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
