"""MobileNetV2 (Sandler et al., arXiv 1801.04381), and the blocks that EfficientNet-Lite shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax

from jtl.models.chain import Unit, unit
from jtl.models.layers.blocks import BatchNorm, Conv, NormSpec, conv_norm
from jtl.models.layers.conv import Padding


class Stage(NamedTuple):
    """Blocks between two resolutions; only the first strides, and only it has no shortcut.

    Attributes:
        expansion: Of the channels inside a block; 1 for a block without one.
        kernel_size: Of the depthwise convolutions.
        strides: Of the first block.
        features: Channels of the output.
    """

    expansion: int
    kernel_size: int
    strides: int
    features: int


# Their table 2.
_STAGES = (
    Stage(1, 3, 1, 16),
    Stage(6, 3, 2, 24),
    Stage(6, 3, 2, 32),
    Stage(6, 3, 2, 64),
    Stage(6, 3, 1, 96),
    Stage(6, 3, 2, 160),
    Stage(6, 3, 1, 320),
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
        stem, *features = (
            round_channels(channels * self.width)
            for channels in (32, *(s.features for s in _STAGES))
        )
        stages = [s._replace(features=n) for s, n in zip(_STAGES, features, strict=True)]
        final = round_channels(1280 * max(self.width, 1.0))
        return inverted_residuals(
            stem, stages, self.depths, final, norm=self.norm, padding=self.padding
        )


def inverted_residuals(
    stem: int,
    stages: Sequence[Stage],
    depths: Sequence[int],
    final: int,
    *,
    norm: NormSpec,
    padding: str,
) -> tuple[Unit, ...]:
    """The chain of both families.

    Args:
        stem: Channels of the stem.
        stages: The stages' blocks.
        depths: How many blocks each stage has.
        final: Channels of the last 1x1 convolution.
        norm: Every batch normalization.
        padding: `SAME` as TensorFlow pads, `symmetric` as PyTorch does.
    """
    common = dict(norm=norm, padding=padding)
    units = [unit("stem", Stem, features=stem, **common)]
    for s, (stage, depth) in enumerate(zip(stages, depths, strict=True), 1):
        for b in range(1, depth + 1):
            options = dict(
                features=stage.features,
                kernel_size=stage.kernel_size,
                strides=stage.strides if b == 1 else 1,
                residual=b > 1,
                **common,
            )
            path = f"stage{s}/block{b}"
            if stage.expansion == 1:
                units.append(unit(path, DepthwiseSeparable, **options))
            else:
                units.append(unit(path, InvertedResidual, expansion=stage.expansion, **options))
    return (*units, unit("final", Final, features=final, norm=norm))


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, but never less than 90 % of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _padding(kind: str, kernel_size: int) -> Padding:
    return "SAME" if kind == "SAME" else kernel_size // 2


class Stem(nn.Module):
    """3x3 convolution with stride 2: [N, H, W, 3] -> [N, H/2, W/2, features]."""

    features: int
    norm: NormSpec
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(self.features, 3, 2, _padding(self.padding, 3), name="conv")
        norm = BatchNorm(self.norm, name="bn")
        return conv_norm(x, conv, norm, train=train, activation="relu6")


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution and a linear 1x1: the block without expansion."""

    features: int
    kernel_size: int
    strides: int
    residual: bool
    norm: NormSpec
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pads = _padding(self.padding, self.kernel_size)
        channels, size, strides = x.shape[-1], self.kernel_size, self.strides
        conv_dw = Conv(channels, size, strides, pads, groups=channels, name="conv_dw")
        conv_pw = Conv(self.features, 1, 1, 0, name="conv_pw")
        bn1, bn2 = (BatchNorm(self.norm, name=f"bn{i}") for i in (1, 2))
        y = conv_norm(x, conv_dw, bn1, train=train, activation="relu6")
        return conv_norm(y, conv_pw, bn2, train=train, residual=x if self.residual else None)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1."""

    features: int
    kernel_size: int
    strides: int
    expansion: int
    residual: bool
    norm: NormSpec
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        pads = _padding(self.padding, self.kernel_size)
        channels, size, strides = self.expansion * x.shape[-1], self.kernel_size, self.strides
        conv_pw = Conv(channels, 1, 1, 0, name="conv_pw")
        conv_dw = Conv(channels, size, strides, pads, groups=channels, name="conv_dw")
        conv_pwl = Conv(self.features, 1, 1, 0, name="conv_pwl")
        bn1, bn2, bn3 = (BatchNorm(self.norm, name=f"bn{i}") for i in (1, 2, 3))
        y = conv_norm(x, conv_pw, bn1, train=train, activation="relu6")
        y = conv_norm(y, conv_dw, bn2, train=train, activation="relu6")
        return conv_norm(y, conv_pwl, bn3, train=train, residual=x if self.residual else None)


class Final(nn.Module):
    """The last 1x1 convolution."""

    features: int
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm = Conv(self.features, 1, 1, 0, name="conv"), BatchNorm(self.norm, name="bn")
        return conv_norm(x, conv, norm, train=train, activation="relu6")
