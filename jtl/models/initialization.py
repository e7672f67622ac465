"""A classifier's first variables: pretrained where there are weights, new where not."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import ParamTree, leaf_paths, prune
from jtl.models import ImageClassifier


def initialize(
    model: ImageClassifier, pretrained: ParamTree | None, *, size: int, seed: int
) -> ParamTree:
    """The variables before training.

    Args:
        model: The classifier.
        pretrained: {"params", "batch_stats"} of a converted checkpoint; the backbone takes
            from it what it has (all of it, unless truncated), the head is new. None for
            random variables throughout.
        size: Height and width of the input, in pixels.
        seed: Of what is random.

    Returns:
        {"params", "batch_stats"} of float32 NumPy arrays.

    Raises:
        UserError: `pretrained` lacks a leaf, or one has another shape.
    """
    key = jax.random.key(seed)
    shapes = models.variable_shapes(model, size)
    if pretrained is None:
        images = jnp.zeros((1, size, size, 3), jnp.float32)
        # The default generator is unrolled for every kernel: compiling takes thrice as long.
        fast = jax.random.key(seed, impl="rbg")
        variables: Any = jax.jit(model.init)(fast, images)
        return jax.tree.map(
            np.asarray, {collection: variables.get(collection, {}) for collection in shapes}
        )
    backbone_end = model.units()[len(model.backbone.units())].path
    features = models.feature_shape(model, size)
    # One program: operation by operation it would be a dozen.
    begin = jax.jit(functools.partial(model.init, start=backbone_end))
    new: Any = begin(key, jnp.zeros(features.shape, features.dtype))
    filled = _from_pretrained(pretrained, shapes)
    if "aux" in shapes["params"]:  # New as the head is: for other classes.
        new = _with_auxiliary(model, new, key, size)
    variables = {
        collection: {**new.get(collection, {}), **filled.get(collection, {})}
        for collection in shapes
    }
    _check_same_shapes(variables, shapes)
    return jax.tree.map(np.asarray, variables)


def _with_auxiliary(model: ImageClassifier, new: Any, key: jax.Array, size: int) -> Any:
    """`new` with an auxiliary head, which lies inside the backbone."""
    paths = [unit.path for unit in model.units()]
    after = paths[paths.index("aux") + 1]
    shapes = models.variable_shapes(model, size)
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    x = models.output_shape(model, shapes, images, stop="aux")
    auxiliary: Any = model.init(key, jnp.zeros(x.shape, x.dtype), start="aux", stop=after)
    return {
        collection: {**new.get(collection, {}), **auxiliary.get(collection, {})}
        for collection in ("params", "batch_stats")
    }


def _from_pretrained(pretrained: ParamTree, shapes: ParamTree) -> ParamTree:
    """The leaves that the model takes over: the backbone's, and a classifier that stays."""
    wanted = {"/".join(path) for path in leaf_paths(shapes)}
    given = {collection: dict(units) for collection, units in pretrained.items()}
    if "classifier" in shapes["params"]:
        given["params"]["classifier"] = given["params"]["head"]
    return prune(given, lambda path: path in wanted and path.split("/")[1] != "head")


def _check_same_shapes(variables: ParamTree, shapes: ParamTree) -> None:
    """The strict merge's last word: every leaf there, every shape right."""
    got = {jax.tree_util.keystr(p): v.shape for p, v in jax.tree.leaves_with_path(variables)}
    want = {jax.tree_util.keystr(p): v.shape for p, v in jax.tree.leaves_with_path(shapes)}
    if got != want:
        wrong = sorted(k for k in got.keys() | want.keys() if got.get(k) != want.get(k))
        raise UserError(
            f"the weights do not fit the model at {len(wrong)} leaves, first {wrong[0]}: "
            f"{got.get(wrong[0], 'missing')} given, {want.get(wrong[0], 'none')} expected."
        )
