"""Which backbone tensors are of, and in whose names, by keys and sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import lookup
from weights_convert.convert import folded, relatives
from weights_convert.convert.counting import counted
from weights_convert.convert.prefixes import MIN_MATCH, quick_match
from weights_convert.convert.rules import Table
from weights_convert.convert.tables import TABLES
from weights_convert.printable import listed


class Identity(NamedTuple):
    """What tensors are.

    Attributes:
        model: Name of the backbone.
        table: The source's names, with the classifier's name in this very source.
        share: Which share of the backbone's keys is there.
    """

    model: str
    table: Table
    share: float


def identified(tensors: Mapping[str, np.ndarray]) -> Identity:
    """Finds out which backbone a network's tensors are of, and in whose names.

    Args:
        tensors: Source arrays by key, in the source's layout; with a classifier of any width
            or without one. A few may be missing, surplus or of the wrong shape.

    Raises:
        UserError: They are of no backbone that jtl knows.
    """
    likely = counted(tensors)
    found = [(name, *_best_table(tensors, models.get(name))) for name in [likely] if name]
    if not found or found[0][1] < MIN_MATCH:
        # Something is missing or surplus.
        found = [(name, *_best_table(tensors, models.get(name))) for name in _near(tensors)]
        found.sort(key=lambda f: -_similarity(tensors, f[2], models.get(f[0])))
    for name, share, table in found:
        if share >= MIN_MATCH:
            table = with_classifier(table, tensors, name)
            return Identity(name, table, share)
    libraries = {f"{t.family} of {t.library}": None for t in TABLES}
    some = listed(sorted(tensors)[:4])
    like = relatives.advice(tensors)
    raise UserError(
        f"the keys are those of no model that jtl knows.{like} First keys seen: {some}. Known are "
        f"{', '.join(libraries)}; the models are {', '.join(models.names())}. `jtl weights "
        "inspect FILE` lists all keys and shapes."
    )


def _near(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Backbones most of whose units are there under one library's names."""
    return [
        name
        for name in models.names()
        if any(quick_match(tensors, t, models.get(name)) >= MIN_MATCH for t in _tables(name))
    ]


def _similarity(tensors: Mapping[str, np.ndarray], table: Table, entry: models.ModelEntry) -> float:
    """Keys that agree in name and shape, as a share of all that one of both sides has."""
    try:
        keys, shapes = backbone_keys(table, entry)
    except LookupError:
        return 0.0
    expected = {
        (key, table.source_shape(path, lookup(shapes, path).shape)) for path, key in keys.items()
    }
    seen = {(key, array.shape) for key, array in tensors.items()}
    return len(expected & seen) / len(expected | seen)


def classes_of(table: Table, tensors: Mapping[str, np.ndarray]) -> int | None:
    """Width of the source's classifier; None without one."""
    kernel = tensors.get(table.classifier_key())
    by_pixels = table.layout_of("head/logits") == "conv"
    if kernel is not None and kernel.ndim == (4 if by_pixels else 2):
        return table.leaves.to_target(kernel).shape[-1]
    # A damaged classifier: let the strict fill say what is wrong with it.
    bias = tensors.get(table.classifier_key("bias"))
    if bias is not None and bias.ndim == 1 and bias.size:
        return bias.size
    prefix = table.classifier + table.leaves.separator
    return 1000 if any(key.startswith(prefix) for key in tensors) else None


def with_classifier(table: Table, tensors: Mapping[str, np.ndarray], model: str) -> Table:
    """`table` with what this source shows: conventions, and a classifier's name of its author."""
    table = table.of(tensors)
    if not table.classifier:
        backbone = models.create(model, conventions=dict(table.conventions)).backbone
        table = dataclasses.replace(table, classifier=table.module_name("head/logits", backbone))
    if not table.free_classifier or table.classifier_key() in tensors:
        return table
    leaf = table.classifier_key().removeprefix(table.classifier)
    matrices = [key for key, array in tensors.items() if array.ndim == 2 and key.endswith(leaf)]
    if len(matrices) != 1:
        return table
    return dataclasses.replace(table, classifier=matrices[0].removesuffix(leaf))


def _tables(model: str) -> list[Table]:
    family = models.get(model).family
    return [table for table in TABLES if table.family == family]


def detect(tensors: Mapping[str, np.ndarray], entry: models.ModelEntry) -> Table:
    """The table of `entry`'s family that knows most of the keys."""
    share, table = _best_table(tensors, entry)
    if share >= MIN_MATCH:
        return table
    guess = counted(tensors)
    looks = (
        f" They look like {guess}; try --model {guess}." if guess not in (None, entry.name) else ""
    )
    if not looks:
        looks = relatives.advice(tensors)
    some = listed(sorted(tensors)[:4])
    libraries = ", ".join(t.library for t in _tables(entry.name))
    raise UserError(
        f"the keys are not those of {entry.name}: {share:.0%} of its keys are there under the "
        f"names of {libraries}.{looks} First keys seen: {some}."
    )


def _best_table(tensors: Mapping[str, np.ndarray], entry: models.ModelEntry) -> tuple[float, Table]:
    """The table that knows most of the keys, and which share of its backbone's keys is there."""
    tables = _tables(entry.name)
    # Listing the keys of a convention means tracing its model, so the likely ones alone.
    likely = [table for table in tables if quick_match(tensors, table, entry) > 0]
    ranked = [(_shares_known(tensors, table, entry), table) for table in likely or tables]
    (share, _), table = max(ranked, key=lambda pair: pair[0])
    return share, table


def _shares_known(
    tensors: Mapping[str, np.ndarray], table: Table, entry: models.ModelEntry
) -> tuple[float, float]:
    """The share of the backbone's keys that are there, and that of those with the right shape.

    Keras's numbers alone do not tell in which of two orders they count.
    """
    try:
        keys, shapes = backbone_keys(table, entry)
    except LookupError:  # This library has no such model.
        return 0.0, 0.0
    norms = folded.biases(table, _bare(table, entry).backbone, keys, tensors)
    keys = {path: key for path, key in keys.items() if path[1:-1] not in norms}
    there = {path: key for path, key in keys.items() if key in tensors}
    fit = sum(
        tensors[key].shape == table.source_shape(path, lookup(shapes, path).shape)
        for path, key in there.items()
    )
    return len(there) / len(keys), fit / len(keys)


def backbone_keys(
    table: Table, entry: models.ModelEntry
) -> tuple[dict[tuple[str, ...], str], dict[str, Any]]:
    """The source keys of a model without a head, and its tree of shapes."""
    shapes = models.variable_shapes(_bare(table, entry))
    return table.source_keys(_bare(table, entry).backbone, shapes), shapes


def _bare(table: Table, entry: models.ModelEntry) -> models.ImageClassifier:
    return models.create(entry.name, head=None, conventions=dict(table.conventions))
