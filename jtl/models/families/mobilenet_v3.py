"""MobileNetV3 (Howard et al., arXiv 1905.02244), large and small.

Its dense layer stands after the pooling: it is the backbone's last unit, whose feature map has one
pixel. Without it, as Keras has networks without a top, the backbone ends with the map before.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from jtl.models.chain import Unit, unit
from jtl.models.families.mobilenet import Block, mobile_units
from jtl.models.layers.mobile import PooledDense, Squeeze, round_channels
from jtl.models.norm_spec import NormSpec
from jtl.onednn import Activation


class _Row(NamedTuple):
    """A row of their tables 1 and 2: channels inside, kernel, output, squeeze, stride."""

    inside: int
    kernel_size: int
    features: int
    squeezes: bool
    activation: Activation
    strides: int


_RELU, _SWISH = "relu", "hard_swish"
# Stages end where the resolution or the number of channels changes, as in timm.
_LARGE = (
    (_Row(16, 3, 16, False, _RELU, 1),),
    (_Row(64, 3, 24, False, _RELU, 2), _Row(72, 3, 24, False, _RELU, 1)),
    (_Row(72, 5, 40, True, _RELU, 2), *[_Row(120, 5, 40, True, _RELU, 1)] * 2),
    (
        *(_Row(240, 3, 80, False, _SWISH, 2), _Row(200, 3, 80, False, _SWISH, 1)),
        *[_Row(184, 3, 80, False, _SWISH, 1)] * 2,
    ),
    (_Row(480, 3, 112, True, _SWISH, 1), _Row(672, 3, 112, True, _SWISH, 1)),
    (_Row(672, 5, 160, True, _SWISH, 2), *[_Row(960, 5, 160, True, _SWISH, 1)] * 2),
)
_SMALL = (
    (_Row(16, 3, 16, True, _RELU, 2),),
    (_Row(72, 3, 24, False, _RELU, 2), _Row(88, 3, 24, False, _RELU, 1)),
    (_Row(96, 5, 40, True, _SWISH, 2), *[_Row(240, 5, 40, True, _SWISH, 1)] * 2),
    (_Row(120, 5, 48, True, _SWISH, 1), _Row(144, 5, 48, True, _SWISH, 1)),
    (_Row(288, 5, 96, True, _SWISH, 2), *[_Row(576, 5, 96, True, _SWISH, 1)] * 2),
)
_SIZES = {"large": (_LARGE, 960, 1280), "small": (_SMALL, 576, 1024)}
_STEM = 16


@dataclasses.dataclass(frozen=True)
class MobileNetV3:
    """Configuration of a MobileNetV3.

    Attributes:
        size: `large` or `small`.
        depths: Number of blocks in each stage, of those in their tables; None for all.
        dense: Whether there is the dense layer after the pooling.
        norm: Batch normalization of the weights' source.
        padding: `SAME` as TensorFlow pads, `symmetric` as PyTorch does.
    """

    size: str = "large"
    depths: tuple[int, ...] | None = None
    dense: bool = True
    norm: NormSpec = NormSpec()
    padding: str = "symmetric"

    def stages(self) -> tuple[tuple[_Row, ...], ...]:
        """The rows of each stage."""
        rows, _, _ = _SIZES[self.size]
        depths = self.depths or tuple(map(len, rows))
        return tuple(stage[:depth] for stage, depth in zip(rows, depths, strict=True))

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of six or five stages, the last 1x1 convolution and the dense layer."""
        _, final, width = _SIZES[self.size]
        inputs, stages = _STEM, []
        for rows in self.stages():
            stages.append([])
            for row in rows:
                squeeze = Squeeze(round_channels(row.inside / 4), "relu", "hard_sigmoid")
                block = Block(
                    # What comes in may have another number of channels where stages are left out.
                    expansion=row.inside / inputs,
                    kernel_size=row.kernel_size,
                    strides=row.strides,
                    features=row.features,
                    activation=row.activation,
                    squeeze=squeeze if row.squeezes else None,
                )
                stages[-1].append(block)
                inputs = row.features
        chain = mobile_units(
            _STEM, stages, final, norm=self.norm, padding=self.padding, activation=_SWISH
        )
        dense = unit("fc", PooledDense, features=width, activation=_SWISH)
        return (*chain, dense) if self.dense else chain
