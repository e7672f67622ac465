"""PP-HGNetV2 of PaddleClas: full convolutions and what all of them gave, for fast hardware.

A block applies its layers one after the other, and joins its input and the outputs of all of them
(`docs/en/models/ImageNet1k/PP-HGNetV2_en.md` there). The smaller ones have a learned factor and
offset after each ReLU. A dense layer stands after the pooling: it is the backbone's last unit,
whose feature map has one pixel.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.chain import Unit, unit
from jtl.models.layers.blocks import BatchNorm, Conv, NormSpec, conv_norm, param
from jtl.models.layers.pool import max_pool

_DENSE = 2048


@dataclasses.dataclass(frozen=True)
class HGNetV2:
    """Configuration of a HGNetV2.

    Attributes:
        stem: Channels inside and after the stem.
        stages: Channels inside the blocks of each, those of their output, and their number. From
            the third stage on layers are light, with 5x5 kernels.
        layers: In each block.
        affine: Whether a learned factor and offset follow each ReLU.
        width: Of the dense layer after the pooling.
        norm: Batch normalization of the weights' source.
    """

    stem: tuple[int, int]
    stages: tuple[tuple[int, int, int], ...]
    layers: int
    affine: bool
    width: int = _DENSE
    norm: NormSpec = NormSpec()

    def units(self) -> tuple[Unit, ...]:
        """Stem, the blocks of the stages, and the dense layer."""
        common = dict(affine=self.affine, norm=self.norm)
        inside, features = self.stem
        chain = [unit("stem", Stem, inside=inside, features=features, **common)]
        for s, (width, outputs, blocks) in enumerate(self.stages, 1):
            if s > 1:
                chain.append(unit(f"stage{s}/downsample", Downsample, norm=self.norm))
            for b in range(1, blocks + 1):
                block = unit(
                    f"stage{s}/block{b}",
                    AggregatingBlock,
                    inside=width,
                    features=outputs,
                    layers=self.layers,
                    light=s > 2,
                    residual=b > 1,
                    **common,
                )
                chain.append(block)
        return (*chain, unit("fc", PooledLayer, features=self.width, affine=self.affine))


class Affine(nn.Module):
    """One learned factor and one offset for all channels."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        factor = param(self, "factor", nn.initializers.ones_init(), (1,))
        bias = param(self, "bias", nn.initializers.zeros_init(), (1,))
        return x * factor[0].astype(x.dtype) + bias[0].astype(x.dtype)


class Layer(nn.Module):
    """Convolution, normalization, ReLU, and where there is one the factor and offset."""

    features: int
    kernel_size: int
    affine: bool
    norm: NormSpec
    strides: int = 1
    groups: int = 1
    activates: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        size = self.kernel_size
        # An even kernel pads below and right: TensorFlow's SAME, for a stride of 1.
        pads = "SAME" if size % 2 == 0 else size // 2
        conv = Conv(self.features, size, self.strides, pads, self.groups, name="conv")
        norm = BatchNorm(self.norm, name="bn")
        activation = "relu" if self.activates else None
        x = conv_norm(x, conv, norm, train=train, activation=activation)
        return Affine(name="affine")(x) if self.affine and self.activates else x


class Stem(nn.Module):
    """Five convolutions, two of them beside a pooling: [N, H, W, 3] -> [N, H/4, W/4, features]."""

    inside: int
    features: int
    affine: bool
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        common = (self.affine, self.norm)
        x = Layer(self.inside, 3, *common, strides=2, name="layer1")(x, train=train)
        y = Layer(self.inside // 2, 2, *common, name="layer2a")(x, train=train)
        y = Layer(self.inside, 2, *common, name="layer2b")(y, train=train)
        # Zeros below and right, as the convolutions beside it: ReLU's outputs are not below, but
        # for what a negative factor or offset makes of them.
        padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        x = jnp.concatenate([max_pool(padded, 2, 1, padding=0), y], -1)
        x = Layer(self.inside, 3, *common, strides=2, name="layer3")(x, train=train)
        return Layer(self.features, 1, *common, name="layer4")(x, train=train)


class Downsample(nn.Module):
    """Depthwise 3x3 convolution with stride 2."""

    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        channels = x.shape[-1]
        conv = Conv(channels, 3, 2, 1, groups=channels, name="conv")
        return conv_norm(x, conv, BatchNorm(self.norm, name="bn"), train=train)


class LightLayer(nn.Module):
    """Linear 1x1, then depthwise: a `Layer` with fewer operations."""

    features: int
    kernel_size: int
    affine: bool
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        common = (self.affine, self.norm)
        features, size = self.features, self.kernel_size
        x = Layer(features, 1, *common, activates=False, name="conv_pw")(x, train=train)
        return Layer(features, size, *common, groups=features, name="conv_dw")(x, train=train)


class AggregatingBlock(nn.Module):
    """Layers in a row, whose outputs two 1x1 convolutions join with the input."""

    inside: int
    features: int
    layers: int
    light: bool
    residual: bool
    affine: bool
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        common = (self.affine, self.norm)
        kind, size = (LightLayer, 5) if self.light else (Layer, 3)
        outputs = [x]
        for i in range(1, self.layers + 1):
            layer = kind(self.inside, size, *common, name=f"layer{i}")
            outputs.append(layer(outputs[-1], train=train))
        y = jnp.concatenate(outputs, -1)
        y = Layer(self.features // 2, 1, *common, name="squeeze")(y, train=train)
        y = Layer(self.features, 1, *common, name="excite")(y, train=train)
        return x + y if self.residual else y


class PooledLayer(nn.Module):
    """The average over the pixels, a dense layer without bias, ReLU: -> [N, 1, 1, features]."""

    features: int
    affine: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = jnp.mean(x, (1, 2), dtype=jnp.float32, keepdims=True).astype(x.dtype)
        conv = Conv(self.features, 1, 1, 0, name="conv")
        x = conv_norm(x, conv, None, train=train, activation="relu")
        return Affine(name="affine")(x) if self.affine else x
