"""From a source's tensors to a converted checkpoint: detection, heads, conventions."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from weights_convert.convert.counting import counted, from_zero
from weights_convert.convert.rules import TORCH, Table, counter_key, fill, lookup
from weights_convert.convert.tables import TABLES
from weights_convert.printable import listed

# What the convolutions of a unit may be called in jtl.
_CONVOLUTIONS = ("conv", "conv1", "conv2", "conv_dw", "conv_pw", "squeeze")
_CONVOLUTIONS += ("branch1x1/conv", "branch3x3/conv", "branch3x3_1/conv")
# Below this share of known keys, a source is taken for something else.
ENOUGH = 0.5


@dataclasses.dataclass(frozen=True)
class Converted:
    """Variables in a Flax tree, with what their source demands of the model.

    Attributes:
        model: Name of the backbone.
        variables: {"params": ..., "batch_stats": ...} of float32 arrays; with `head` where
            the source had a classifier.
        library: The source's naming convention.
        conventions: Fields for `jtl.models.create(..., conventions=...)`.
        num_classes: Width of the source's classifier; None without one.
        preprocessing: What the library's weights expect of an image, unless the source states
            its own; None where it depends on the weights.
        dtypes: Source dtype -> number of converted tensors that had it. All become float32:
            float16 and bfloat16 exactly, float64 rounded to the nearest.
        ignored: Source keys that nothing was made of.
        counters: PyTorch's `num_batches_tracked` by the path of the normalization; no jtl model
            has them, and an export gives them back.
    """

    model: str
    variables: dict[str, Any]
    library: str
    conventions: dict[str, Any]
    num_classes: int | None
    preprocessing: models.Preprocessing | None = None
    dtypes: dict[str, int] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    counters: dict[str, int] = dataclasses.field(default_factory=dict)


class Identity(NamedTuple):
    """What a source's tensors are.

    Attributes:
        model: Name of the backbone.
        table: The source's names, with the classifier's name in this very source.
        report: One sentence for people: model, keys, classifier.
    """

    model: str
    table: Table
    report: str


def convert(
    tensors: Mapping[str, np.ndarray], model: str | None = None, *, drop_head: bool = False
) -> Converted:
    """Converts named source tensors for a backbone.

    Args:
        tensors: Source arrays by key, in the source's layout, floating of any width.
        model: A name of `jtl.models.names()`; default the one that the tensors are of.
        drop_head: Whether to leave the source's classifier out.

    Raises:
        UserError: The tensors are of another architecture or do not fit exactly; the message
            lists every problem.
    """
    tensors = from_zero(tensors)
    if model is None:
        model, table, _ = identify(tensors)
    else:
        table = _with_classifier(_detect(tensors, models.get(model)), tensors)
    prefix = table.classifier + table.leaves.separator
    everything = tensors
    if drop_head:
        tensors = {key: array for key, array in tensors.items() if not key.startswith(prefix)}
    num_classes = _num_classes(table, tensors)
    classifier_model = models.create(
        model,
        num_classes=num_classes or 1,
        head=models.get(model).classifier if num_classes else None,
        conventions=dict(table.conventions),
    )
    shapes = models.variable_shapes(classifier_model)
    try:
        variables = fill(table, classifier_model.backbone, shapes, tensors)
    except UserError as error:
        guess = counted(tensors) or model
        looks = f"; they look like {guess}, try --model {guess}" if guess != model else ""
        raise UserError(f"{error}\n(read as {table.library} keys of {model}{looks})") from None
    places = table.source_keys(classifier_model.backbone, shapes)
    counters, counted_keys = _counters(table, places, tensors)
    keys = places.values()
    used = {*keys, *counted_keys}
    return Converted(
        model=model,
        variables=variables,
        library=table.library,
        conventions=dict(table.conventions),
        num_classes=num_classes,
        preprocessing=table.preprocessing,
        dtypes=dict(collections.Counter(tensors[key].dtype.name for key in keys)),
        ignored=tuple(key for key in everything if key not in used),
        counters=counters,
    )


def _counters(
    table: Table, places: Mapping[tuple[str, ...], str], tensors: Mapping[str, np.ndarray]
) -> tuple[dict[str, int], set[str]]:
    """How many batches each normalization has seen, by its path, and the keys that say so."""
    counters, keys = {}, set()
    for path, key in places.items():
        array = tensors.get(counter := counter_key(key))
        if table.leaves is not TORCH or path[-1] != "mean" or array is None:
            continue
        # Anything else is not what PyTorch writes, and carries nothing.
        if array.shape == () and array.dtype == np.int64:
            counters["/".join(path[1:-1])] = int(array)
            keys.add(counter)
    return counters, keys


def identify(tensors: Mapping[str, np.ndarray]) -> Identity:
    """Finds out which backbone tensors are of, and in whose names, by keys and sizes.

    Args:
        tensors: Source arrays by key, in the source's layout; with a classifier of any width
            or without one. A few may be missing, surplus or of the wrong shape.

    Raises:
        UserError: They are of no backbone that jtl knows.
    """
    tensors = from_zero(tensors)
    likely = counted(tensors)
    found = [(name, *_best_table(tensors, models.get(name))) for name in [likely] if name]
    if not found or found[0][1] < ENOUGH:
        # Something is missing or surplus.
        found = [(name, *_best_table(tensors, models.get(name))) for name in _near(tensors)]
        found.sort(key=lambda f: -_similarity(tensors, f[2], models.get(f[0])))
    for name, share, table in found:
        if share >= ENOUGH:
            table = _with_classifier(table, tensors)
            return Identity(name, table, _describe(tensors, name, table, share))
    libraries = {f"{t.family} of {t.library}": None for t in TABLES}
    some = listed(sorted(tensors)[:4])
    raise UserError(
        f"the keys are those of no model that jtl knows. First keys seen: {some}. Known are "
        f"{', '.join(libraries)}; the models are {', '.join(models.names())}. `python -m "
        "weights_convert inspect FILE` lists all keys and shapes."
    )


def _near(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """Backbones most of whose units are there under one library's names."""
    return [
        name
        for name in models.names()
        if any(glimpse(tensors, t, models.get(name)) >= ENOUGH for t in _tables(name))
    ]


