"""Batch normalizations that were folded into the convolutions before them, made whole again.

Programs that export networks for predictions scale a convolution's kernel by its normalization's
factor and give it the offset as a bias. Nothing tells the two apart any more; but a normalization
of mean 0 and variance 1 - epsilon with the bias as its offset computes the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jtl import models
from jtl.common.trees import lookup
from jtl.models.layers.blocks import BatchNorm, Conv, shapes_only
from weights_convert.convert.rules import Table

NOTE = (
    "batch normalizations of the source are folded into its convolutions: jtl's have their offsets "
    "and change nothing else, and train best with --bn frozen"
)

Path = tuple[str, ...]


def biases(
    table: Table, backbone: Any, places: Mapping[Path, str], keys: Iterable[str]
) -> dict[Path, str]:
    """The biases of convolutions in a source that stand for normalizations.

    Args:
        table: The source's names.
        backbone: Configuration of the target model.
        places: The source key of every leaf of the target, by its path.
        keys: The source's keys.

    Returns:
        From a normalization's path (without collection and leaf) to the source key of the bias of
        the convolution before it, where the source has that bias and nothing of the normalization.
    """
    there = set(keys)
    missing = {path[1:-1] for path, key in places.items() if key not in there}
    # A whole checkpoint need not be traced.
    if not missing:
        return {}
    present = {path[1:-1] for path, key in places.items() if key in there}
    found = {}
    for norm, conv in _convolutions(backbone).items():
        if norm not in missing - present or ("params", *conv, "bias") in places:
            continue
        module = table.module_name("/".join(conv), backbone)
        bias = table.key(module, table.leaf_name("params", "bias", norm=False))
        if bias in there:
            found[norm] = bias
    return found


def unfolded(
    table: Table, backbone: Any, shapes: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[Path, str]]:
    """The tensors with normalizations in place of the biases that stand for them; and `biases`."""
    places = table.source_keys(backbone, shapes)
    found = biases(table, backbone, places, tensors)
    gone = set(found.values())
    changed = {key: array for key, array in tensors.items() if key not in gone}
    for path, key in places.items():
        if path[1:-1] in found:
            shape = lookup(shapes, path).shape
            epsilon = backbone.norm.epsilon
            changed[key] = (
                tensors[found[path[1:-1]]]
                if path[-1] == "bias"
                else np.full(shape, _neutral(path[-1], epsilon), np.float32)
            )
    return changed, found


def with_epsilon(variables: dict[str, Any], norms: Iterable[Path], epsilon: float) -> None:
    """Makes normalizations that change nothing ones with another epsilon, in place."""
    for norm in norms:
        leaves = lookup(variables["batch_stats"], norm)
        leaves["var"] = np.full_like(leaves["var"], _neutral("var", epsilon))


def _neutral(leaf: str, epsilon: float) -> float:
    return {"scale": 1.0, "mean": 0.0, "var": 1 - epsilon}[leaf]


def _convolutions(backbone: Any) -> Mapping[Path, Path]:
    if not hasattr(backbone, "norm"):
        return {}
    # How a normalization computes does not change where it is.
    plain = models.NormSpec(scale=backbone.norm.scale)
    return _traced(dataclasses.replace(backbone, norm=plain))[0]


def strides(backbone: Any) -> Mapping[Path, int]:
    """The stride of every convolution by its path."""
    return _traced(backbone)[1]


@functools.lru_cache(maxsize=64)
def _traced(backbone: Any) -> tuple[Mapping[Path, Path], Mapping[Path, int]]:
    """From each normalization to the convolution right before it, and all convolutions' strides."""
    found: dict[Path, Path] = {}
    steps: dict[Path, int] = {}

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, BatchNorm) and kwargs.get("conv") is not None:
            found[context.module.path] = kwargs["conv"].path
        if isinstance(context.module, Conv):
            steps[context.module.path] = context.module.strides
        return call(*args, **kwargs)

    def init(key: jax.Array, images: jax.Array) -> Any:
        with nn.intercept_methods(watch), shapes_only():
            return models.ImageClassifier(backbone, None).init(key, images)

    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    jax.eval_shape(init, jax.eval_shape(jax.random.key, 0), images)
    return found, steps
