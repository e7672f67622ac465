"""SqueezeNet: names of torchvision, of its authors' Caffe models and of keras-squeezenet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from weights_convert.convert.leaf_names import KERAS, TORCH
from weights_convert.convert.published import Published, TorchvisionFile
from weights_convert.convert.rules import Naming, Table, blocks_before
from weights_convert.convert.tables.preprocessing import CAFFE, CAFFE_ROUNDED

if TYPE_CHECKING:
    from jtl.models.families.squeezenet import SqueezeNet


def _torch(backbone: SqueezeNet) -> tuple[Naming, ...]:
    def fire(stage: str, block: str, name: str) -> str:
        # The first convolution, its ReLU, and a pooling before each stage.
        number = 2 + blocks_before(backbone, stage, block) + int(stage)
        return f"features.{number}.{name}"

    return (
        (r"stem/conv", lambda: "features.0"),
        (r"stage(\d)/block(\d)/(squeeze|expand\dx\d)", fire),
    )


def _caffe(backbone: SqueezeNet) -> tuple[Naming, ...]:
    def fire(stage: str, block: str, name: str) -> str:
        return f"fire{2 + blocks_before(backbone, stage, block)}/{name}"

    return (
        (r"stem/conv", lambda: "conv1"),
        (
            r"stage(\d)/block(\d)/(squeeze|expand\dx\d)",
            lambda stage, block, name: fire(
                stage, block, "squeeze1x1" if name == "squeeze" else name
            ),
        ),
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
    # Converted from Caffe by its author; its poolings drop a last partial window.
    Table(
        "keras-squeezenet",
        "squeezenet",
        _caffe,
        "conv10",
        KERAS,
        ignored=(),
        conventions={"pool_last": False},
        preprocessing=CAFFE,
        layouts={"head/logits": "conv"},
    ),
    Table(
        "caffe",
        "squeezenet",
        _caffe,
        "conv10",
        TORCH,
        preprocessing=CAFFE_ROUNDED,
        layouts={"head/logits": "conv"},
    ),
)

OUTPUTS = ((r"features\.2", lambda: "stem"),)

MODELS = {
    "squeezenet1_0": Published(
        ("torchvision", "caffe"),
        torchvision=TorchvisionFile("squeezenet1_0-b66bff10.pth", 58.09),
    ),
    "squeezenet1_1": Published(
        ("torchvision", "keras-squeezenet", "caffe"),
        torchvision=TorchvisionFile("squeezenet1_1-b8a52dc0.pth", 58.18),
    ),
}
"""What is published of each model; see `weights_convert.convert.published`."""