def _similarity(tensors: Mapping[str, np.ndarray], table: Table, entry: models.ModelEntry) -> float:
    """Keys that agree in name and shape, as a share of all that one of both sides has."""
    try:
        keys, shapes = _backbone_keys(table, entry)
    except LookupError:
        return 0.0
    expected = {
        (key, table.source_shape(path, lookup(shapes, path).shape)) for path, key in keys.items()
    }
    seen = {(key, array.shape) for key, array in tensors.items()}
    return len(expected & seen) / len(expected | seen)


def _describe(tensors: Mapping[str, np.ndarray], name: str, table: Table, share: float) -> str:
    classes = _num_classes(table, tensors)
    head = f"classifier '{table.classifier}' with {classes} classes" if classes else "no classifier"
    return f"{name} in {table.library} keys ({share:.0%} of its backbone's keys are there), {head}"


def _num_classes(table: Table, tensors: Mapping[str, np.ndarray]) -> int | None:
    kernel = tensors.get(table.classifier_key())
    by_pixels = table.layouts.get("head/logits") == "conv"
    if kernel is not None and kernel.ndim == (4 if by_pixels else 2):
        return table.leaves.to_target(kernel).shape[-1]
    # A damaged classifier: let the strict fill say what is wrong with it.
    bias = tensors.get(table.classifier_key("bias"))
    if bias is not None and bias.ndim == 1 and bias.size:
        return bias.size
    prefix = table.classifier + table.leaves.separator
    return 1000 if any(key.startswith(prefix) for key in tensors) else None


def _with_classifier(table: Table, tensors: Mapping[str, np.ndarray]) -> Table:
    """`table` with the classifier's name in this source, where users choose it."""
    if not table.free_classifier or table.classifier_key() in tensors:
        return table
    leaf = table.classifier_key().removeprefix(table.classifier)
    matrices = [key for key, array in tensors.items() if array.ndim == 2 and key.endswith(leaf)]
    if len(matrices) != 1:
        return table
    return dataclasses.replace(table, classifier=matrices[0].removesuffix(leaf))


def _tables(model: str) -> list[Table]:
    return [table for table in TABLES if table.family == models.get(model).family]


def _detect(tensors: Mapping[str, np.ndarray], entry: models.ModelEntry) -> Table:
    """The table of `entry`'s family that knows most of the keys."""
    share, table = _best_table(tensors, entry)
    if share >= ENOUGH:
        return table
    guess = counted(tensors)
    looks = f" They look like {guess}; try --model {guess}." if guess else ""
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
    likely = [table for table in tables if glimpse(tensors, table, entry) > 0]
    ranked = [(_shares_known(tensors, table, entry), table) for table in likely or tables]
    (share, _), table = max(ranked, key=lambda pair: pair[0])
    return share, table


def glimpse(tensors: Mapping[str, np.ndarray], table: Table, entry: models.ModelEntry) -> float:
    """The share of units that have a convolution in `tensors`, known without tracing the model."""
    leaf = table.leaves.separator + table.leaves.names["params", "kernel"]

    def is_there(unit: str) -> bool:
        for convolution in _CONVOLUTIONS:
            with contextlib.suppress(LookupError):
                if table.module_name(f"{unit}/{convolution}", entry.backbone) + leaf in tensors:
                    return True
        return False

    units = entry.backbone.units()
    return sum(is_there(unit.path) for unit in units) / len(units)


def _shares_known(
    tensors: Mapping[str, np.ndarray], table: Table, entry: models.ModelEntry
) -> tuple[float, float]:
    """The share of the backbone's keys that are there, and that of those with the right shape.

    Keras's numbers alone do not tell in which of two orders they count.
    """
    try:
        keys, shapes = _backbone_keys(table, entry)
    except LookupError:  # This library has no such model.
        return 0.0, 0.0
    there = {path: key for path, key in keys.items() if key in tensors}
    fit = sum(
        tensors[key].shape == table.source_shape(path, lookup(shapes, path).shape)
        for path, key in there.items()
    )
    return len(there) / len(keys), fit / len(keys)


def _backbone_keys(
    table: Table, entry: models.ModelEntry
) -> tuple[dict[tuple[str, ...], str], dict[str, Any]]:
    """The source keys of a model without a head, and its tree of shapes."""
    model = models.create(entry.name, head=None, conventions=dict(table.conventions))
    shapes = models.variable_shapes(model)
    return table.source_keys(model.backbone, shapes), shapes
