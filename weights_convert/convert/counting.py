"""What the numbers in a source tell: of its params, and of layers that have but numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from jtl import models
from weights_convert.convert.tables import TABLES

# A normalization's mean, which tells how many params the normalization has.
_MEANS = ("running_mean", "moving_mean")
# Keys of classifiers that are convolutions.
_CLASSIFIERS = {t.classifier_key() for t in TABLES if t.layout_of("head/logits") == "conv"}
_NUMBERED = re.compile(
    r"(conv2d|depthwise_conv2d|(?:batch|layer)_normalization)(?:_(\d{1,6}))?/([^/]+)"
)
_IGNORED = re.compile("|".join(sorted({f"(?:{p})" for t in TABLES for p in t.ignored})))


def counted(tensors: Mapping[str, np.ndarray]) -> str | None:
    """The model whose published number of params the source's backbone has, if there is one.

    Counting needs hardly a name and no traced model, and the counts of the models differ. Biases
    of convolutions do not count: whether there are any depends on the library.
    """
    tensors = {key: array for key, array in tensors.items() if not _IGNORED.fullmatch(key)}
    means = (a.size for key, a in tensors.items() if key.replace("/", ".").endswith(_MEANS))
    kernels = {key: array for key, array in tensors.items() if array.ndim in (2, 4)}
    whole = 2 * sum(means) + sum(array.size for array in kernels.values())
    # (Params without the classifier, channels that it may stand on): of any matrix that may be the
    # classifier, and of a source without one, whose last feature map is as wide as some tensor.
    ways = [(whole, {size for array in tensors.values() for size in array.shape})]
    ways += [
        (whole - array.size, set(array.shape))
        for key, array in kernels.items()
        if array.ndim == 2 or key in _CLASSIFIERS
    ]
    entries = [models.get(name) for name in models.names()]
    # A bare ViT-B/32 is, without one of its matrices, as large as a ViT-B/16: so all models with
    # every tensor first.
    for params, widths in ways:
        for entry in entries:
            classifier = entry.published_params - entry.published_biases - params
            if classifier % 1000 == 0 and classifier // 1000 - 1 in widths:
                return entry.name
    return None


def from_zero(tensors: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """The tensors with Keras's numbered layers counted from 0.

    Keras counts the layers that have no names of their own through a whole process, so that a
    second InceptionV3 begins at `conv2d_94`, and Keras 2 began at 1.
    """
    places = {key: found for key in tensors if (found := _NUMBERED.fullmatch(key))}
    first: dict[str, int] = {}
    for kind, number, _ in (found.groups() for found in places.values()):
        first[kind] = min(first.get(kind, 10**9), int(number or 0))
    if not any(first.values()):
        return tensors

    def renamed(key: str) -> str:
        if key not in places:
            return key
        kind, number, leaf = places[key].groups()
        count = int(number or 0) - first[kind]
        return f"{kind}_{count}/{leaf}" if count else f"{kind}/{leaf}"

    return {renamed(key): array for key, array in tensors.items()}
