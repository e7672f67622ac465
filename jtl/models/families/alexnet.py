"""AlexNet in torchvision's form: that of "One weird trick" (Krizhevsky, arXiv 1404.5997)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jtl.models.chain import Unit, unit
from jtl.models.layers.sequential import ConvRelu, DenseRelu, MaxPool

# Per stage: kernel, stride and padding of the convolutions, and their channels.
_STAGES = ((11, 4, 2, (64,)), (5, 1, 2, (192,)), (3, 1, 1, (384, 256, 256)))


@dataclasses.dataclass(frozen=True)
class AlexNet:
    """Configuration of an AlexNet.

    Attributes:
        widths: Of the dense layers before the logits; they see 6 x 6 pixels, to which feature
            maps of other sizes are averaged.
        dropout: Rate before each of them.
    """

    widths: tuple[int, ...] = (4096, 4096)
    dropout: float = 0.5

    min_size: ClassVar[int] = 63

    def units(self) -> tuple[Unit, ...]:
        """Three stages, each with a 3x3 max pooling, and dense layers."""
        chain = []
        for s, (kernel, strides, padding, channels) in enumerate(_STAGES, 1):
            window = dict(kernel_size=kernel, strides=strides, padding=padding)
            for b, features in enumerate(channels, 1):
                chain.append(unit(f"stage{s}/block{b}", ConvRelu, features=features, **window))
            chain.append(unit(f"stage{s}/pool", MaxPool, window=3, strides=2))
        for i, width in enumerate(self.widths, 1):
            options = dict(features=width, window=6 if i == 1 else 1, dropout=self.dropout)
            chain.append(unit(f"fc{i}", DenseRelu, fit="adaptive", dropout_first=True, **options))
        return tuple(chain)
