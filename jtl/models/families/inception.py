"""InceptionV3 (Szegedy et al., arXiv 1512.00567) in the form of torchvision, timm and Keras.

Keras's averages of neighbourhoods leave the padding out, and its normalizations have no learned
factor; both belong to the source of the weights, as its epsilon does.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.chain import Unit, unit
from jtl.models.heads import pooled
from jtl.models.layers.blocks import BatchNorm, Conv, NormSpec, conv_norm
from jtl.models.layers.pool import avg_pool, max_pool, neighbourhood_avg


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution with its normalization and ReLU.

    Attributes:
        name: As torchvision calls it.
        features: Output channels.
        kernel: (height, width).
        strides: 1, with padding that keeps the size, or 2, without padding.
    """

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    strides: int = 1


Step = Layer | str | tuple[Layer, ...]
"""A layer, `avg` or `max` pooling of 3 x 3 pixels, or layers side by side at a branch's end."""
Branch = tuple[Step, ...]

_3X3, _5X5, _1X7, _7X1, _1X3, _3X1 = (3, 3), (5, 5), (1, 7), (7, 1), (1, 3), (3, 1)


def _a(pool_features: int) -> tuple[Branch, ...]:
    return (
        (Layer("branch1x1", 64),),
        (Layer("branch5x5_1", 48), Layer("branch5x5_2", 64, _5X5)),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, _3X3),
            Layer("branch3x3dbl_3", 96, _3X3),
        ),
        ("avg", Layer("branch_pool", pool_features)),
    )


def _b() -> tuple[Branch, ...]:
    return (
        (Layer("branch3x3", 384, _3X3, 2),),
        (
            Layer("branch3x3dbl_1", 64),
            Layer("branch3x3dbl_2", 96, _3X3),
            Layer("branch3x3dbl_3", 96, _3X3, 2),
        ),
        ("max",),
    )


def _c(width: int) -> tuple[Branch, ...]:
    return (
        (Layer("branch1x1", 192),),
        (
            Layer("branch7x7_1", width),
            Layer("branch7x7_2", width, _1X7),
            Layer("branch7x7_3", 192, _7X1),
        ),
        (
            Layer("branch7x7dbl_1", width),
            Layer("branch7x7dbl_2", width, _7X1),
            Layer("branch7x7dbl_3", width, _1X7),
            Layer("branch7x7dbl_4", width, _7X1),
            Layer("branch7x7dbl_5", 192, _1X7),
        ),
        ("avg", Layer("branch_pool", 192)),
    )


def _d() -> tuple[Branch, ...]:
    return (
        (Layer("branch3x3_1", 192), Layer("branch3x3_2", 320, _3X3, 2)),
        (
            Layer("branch7x7x3_1", 192),
            Layer("branch7x7x3_2", 192, _1X7),
            Layer("branch7x7x3_3", 192, _7X1),
            Layer("branch7x7x3_4", 192, _3X3, 2),
        ),
        ("max",),
    )


def _e() -> tuple[Branch, ...]:
    return (
        (Layer("branch1x1", 320),),
        (
            Layer("branch3x3_1", 384),
            (Layer("branch3x3_2a", 384, _1X3), Layer("branch3x3_2b", 384, _3X1)),
        ),
        (
            Layer("branch3x3dbl_1", 448),
            Layer("branch3x3dbl_2", 384, _3X3),
            (Layer("branch3x3dbl_3a", 384, _1X3), Layer("branch3x3dbl_3b", 384, _3X1)),
        ),
        ("avg", Layer("branch_pool", 192)),
    )


STAGES: tuple[tuple[tuple[Branch, ...], ...], ...] = (
    (_a(32), _a(64), _a(64)),
    (_b(), _c(128), _c(160), _c(160), _c(192)),
    (_d(), _e(), _e()),
)
"""The branches of every block, by stage: at 299 pixels 35 x 35, 17 x 17 and 8 x 8 large."""


