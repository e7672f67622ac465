"""From pixels, resized and cropped already, to logits: what forms take that cannot resize."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl import onednn
from jtl.common.platforms import everywhere
from jtl.data.preprocessing import Prepare
from jtl.export.formats import fitted
from jtl.export.how import How

if TYPE_CHECKING:
    from jtl.predict.classifier import Classifier


@contextlib.contextmanager
def for_everywhere() -> Iterator[None]:
    """Traces for every platform, and without oneDNN, which is this process's."""
    with onednn.disabled(), everywhere():
        yield


def logits_of_pixels(
    classifier: Classifier, how: How, batch: int | None = None
) -> tuple[Callable[[jax.Array], jax.Array], jax.ShapeDtypeStruct]:
    """The function from images to logits, in float32, and what these images are.

    Args:
        classifier: A run's.
        how: With or without normalization.
        batch: How many images it takes; None for any number.
    """
    device = _in_float32(classifier)
    variables = jax.tree.map(np.asarray, classifier.variables)
    count: Any = jax.export.symbolic_shape("batch")[0] if batch is None else batch

    def logits(images: jax.Array) -> jax.Array:
        x = images
        if how.preprocessing == "normalize":
            x = device.normalize(images.astype(jnp.float32))
        found: Any = classifier.model.apply(variables, x)
        return found

    dtype = jnp.uint8 if how.preprocessing == "normalize" else jnp.float32
    return logits, jax.ShapeDtypeStruct((count, device.size, device.size, 3), dtype)


def inputs(classifier: Classifier, samples: list[np.ndarray], how: How) -> np.ndarray:
    """Images as that function takes them: [N, size, size, 3].

    Args:
        classifier: A run's.
        samples: uint8 [H, W, 3] of several sizes.
        how: With or without normalization.
    """
    images = fitted(classifier, samples)
    if how.preprocessing == "normalize":
        return np.rint(images).astype(np.uint8)
    return np.asarray(_in_float32(classifier).normalize(jnp.asarray(images)), np.float32)


def _in_float32(classifier: Classifier) -> Prepare:
    # Of bfloat16 other runtimes know little.
    return dataclasses.replace(classifier.inputs.device, dtype="float32")
