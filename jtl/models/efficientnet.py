"""EfficientNet-Lite 0, 1 and 2: EfficientNet (Tan and Le, arXiv 1905.11946) for edge devices.

The Lite variants (the EfficientNet reference implementation's `lite` folder) drop
squeeze-and-excitation, use ReLU6 instead of swish, and do not scale the stem and the final
convolution with the width. Padding is TensorFlow's SAME.
"""

from __future__ import annotations

import dataclasses
import math

import flax.linen as nn
import jax

from jtl.models.chain import Unit, unit
from jtl.models.layers import BatchNorm, Conv, NormSpec, Padding, conv_norm

# Per stage: expansion, kernel, stride of the first block, channels, blocks (their table 1).
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
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
        fixed = (0, len(_STAGES) - 1)
        return tuple(
            blocks if s in fixed else math.ceil(self.depth * blocks)
            for s, (*_, blocks) in enumerate(_STAGES)
        )

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of seven stages, and the final 1x1 convolution to 1280 channels."""
        common = dict(norm=self.norm, padding=self.padding)
        chain = [unit("stem", Stem, **common)]
        for s, (expansion, kernel, stride, channels, _) in enumerate(_STAGES):
            for b in range(self.depths[s]):
                options = dict(
                    features=_round_channels(channels * self.width),
                    kernel_size=kernel,
                    strides=stride if b == 0 else 1,
                    residual=b > 0,
                    **common,
                )
                path = f"stage{s + 1}/block{b + 1}"
                if expansion == 1:
                    chain.append(unit(path, DepthwiseSeparable, **options))
                else:
                    chain.append(unit(path, InvertedResidual, expansion=expansion, **options))
        return (*chain, unit("final", Final, norm=self.norm))


def _round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor`, but never less than 90 % of `channels`."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def _padding(kind: str, kernel_size: int) -> Padding:
    return "SAME" if kind == "SAME" else kernel_size // 2


class Stem(nn.Module):
    """3x3 convolution with stride 2 to 32 channels: [N, H, W, 3] -> H/2."""

    norm: NormSpec
    padding: str

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv = Conv(32, 3, 2, _padding(self.padding, 3), name="conv")
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
    """1x1 expansion, depthwise convolution, linear 1x1 (MobileNetV2, arXiv 1801.04381)."""

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
    """1x1 convolution to 1280 channels."""

    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv, norm = Conv(1280, 1, 1, 0, name="conv"), BatchNorm(self.norm, name="bn")
        return conv_norm(x, conv, norm, train=train, activation="relu6")
