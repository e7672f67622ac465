"""MobileNetV2 (Sandler et al., arXiv 1801.04381), and the chain that its successors share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from jtl.models.chain import Unit, unit
from jtl.models.layers.mobile import (
    DepthwiseSeparable,
    Final,
    FusedBlock,
    FusedInvertedResidual,
    InvertedResidual,
    Squeeze,
    Stem,
    round_channels,
)
from jtl.models.norm_spec import NormSpec
from jtl.onednn import Activation


class Block(NamedTuple):
    """One block.

    Attributes:
        expansion: Of the channels inside it, which are rounded to a multiple of 8; 1 for a block
            without one.
        kernel_size: Of the depthwise convolution.
        strides: Of the same.
        features: Channels of the output.
        activation: After every convolution but the last.
        squeeze: How it weighs its channels; None where it does not, as where it is fused.
        fused: Whether one full convolution stands for the expansion and the depthwise one.
    """

    expansion: float
    kernel_size: int
    strides: int
    features: int
    activation: Activation = "relu6"
    squeeze: Squeeze | None = None
    fused: bool = False


def mobile_units(
    stem: int,
    stages: Sequence[Sequence[Block]],
    final: int,
    *,
    norm: NormSpec,
    padding: str,
    activation: Activation = "relu6",
) -> tuple[Unit, ...]:
    """The chain of these networks: stem, the stages' blocks, and the last 1x1 convolution.

    Args:
        stem: Channels of the stem.
        stages: The blocks of each stage.
        final: Channels of the last 1x1 convolution.
        norm: Every batch normalization.
        padding: `SAME` as TensorFlow pads, `symmetric` as PyTorch does.
        activation: Of the stem and of the last convolution.
    """
    common = dict(norm=norm, padding=padding)
    units = [unit("stem", Stem, features=stem, activation=activation, **common)]
    inputs = stem
    for s, blocks in enumerate(stages, 1):
        for b, block in enumerate(blocks, 1):
            options: dict[str, Any] = dict(
                features=block.features,
                kernel_size=block.kernel_size,
                strides=block.strides,
                residual=block.strides == 1 and block.features == inputs,
                activation=block.activation,
                **common,
            )
            plain, expanding = FusedBlock, FusedInvertedResidual
            if not block.fused:
                plain, expanding = DepthwiseSeparable, InvertedResidual
                options["squeeze"] = block.squeeze
            if block.expansion != 1:
                options["expansion"] = block.expansion
            module = plain if block.expansion == 1 else expanding
            units.append(unit(f"stage{s}/block{b}", module, **options))
            inputs = block.features
    return (*units, unit("final", Final, features=final, norm=norm, activation=activation))


# The first block of each stage, by their table 2; the others do not stride.
_FIRST = (
    Block(1, 3, 1, 16),
    Block(6, 3, 2, 24),
    Block(6, 3, 2, 32),
    Block(6, 3, 2, 64),
    Block(6, 3, 1, 96),
    Block(6, 3, 2, 160),
    Block(6, 3, 1, 320),
)


@dataclasses.dataclass(frozen=True)
class MobileNetV2:
    """Configuration of a MobileNetV2.

    Attributes:
        width: Multiplier of the channels, rounded to multiples of 8; below 1, the final
            convolution keeps its own.
        depths: Number of blocks in each of the seven stages.
        norm: Batch normalization of the weights' source.
        padding: `SAME` as TensorFlow pads, `symmetric` as PyTorch does.
    """

    width: float = 1.0
    depths: tuple[int, ...] = (1, 2, 3, 4, 3, 3, 1)
    norm: NormSpec = NormSpec()
    padding: str = "symmetric"

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of seven stages, and the final 1x1 convolution."""
        stages = []
        for first, depth in zip(_FIRST, self.depths, strict=True):
            first = first._replace(features=round_channels(first.features * self.width))
            stages.append((first, *[first._replace(strides=1)] * (depth - 1))[:depth])
        stem, final = round_channels(32 * self.width), round_channels(1280 * max(self.width, 1.0))
        return mobile_units(stem, stages, final, norm=self.norm, padding=self.padding)