@dataclasses.dataclass(frozen=True)
class InceptionV3:
    """Configuration of an InceptionV3.

    Attributes:
        norm: Batch normalization of the weights' source.
        pool_counts_padding: Whether averages of neighbourhoods count the padding's zeros.
        depths: Blocks of each stage, from its first on.
        aux_classes: Classes of the auxiliary head after the second stage, which torchvision's
            training has; 0 for none. It changes nothing of what the model gives.
    """

    norm: NormSpec = NormSpec(epsilon=1e-3)
    pool_counts_padding: bool = True
    depths: tuple[int, ...] = (3, 5, 3)
    aux_classes: int = 0

    @property
    def min_size(self) -> int:
        """The auxiliary head needs 17 x 17 pixels after the second stage."""
        return 299 if self.aux_classes else 75

    def units(self) -> tuple[Unit, ...]:
        """Stem and the blocks of three stages."""
        chain = [unit("stem", Stem, norm=self.norm)]
        options = dict(norm=self.norm, pool_counts_padding=self.pool_counts_padding)
        for s, (blocks, depth) in enumerate(zip(STAGES, self.depths, strict=True), 1):
            for b, branches in enumerate(blocks[:depth], 1):
                chain.append(unit(f"stage{s}/block{b}", Mixed, branches=branches, **options))
            if s == 2 and self.aux_classes:
                chain.append(unit("aux", Auxiliary, num_classes=self.aux_classes, norm=self.norm))
        return tuple(chain)


class ConvNorm(nn.Module):
    """Convolution, normalization, ReLU; without padding if it strides or is told to."""

    layer: Layer
    norm: NormSpec
    valid: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        layer = self.layer
        height, width = (
            (0, 0) if self.valid or layer.strides > 1 else (n // 2 for n in layer.kernel)
        )
        pads = ((height, height), (width, width))
        conv = Conv(layer.features, layer.kernel, layer.strides, pads, name="conv")
        return conv_norm(x, conv, BatchNorm(self.norm, name="bn"), train=train, activation="relu")


class Stem(nn.Module):
    """Five convolutions and two max poolings: [N, H, W, 3] -> about H/8, 192 channels."""

    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(x: jax.Array, number: int, *of: object, valid: bool = True) -> jax.Array:
            layer = Layer(f"conv{number}", *of)  # pyright: ignore[reportArgumentType]
            return ConvNorm(layer, self.norm, valid, name=layer.name)(x, train=train)

        x = conv(x, 1, 32, _3X3, 2)
        x = conv(x, 2, 32, _3X3)
        x = conv(x, 3, 64, _3X3, valid=False)
        x = max_pool(x, 3, 2, 0)
        x = conv(x, 4, 80)
        x = conv(x, 5, 192, _3X3)
        return max_pool(x, 3, 2, 0)


class Auxiliary(nn.Module):
    """A second classifier, on the way: gives its input, and in training logits beside it.

    The logits [N, num_classes] go into the collection `auxiliary`, for the loss.
    """

    num_classes: int
    norm: NormSpec

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        if not train and not self.is_initializing():
            return x
        y = avg_pool(x, 5, 3)
        for layer in (Layer("conv0", 128), Layer("conv1", 768, _5X5)):
            y = ConvNorm(layer, self.norm, valid=True, name=layer.name)(y, train=train)
        y = pooled(y, "avg")
        logits = nn.Dense(self.num_classes, dtype=y.dtype, name="logits")(y)
        if not self.is_initializing():  # It is no variable.
            self.sow("auxiliary", "output", logits.astype(jnp.float32))
        return x


class Mixed(nn.Module):
    """Branches beside one another, their channels concatenated."""

    branches: tuple[Branch, ...]
    norm: NormSpec
    pool_counts_padding: bool

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        def conv(y: jax.Array, layer: Layer) -> jax.Array:
            return ConvNorm(layer, self.norm, name=layer.name)(y, train=train)

        outputs = []
        for branch in self.branches:
            ends = [x]
            for step in branch:
                [y] = ends
                if isinstance(step, tuple):
                    ends = [conv(y, layer) for layer in step]
                elif isinstance(step, Layer):
                    ends = [conv(y, step)]
                elif step == "max":
                    ends = [max_pool(y, 3, 2, 0)]
                else:
                    ends = [neighbourhood_avg(y, 3, counts_padding=self.pool_counts_padding)]
            outputs += ends
        return jnp.concatenate(outputs, axis=-1)
