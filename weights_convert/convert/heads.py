"""Heads of a source that jtl's classifier, one dense layer on pooled features, cannot be."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from jtl import models
from weights_convert.convert.detection import backbone_keys
from weights_convert.convert.layout import Layout
from weights_convert.convert.rules import Table, counter_key, is_ignored

OWN_HEAD = "of a head of its own"
"""The reason that is stated of keys that are left out."""


def without_own_head(
    table: Table, model: str, layout: Layout, *, drop_head: bool
) -> tuple[Table, Layout]:
    """The network's tensors without a head that jtl's classifier cannot be.

    One dense layer under a name of its author becomes the classifier that the library has.

    Args:
        table: The source's names.
        model: The backbone's name.
        layout: The network's tensors.
        drop_head: Whether to leave any head out.

    Returns:
        The table with the classifier's name, and the tensors that are left.
    """
    keys, _ = backbone_keys(table, models.get(model))
    backbone, tensors = set(keys.values()), layout.tensors
    own = {
        key: array
        for key, array in tensors.items()
        if key not in backbone and not is_ignored(table, key)
    }
    # A normalization in the head has a counter, which goes with it.
    counters = {counter_key(key) for key in own} & tensors.keys()
    if drop_head:
        prefix = table.classifier + table.leaves.separator
        is_head = own_head(table, pooled_features(table, model), own, backbone) is not None
        gone = {*own, *counters} if is_head else {key for key in tensors if key.startswith(prefix)}
        return table, layout.without(gone, "--drop-head")
    kernel = own.get(table.classifier_key())
    by_pixels = table.layout_of("head/logits") == "conv"
    features = pooled_features(table, model)
    inputs = features
    if kernel is not None and kernel.ndim == 2:
        inputs = table.leaves.to_target(kernel).shape[0]
    # A flattened map, or two poolings, give more than there are features.
    larger = not by_pixels and inputs != features and inputs % features == 0
    classifier = {table.classifier_key(), table.classifier_key("bias")}
    if not set(own) - classifier and not larger:
        return table, layout
    module = own_head(table, features, own, backbone)
    if module is None:
        return table, layout
    if not module:
        return table, layout.without({*own, *counters}, OWN_HEAD)
    if table.free_classifier:
        return dataclasses.replace(table, classifier=module), layout
    names = {key: table.classifier + key.removeprefix(module) for key in own}
    return table, layout.renamed(names)


def pooled_features(table: Table, model: str) -> int:
    """Channels of the vector that the classifier stands on."""
    entry = models.get(model)
    bare = models.create(
        model, num_classes=1, head=entry.classifier, conventions=dict(table.conventions)
    )
    return models.variable_shapes(bare)["params"]["head"]["logits"]["kernel"].shape[-2]


def own_head(
    table: Table, features: int, surplus: Mapping[str, np.ndarray], backbone: Iterable[str]
) -> str | None:
    """What kind of head the surplus tensors of a source are, if they are one.

    A head takes the backbone's features: it has vectors and matrices alone, under names beside
    the backbone's, and a matrix takes a multiple of the features (more where a map is flattened,
    or where two poolings are concatenated).

    Args:
        table: The source's names.
        features: Channels of the backbone's last feature map.
        surplus: Tensors that are not the backbone's, by key.
        backbone: The backbone's keys.

    Returns:
        The module's name where the head is one dense layer on pooled features; an empty text for
        any other head; None if the tensors are no head.
    """
    separator = table.leaves.separator
    tops = {key.partition(separator)[0] for key in backbone}
    kernels = {key: array for key, array in surplus.items() if array.ndim == 2}
    shapes = [table.leaves.to_target(array).shape for array in kernels.values()]
    if not kernels or any(array.ndim > 2 for array in surplus.values()):
        return None
    if any(key.partition(separator)[0] in tops for key in surplus):
        return None
    # Each matrix takes the features, or what another one gives.
    for i, (width, _) in enumerate(shapes):
        given = [out for j, (_, out) in enumerate(shapes) if j != i]
        if not width or (width % features and width not in given):
            return None
    outputs = {width_out for _, width_out in shapes}
    for array in surplus.values():
        if array.ndim == 1 and len(array) % features and len(array) not in outputs:
            return None
    leaf = separator + table.leaves.names["params", "kernel"]
    (key, *others), ((width, _), *_) = list(kernels), shapes
    module = key.removesuffix(leaf)
    allowed = {key, module + separator + table.leaves.names["params", "bias"]}
    simple = not others and key.endswith(leaf) and width == features
    return module if simple and set(surplus) <= allowed else ""
