"""VGG (Simonyan and Zisserman, arXiv 1409.1556) in the form of torchvision, timm and Keras.

All agree at the size that the dense layers were made for, 224 to 255 pixels. Elsewhere torchvision
averages the last feature map to 7 x 7 pixels and timm moves the dense layers over a larger one;
Keras has no dense layers there. Dropout is torchvision's.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from jtl.models.chain import Unit, unit
from jtl.models.layers.blocks import NormSpec
from jtl.models.layers.sequential import ConvRelu, DenseRelu, InputFit, MaxPool


@dataclasses.dataclass(frozen=True)
class VGG:
    """Configuration of a VGG.

    Attributes:
        depths: Number of 3x3 convolutions per stage.
        batch_norm: Whether a batch normalization follows each convolution.
        widths: Of the dense layers before the logits.
        dense: Whether there are dense layers; without, the backbone ends with the last stage.
        fit: How they take images of another size than 224 pixels.
        dropout: Rate after each of them.
        norm: Batch normalization of the weights' source.
    """

    depths: tuple[int, ...]
    batch_norm: bool = False
    widths: tuple[int, ...] = (4096, 4096)
    dense: bool = True
    fit: InputFit = "adaptive"
    dropout: float = 0.5
    norm: NormSpec = NormSpec()

    min_size: ClassVar[int] = 32

    def units(self) -> tuple[Unit, ...]:
        """Five stages of 64 to 512 channels, each with a 2x2 max pooling, and dense layers."""
        norm = self.norm if self.batch_norm else None
        chain = []
        for s, depth in enumerate(self.depths, 1):
            for b in range(1, depth + 1):
                options = dict(features=min(64 * 2 ** (s - 1), 512), kernel_size=3, padding=1)
                chain.append(unit(f"stage{s}/block{b}", ConvRelu, **options, norm=norm))
            chain.append(unit(f"stage{s}/pool", MaxPool, window=2, strides=2))
        return (*chain, *(self._dense_layers() if self.dense else ()))

    def _dense_layers(self) -> list[Unit]:
        common = dict(fit=self.fit, dropout=self.dropout, dropout_first=False)
        return [
            unit(f"fc{i}", DenseRelu, features=width, window=7 if i == 1 else 1, **common)
            for i, width in enumerate(self.widths, 1)
        ]
