"""What stands on a backbone's features: pooling and the classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.common.errors import UserError, suggest
from jtl.config.model import LARGEST_WIDTH, ModelConfig, PoolKind
from jtl.models.layers.blocks import BatchNorm, NormSpec, relu

HEADS = ("linear", "mlp", "append", "conv")
"""The heads that have a name; see `--head`."""
LAYER_FORMS = {
    "dense:WIDTH": f"a dense layer of up to {LARGEST_WIDTH:,} and ReLU",
    "linear:WIDTH": "a dense layer alone",
    "relu": "ReLU",
    "bn": "batch normalization",
    "dropout:RATE": "dropout, 0 <= RATE < 1",
}
"""What a head's list may hold; the dense layer that gives the logits comes by itself."""


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """A head's configuration.

    Attributes:
        layers: What comes before the logits, in the form of `LAYER_FORMS`; none for a linear
            head (a linear probe when the backbone is frozen).
        pool: How a feature map [N, H, W, C] becomes a vector: `avg` or `max` over pixels
            [N, C], or `flatten` [N, H * W * C].
        source_classes: Keep the source's own classifier of that many classes between pooling
            and the head, which then stands on its logits; 0 drops it.
        norm: Of the head's batch normalizations.
        relu_logits: As in SqueezeNet: the layers and the logits are computed for every pixel, and
            what a ReLU leaves of the logits is pooled. Not with `flatten`.
    """

    layers: tuple[str, ...] = ()
    pool: PoolKind = "avg"
    source_classes: int = 0
    norm: NormSpec = NormSpec()
    relu_logits: bool = False


def mlp(widths: Sequence[int], dropout: float = 0.0, batch_norm: bool = False) -> tuple[str, ...]:
    """The layers of a multi-layer perceptron: dense, (batch norm,) ReLU, (dropout), by width."""
    layers: list[str] = []
    for width in widths:
        layers += [f"linear:{width}", *(["bn"] if batch_norm else []), "relu"]
        layers += [f"dropout:{dropout}"] if dropout else []
    return tuple(layers)


def from_options(options: ModelConfig, source_classes: int | None = None) -> HeadSpec:
    """The head that options say.

    Args:
        options: As `ModelConfig.check` takes them.
        source_classes: Classes of the weights' own classifier, None without one.

    Raises:
        UserError: `--head` is no list of layers, or 'append' finds no classifier.
    """
    layers: tuple[str, ...] = ()
    if options.head == "mlp":
        layers = mlp(options.head_widths, options.head_dropout, options.head_batch_norm)
    elif options.head not in HEADS:
        layers = tuple(part.strip() for part in options.head.split(","))
    check_layers(layers)
    if options.head == "append" and source_classes is None:
        raise UserError(
            "--head append keeps the weights' own classifier, but these have none. Choose other "
            "--weights, or --head linear."
        )
    kept = source_classes if options.head == "append" else None
    return HeadSpec(layers, options.head_pool, kept or 0, relu_logits=options.head == "conv")


def check_layers(layers: Sequence[str]) -> None:
    """Makes sure that every entry is of `LAYER_FORMS`.

    Raises:
        UserError: Some are not; all are named.
    """
    wrong = []
    for layer in layers:
        try:
            _parse(layer)
        except ValueError:
            wrong.append(layer)
    if not wrong:
        return
    kinds = [*HEADS, *(form.partition(":")[0] for form in LAYER_FORMS)]
    kind = wrong[0].partition(":")[0]
    close = "" if kind in kinds else suggest(kind, kinds, 0.6)
    forms = ", ".join(f"{form} ({what})" for form, what in LAYER_FORMS.items())
    raise UserError(
        f"--head: {', '.join(map(repr, wrong))} is not a layer of a head.{close} Allowed: "
        f"{', '.join(HEADS)}, or a comma-separated list of: {forms}."
    )


def _parse(layer: str) -> tuple[str, Any]:
    """A layer's kind and argument; ValueError for what is no layer."""
    kind, _, argument = layer.partition(":")
    if kind in ("relu", "bn") and not argument:
        return kind, None
    if kind in ("dense", "linear") and 0 < int(argument) <= LARGEST_WIDTH:
        return kind, int(argument)
    if kind == "dropout" and 0 <= float(argument) < 1:
        return kind, float(argument)
    raise ValueError(layer)


class Pool(nn.Module):
    """Pooling of a feature map; averages are taken in float32, the dtype is kept."""

    kind: PoolKind = "avg"

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        del train  # The same in both modes.
        return pooled(x, self.kind)


def pooled(x: jax.Array, kind: PoolKind) -> jax.Array:
    """A feature map [N, H, W, C] as vectors; see `HeadSpec.pool`."""
    if kind == "flatten":
        return x.reshape(x.shape[0], -1)
    if kind == "max":
        return jnp.max(x, axis=(1, 2))
    return jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(x.dtype)


class Head(nn.Module):
    """A classifier on vectors: [N, C] -> logits [N, num_classes].

    The last kernel starts at zero, so the first predictions are uniform and the first
    gradients of a fine-tuned backbone are zero rather than noise (as in BiT, arXiv
    1912.11370). Dropout needs the random stream `dropout` in train mode.

    With `pool` it stands on a feature map, [N, H, W, C], and pools what a ReLU leaves of the
    logits. Their kernel starts small then: zero would stay at the ReLU's kink.
    """

    num_classes: int
    layers: tuple[str, ...] = ()
    norm: NormSpec = NormSpec()
    pool: PoolKind | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        dense = norms = 0
        for layer in self.layers:
            kind, argument = _parse(layer)
            if kind in ("dense", "linear"):
                dense += 1
                initial = nn.initializers.he_normal()
                x = nn.Dense(argument, dtype=x.dtype, kernel_init=initial, name=f"dense{dense}")(x)
            if kind == "bn":
                norms += 1
                x = BatchNorm(self.norm, name=f"bn{norms}")(x, train=train)
            if kind in ("dense", "relu"):
                x = relu(x)
            if kind == "dropout":
                x = nn.Dropout(argument, deterministic=not train)(x)
        start = nn.initializers.normal(0.01) if self.pool else nn.initializers.zeros_init()
        x = nn.Dense(self.num_classes, dtype=x.dtype, kernel_init=start, name="logits")(x)
        return x if self.pool is None else pooled(relu(x), self.pool)
