"""EfficientNet-Lite 0, 1 and 2: EfficientNet (Tan and Le, arXiv 1905.11946) for edge devices.

The Lite variants (the EfficientNet reference implementation's `lite` folder) drop
squeeze-and-excitation, use ReLU6 instead of swish, and do not scale the stem and the final
convolution with the width: what is left are MobileNetV2's blocks. Padding is TensorFlow's SAME.
"""

from __future__ import annotations

import dataclasses
import math

from jtl.models.chain import Unit
from jtl.models.families.mobilenet import Stage, inverted_residuals, round_channels
from jtl.models.layers.blocks import NormSpec

# Their table 1.
_STAGES = (
    Stage(1, 3, 1, 16),
    Stage(6, 3, 2, 24),
    Stage(6, 5, 2, 40),
    Stage(6, 3, 2, 80),
    Stage(6, 5, 1, 112),
    Stage(6, 5, 2, 192),
    Stage(6, 3, 1, 320),
)
_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
_STEM, _FINAL = 32, 1280


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
        stages = [
            stage._replace(features=round_channels(stage.features * self.width))
            for stage in _STAGES
        ]
        return inverted_residuals(
            _STEM, stages, self.depths, _FINAL, norm=self.norm, padding=self.padding
        )
