"""Building classifiers by the name of their backbone, and the shapes of what they hold and give."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jtl.models.chain import Backbone, ImageClassifier
from jtl.models.heads import HeadSpec
from jtl.models.layers.blocks import NormSpec, shapes_only
from jtl.models.registry import get
from jtl.models.truncation import Truncated


def create(
    name: str,
    *,
    num_classes: int = 1000,
    head: HeadSpec | None = HeadSpec(),
    conventions: dict[str, Any] | None = None,
    truncate_at: str | None = None,
) -> ImageClassifier:
    """Builds a classifier; no compute, no variables.

    Args:
        name: A backbone of `jtl.models.names()`.
        num_classes: Width of the logits.
        head: The head; None for a bare backbone.
        conventions: Fields of the backbone's configuration that the weights' source sets,
            such as `norm`; see the family's module.
        truncate_at: Path of the last layer of the backbone to use; None for all of it.
    """
    backbone: Any = get(name).backbone
    if conventions:
        backbone = dataclasses.replace(backbone, **conventions)
    if truncate_at is not None:
        backbone = Truncated(backbone, truncate_at)
    return ImageClassifier(backbone, head, num_classes)


def variable_shapes(model: ImageClassifier, size: int = 224) -> dict[str, Any]:
    """The tree of `jax.ShapeDtypeStruct` of params and batch_stats, without computing them.

    Tracing takes up to seconds, so it is done once per process and backbone, and for each head.

    Args:
        model: A classifier or a bare backbone.
        size: Height and width of the images, in pixels.

    Returns:
        A new tree {"params": ..., "batch_stats": ...}, keys sorted.
    """
    features, variables = _shapes_of(model.backbone, size)
    variables = {"batch_stats": {}, **variables}  # Not every backbone normalizes.
    if model.head is not None:
        frozen: Any = model  # Hashable, though its type does not say so.
        head = _head_shapes(frozen, features)
        collections = sorted(variables.keys() | head.keys())
        variables = {
            c: dict(sorted({**variables.get(c, {}), **head.get(c, {})}.items()))
            for c in collections
        }
    return jax.tree.map(lambda leaf: leaf, dict(sorted(variables.items())))


def feature_shape(model: ImageClassifier, size: int) -> jax.ShapeDtypeStruct:
    """The last feature map [1, H, W, C] of a model's backbone; see `variable_shapes`."""
    return _shapes_of(model.backbone, size)[0]


def output_shape(
    model: ImageClassifier, variables: Any, images: jax.ShapeDtypeStruct, stop: str | None = None
) -> jax.ShapeDtypeStruct:
    """What a model gives for `images` (NHWC), without tracing what computes it.

    Args:
        model: A classifier or a bare backbone.
        variables: Its variables, or their shapes.
        images: Shape and dtype of the input.
        stop: The unit to stop before; None for the whole.
    """

    def run(variables: Any, images: jax.Array) -> Any:
        with shapes_only():
            return model.apply(variables, images, stop=stop)

    return jax.eval_shape(run, variables, images)


def _shapes_of(backbone: Any, size: int) -> tuple[jax.ShapeDtypeStruct, dict[str, Any]]:
    if hasattr(backbone, "norm"):
        # How a normalization computes does not change the shape of what it owns.
        backbone = dataclasses.replace(backbone, norm=NormSpec(scale=backbone.norm.scale))
    return _backbone_shapes(backbone, size)


@functools.lru_cache(maxsize=128)
def _head_shapes(model: ImageClassifier, features: jax.ShapeDtypeStruct) -> dict[str, Any]:
    """The variables of what follows the backbone; shared, not to be changed."""
    first = model.units()[len(model.backbone.units())].path
    key = jax.eval_shape(jax.random.key, 0)
    return jax.eval_shape(functools.partial(model.init, start=first), key, features)


@functools.lru_cache(maxsize=128)
def _backbone_shapes(backbone: Backbone, size: int) -> tuple[jax.ShapeDtypeStruct, dict[str, Any]]:
    """The features and the variables of a bare backbone; shared, not to be changed."""
    key = jax.eval_shape(jax.random.key, 0)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)

    def init(key: jax.Array, images: jax.Array) -> Any:  # Its own: JAX keeps what it has traced.
        with shapes_only():
            return ImageClassifier(backbone, None).init_with_output(key, images)

    return jax.eval_shape(init, key, images)
