"""EfficientNet (Tan and Le, arXiv 1905.11946), and its Lite variants for edge devices.

The Lite variants (the EfficientNet reference implementation's `lite` folder) drop
squeeze-and-excitation, use ReLU6 instead of swish, and do not scale the stem and the final
convolution with the width: what is left are MobileNetV2's blocks. Padding is TensorFlow's SAME.
"""

from __future__ import annotations

import dataclasses
import math

from jtl.models.chain import Unit
from jtl.models.families.mobilenet import Block, mobile_units
from jtl.models.layers.mobile import Squeeze, round_channels
from jtl.models.norm_spec import NormSpec

# The first block of each stage, by their table 1; the others do not stride.
_FIRST = (
    Block(1, 3, 1, 16),
    Block(6, 3, 2, 24),
    Block(6, 5, 2, 40),
    Block(6, 3, 2, 80),
    Block(6, 5, 1, 112),
    Block(6, 5, 2, 192),
    Block(6, 3, 1, 320),
)
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_STEM, _FINAL = 32, 1280


def _stages(width: float, depths: tuple[int, ...]) -> list[tuple[Block, ...]]:
    """The blocks of each stage, channels multiplied by `width`."""
    stages = []
    for first, depth in zip(_FIRST, depths, strict=True):
        first = first._replace(features=round_channels(first.features * width))
        stages.append((first, *[first._replace(strides=1)] * (depth - 1))[:depth])
    return stages


@dataclasses.dataclass(frozen=True)
class EfficientNet:
    """Configuration of an EfficientNet.

    Attributes:
        width: Multiplier of the channels, rounded to multiples of 8.
        depths: Number of blocks in each of the seven stages; those of B0 by default.
        norm: Batch normalization of the weights' source.
        padding: `SAME` for weights trained in TensorFlow; `symmetric` pads both sides alike.
    """

    width: float = 1.0
    depths: tuple[int, ...] = _DEPTHS
    norm: NormSpec = NormSpec()
    padding: str = "symmetric"

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of seven stages, and the final 1x1 convolution."""
        inputs = stem = round_channels(_STEM * self.width)
        stages: list[list[Block]] = []
        for blocks in _stages(self.width, self.depths):
            stages.append([])
            for block in blocks:
                # A quarter of the channels before the expansion.
                squeeze = Squeeze(inputs // 4, "silu", "sigmoid")
                stages[-1].append(block._replace(activation="silu", squeeze=squeeze))
                inputs = block.features
        final = round_channels(_FINAL * self.width)
        return mobile_units(
            stem, stages, final, norm=self.norm, padding=self.padding, activation="silu"
        )


@dataclasses.dataclass(frozen=True)
class EfficientNetLite:
    """Configuration of an EfficientNet-Lite.

    Attributes:
        width: Multiplier of the channels, rounded to multiples of 8.
        depth: Multiplier of the blocks per stage, rounded up; the first and last stage keep
            their single block.
        norm: Batch normalization of the weights' source (TensorFlow's epsilon, 1e-3).
        padding: `SAME` for weights trained in TensorFlow; `symmetric` pads both sides alike.
    """

    width: float = 1.0
    depth: float = 1.0
    norm: NormSpec = NormSpec(epsilon=1e-3, momentum=0.99)
    padding: str = "SAME"

    @property
    def depths(self) -> tuple[int, ...]:
        """Number of blocks in each of the seven stages."""
        first, *inner, last = _DEPTHS
        return (first, *(math.ceil(self.depth * blocks) for blocks in inner), last)

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of seven stages, and the final 1x1 convolution to 1280 channels."""
        stages = _stages(self.width, self.depths)
        return mobile_units(_STEM, stages, _FINAL, norm=self.norm, padding=self.padding)
