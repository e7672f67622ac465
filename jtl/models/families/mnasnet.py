"""MnasNet (Tan et al., arXiv 1807.11626): B1, A1 with squeeze-and-excitation, and Small."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jtl.models.chain import Unit
from jtl.models.families.mobilenet import Block, mobile_units
from jtl.models.layers.mobile import Squeeze, round_channels
from jtl.models.norm_spec import NormSpec

# The first block of each stage, the number of blocks, and whether they squeeze: figure 7 of the
# paper for A1, and the reference implementation's `mnasnet_models.py` for the others.
_B1 = (
    (Block(1, 3, 1, 16), 1, False),
    (Block(3, 3, 2, 24), 3, False),
    (Block(3, 5, 2, 40), 3, False),
    (Block(6, 5, 2, 80), 3, False),
    (Block(6, 3, 1, 96), 2, False),
    (Block(6, 5, 2, 192), 4, False),
    (Block(6, 3, 1, 320), 1, False),
)
_A1 = (
    (Block(1, 3, 1, 16), 1, False),
    (Block(6, 3, 2, 24), 2, False),
    (Block(3, 5, 2, 40), 3, True),
    (Block(6, 3, 2, 80), 4, False),
    (Block(6, 3, 1, 112), 2, True),
    (Block(6, 5, 2, 160), 3, True),
    (Block(6, 3, 1, 320), 1, False),
)
_SMALL = (
    (Block(1, 3, 1, 8), 1, False),
    (Block(3, 3, 2, 16), 1, False),
    (Block(6, 3, 2, 16), 2, False),
    (Block(6, 5, 2, 32), 4, True),
    (Block(6, 3, 1, 32), 3, True),
    (Block(6, 5, 2, 88), 3, True),
    (Block(6, 3, 1, 144), 1, False),
)
_VARIANTS = {"b1": (_B1, 32), "a1": (_A1, 32), "small": (_SMALL, 8)}
_FINAL = 1280


@dataclasses.dataclass(frozen=True)
class MnasNet:
    """Configuration of an MnasNet.

    Attributes:
        variant: `b1`, `a1` or `small`.
        width: Multiplier of the channels but the last, rounded to multiples of 8.
        stages: So many of the seven stages, for a part of the network.
        norm: Batch normalization of the weights' source.
        padding: `SAME` as TensorFlow pads, `symmetric` as PyTorch does.
    """

    variant: Literal["b1", "a1", "small"] = "b1"
    width: float = 1.0
    stages: int = 7
    norm: NormSpec = NormSpec()
    padding: str = "symmetric"

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of seven stages, and the final 1x1 convolution."""
        table, stem = _VARIANTS[self.variant]
        inputs = stem = round_channels(stem * self.width)
        stages: list[list[Block]] = []
        for first, count, squeezes in table[: self.stages]:
            features = round_channels(first.features * self.width)
            stages.append([])
            for index in range(count):
                # A quarter of the channels before the expansion.
                squeeze = Squeeze(inputs // 4, "relu", "sigmoid") if squeezes else None
                block = first._replace(
                    features=features,
                    strides=1 if index else first.strides,
                    activation="relu",
                    squeeze=squeeze,
                )
                stages[-1].append(block)
                inputs = features
        return mobile_units(
            *(stem, stages, _FINAL), norm=self.norm, padding=self.padding, activation="relu"
        )
