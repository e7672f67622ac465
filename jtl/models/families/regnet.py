"""RegNetY (Radosavovic et al., arXiv 2003.13678): bottlenecks in groups that weigh channels."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax

from jtl.models.chain import Unit, unit
from jtl.models.families.resnet import Shortcut
from jtl.models.layers.blocks import BatchNorm, Conv, NormSpec, conv_norm
from jtl.models.layers.mobile import Squeeze, SqueezeExcite, Stem

_STEM = 32


@dataclasses.dataclass(frozen=True)
class RegNetY:
    """Configuration of a RegNetY.

    Attributes:
        stages: The number of blocks and the channels of each; bottlenecks are as wide inside.
        group_width: Channels of a group of the 3x3 convolutions.
        norm: Batch normalization of the weights' source.
    """

    stages: tuple[tuple[int, int], ...]
    group_width: int
    norm: NormSpec = NormSpec()

    def units(self) -> tuple[Unit, ...]:
        """Stem, then the blocks of the stages, each of which begins with a stride of 2."""
        options = dict(features=_STEM, activation="relu", padding="symmetric")
        chain = [unit("stem", Stem, norm=self.norm, **options)]
        inputs = _STEM
        for s, (depth, width) in enumerate(self.stages, 1):
            for b in range(1, depth + 1):
                block = unit(
                    f"stage{s}/block{b}",
                    GroupedBottleneck,
                    width=width,
                    strides=2 if b == 1 else 1,
                    groups=width // self.group_width,
                    # A quarter of the channels that come in.
                    squeeze=Squeeze(round(inputs / 4), "relu", "sigmoid"),
                    norm=self.norm,
                )
                chain.append(block)
                inputs = width
        return tuple(chain)


class GroupedBottleneck(nn.Module):
    """1x1, 3x3 in groups, squeeze-and-excitation, 1x1 beside a shortcut, all `width` wide."""

    width: int
    strides: int
    groups: int
    squeeze: Squeeze
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        conv1 = Conv(self.width, 1, 1, 0, name="conv1")
        conv2 = Conv(self.width, 3, self.strides, 1, self.groups, name="conv2")
        conv3 = Conv(self.width, 1, 1, 0, name="conv3")
        bn1, bn2, bn3 = (BatchNorm(self.norm, name=f"bn{i}") for i in (1, 2, 3))
        shortcut = x
        if self.strides > 1 or x.shape[-1] != self.width:
            down = Shortcut(self.width, self.strides, self.norm, False, name="down")
            shortcut = down(x, train=train)
        y = conv_norm(x, conv1, bn1, train=train, activation="relu")
        y = conv_norm(y, conv2, bn2, train=train, activation="relu")
        y = SqueezeExcite(self.squeeze, name="se")(y, train=train)
        return conv_norm(y, conv3, bn3, train=train, activation="relu", residual=shortcut)
