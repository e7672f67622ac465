"""EfficientNetV2 (Tan and Le, arXiv 2104.00298): B0 to B3 and S.

Its first three stages have full convolutions in place of the expansion and the depthwise one, and
no squeeze-and-excitation.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal

from jtl.models.chain import Unit
from jtl.models.families.mobilenet import Block, mobile_units
from jtl.models.layers.mobile import Squeeze, round_channels
from jtl.models.norm_spec import NormSpec

# The first block of each stage and the number of blocks: table 4 of the paper for S, and the
# reference implementation's `v2_base_block` for B0.
_BASE = (
    (Block(1, 3, 1, 16, fused=True), 1),
    (Block(4, 3, 2, 32, fused=True), 2),
    (Block(4, 3, 2, 48, fused=True), 2),
    (Block(4, 3, 2, 96), 3),
    (Block(6, 3, 1, 112), 5),
    (Block(6, 3, 2, 192), 8),
)
_SMALL = (
    (Block(1, 3, 1, 24, fused=True), 2),
    (Block(4, 3, 2, 48, fused=True), 4),
    (Block(4, 3, 2, 64, fused=True), 4),
    (Block(4, 3, 2, 128), 6),
    (Block(6, 3, 1, 160), 9),
    (Block(6, 3, 2, 256), 15),
)
_SIZES = {"base": (_BASE, 32), "s": (_SMALL, 24)}
_FINAL = 1280


@dataclasses.dataclass(frozen=True)
class EfficientNetV2:
    """Configuration of an EfficientNetV2.

    Attributes:
        size: `base`, which B0 to B3 scale, or `s`.
        width: Multiplier of the channels, rounded to the nearest multiples of 8.
        depth: Multiplier of the blocks per stage, rounded up.
        stages: So many of the six stages, for a part of the network.
        norm: Batch normalization of the weights' source (TensorFlow's epsilon, 1e-3).
        padding: `SAME` for weights trained in TensorFlow; `symmetric` pads both sides alike.
    """

    size: Literal["base", "s"] = "base"
    width: float = 1.0
    depth: float = 1.0
    stages: int = 6
    norm: NormSpec = NormSpec(epsilon=1e-3)
    padding: str = "SAME"

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of six stages, and the final 1x1 convolution."""
        table, stem = _SIZES[self.size]
        scaled = functools.partial(round_channels, least=0.0)
        inputs = stem = scaled(stem * self.width)
        stages: list[list[Block]] = []
        for first, count in table[: self.stages]:
            features = scaled(first.features * self.width)
            stages.append([])
            for index in range(math.ceil(count * self.depth)):
                block = first._replace(
                    features=features,
                    strides=1 if index else first.strides,
                    activation="silu",
                    # A quarter of the channels before the expansion.
                    squeeze=None if first.fused else Squeeze(inputs // 4, "silu", "sigmoid"),
                )
                stages[-1].append(block)
                inputs = features
        return mobile_units(
            *(stem, stages, scaled(_FINAL * self.width)),
            norm=self.norm,
            padding=self.padding,
            activation="silu",
        )
