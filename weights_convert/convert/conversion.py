"""From a source's tensors to a converted checkpoint: detection, heads, conventions."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from weights_convert.convert import folded, relatives
from weights_convert.convert.computed import computed, not_plain
from weights_convert.convert.counting import counted, from_zero
from weights_convert.convert.detection import (
    Identity,
    classes_of,
    detect,
    identified,
    with_classifier,
)
from weights_convert.convert.filling import fill
from weights_convert.convert.fused import fused
from weights_convert.convert.heads import OWN_HEAD, without_own_head
from weights_convert.convert.layout import Layout, arrange
from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.rules import Table, counter_key
from weights_convert.convert.stems import for_colour
from weights_convert.convert.surroundings import (
    refuse_unexplained,
    with_outer_classifier,
    with_shapes,
)
from weights_convert.printable import listed, shown

# Heads that stand on feature maps, not on pooled features.
_DENSE_TASK = re.compile(
    r"(.*\.)?(aux_classifier|classifier\.\d|decode_head|auxiliary_head|segmentation_head|fpn|rpn|"
    r"neck|roi_heads|decoder)\..*"
)

_ONE_LOGIT = (
    "the classifier has one output, as those that tell two classes apart by a sigmoid: jtl's "
    "models have an output for each class, and the softmax of one alone is always 1. Training "
    "makes a new head; --drop-head of `jtl weights` converts the backbone alone"
)


_RADIOGRAPHS = (
    "'op_threshs' is of a network of TorchXRayVision, which takes grey images with values from "
    "-1024 to 1024: give --mean 0.5,0.5,0.5 --std 0.00048828,0.00048828,0.00048828"
)


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
        shown: Of `conventions`, what keys and shapes show.
        preprocessing: What the library's weights expect of an image, unless the source states
            its own; None where it depends on the weights.
        dtypes: Source dtype -> number of converted tensors that had it. All become float32:
            float16 and bfloat16 exactly, float64 rounded to the nearest.
        ignored: Source keys that nothing was made of.
        ignored_because: Of those, the ones that are no bookkeeping of the library, by the reason.
        prefix: What was stripped from the source's keys.
        spelling: What else was done to them, in words; empty for nothing.
        notes: What the user should know about the reading.
        folded: Paths of normalizations that were folded into convolutions, and change nothing.
        counters: PyTorch's `num_batches_tracked` by the path of the normalization; no jtl model
            has them, and an export gives them back.
    """

    model: str
    variables: dict[str, Any]
    library: str
    conventions: dict[str, Any]
    num_classes: int | None
    shown: dict[str, Any] = dataclasses.field(default_factory=dict)
    preprocessing: models.Preprocessing | None = None
    dtypes: dict[str, int] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    counters: dict[str, int] = dataclasses.field(default_factory=dict)
    ignored_because: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    spelling: str = ""
    notes: tuple[str, ...] = ()
    folded: tuple[tuple[str, ...], ...] = ()


def convert(
    tensors: Mapping[str, np.ndarray],
    model: str | None = None,
    *,
    drop_head: bool = False,
    strip_prefix: str | None = None,
    ignore_keys: str | None = None,
) -> Converted:
    """Converts named source tensors for a backbone.

    Args:
        tensors: Source arrays by key, in the source's layout, floating of any width.
        model: A name of `jtl.models.names()`; default the one that the tensors are of.
        drop_head: Whether to leave the source's classifier out. One that is not a single dense
            layer on the pooled features is left out in any case.
        strip_prefix: What stands before the network's keys; default found out.
        ignore_keys: A regular expression; keys that it matches as a whole are left out.

    Raises:
        UserError: The tensors are of another architecture or do not fit exactly; the message
            counts the problems and lists the first, or names the network that it looks like.
    """
    everything = fused(from_zero(tensors))
    options = {"strip_prefix": strip_prefix, "ignore_keys": ignore_keys}
    try:
        model, table, layout = recognize(everything, model, drop_head=drop_head, **options)
    except UserError as error:
        if ways := not_plain(everything):
            raise UserError(f"{error}{ways}") from None
        raise
    tensors = layout.tensors
    num_classes = classes_of(table, tensors)
    if num_classes:
        refuse_unexplained(layout, everything)
    classifier_model = models.create(
        model,
        num_classes=num_classes or 1,
        head=models.get(model).classifier if num_classes else None,
        conventions=dict(table.conventions),
    )
    shapes = models.variable_shapes(classifier_model)
    tensors, colour_notes = for_colour(table, classifier_model.backbone, shapes, tensors)
    tensors, biases = folded.unfolded(table, classifier_model.backbone, shapes, tensors)
    where = f"{table.library} keys of {model}"
    where += f", prefix '{layout.prefix}' stripped" if layout.prefix else ""
    where += f", {layout.spelling}" if layout.spelling else ""
    try:
        variables = fill(table, classifier_model.backbone, shapes, tensors)
    except UserError as error:
        if other := relatives.unsupported(tensors):
            raise UserError(
                f"by its keys it looks like {other}; jtl has no such network. The nearest that it "
                f"has, {model}, would need other weights: {models.get(model).default_weights}."
            ) from None
        guess = counted(tensors) or model
        looks = f"; they look like {guess}, try --model {guess}" if guess != model else ""
        ways = not_plain(tensors)
        if (
            not drop_head
            and num_classes
            and not looks
            and _fits_without_head(everything, model, options)
        ):
            ways += "\n--drop-head of `jtl weights` converts the backbone alone."
        raise UserError(f"{error}\n(read as {where}{looks}){ways}") from None
    places = table.source_keys(classifier_model.backbone, shapes)
    counters, counted_keys = _counters(table, places, tensors)
    keys = places.values()
    original = [key for key in (*keys, *biases.values()) if key in layout.tensors]
    used = {layout.origin[key] for key in (*original, *counted_keys)}
    return Converted(
        model=model,
        variables=variables,
        library=table.library,
        conventions=dict(table.conventions),
        num_classes=num_classes,
        shown=dict(table.shown_by(tensors)) if table.shown_by else {},
        preprocessing=table.preprocessing_of(model),
        dtypes=dict(collections.Counter(layout.tensors[key].dtype.name for key in original)),
        ignored=tuple(key for key in everything if key not in used),
        counters=counters,
        ignored_because=layout.ignored,
        prefix=layout.prefix,
        spelling=layout.spelling,
        folded=tuple(biases),
        notes=(
            *layout.notes,
            *_notes(layout),
            *_dense_task(layout, everything),
            *colour_notes,
            *((folded.NOTE,) if biases else ()),
            *((_ONE_LOGIT,) if num_classes == 1 else ()),
            *((_RADIOGRAPHS,) if any(key.endswith("op_threshs") for key in everything) else ()),
        ),
    )


def _fits_without_head(
    tensors: Mapping[str, np.ndarray], model: str, options: Mapping[str, str | None]
) -> bool:
    """Whether all problems are the classifier's: found out by leaving it out."""
    try:
        convert(tensors, model, drop_head=True, **options)
    except UserError:
        return False
    return True


def _dense_task(layout: Layout, tensors: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """What to know of a network for segmentation or detection, of which the backbone is taken."""
    left_out = (key for keys in layout.ignored.values() for key in keys)
    own = {key.removeprefix(layout.prefix) for key in layout.origin.values()}
    found = [
        key
        for key in left_out
        if _DENSE_TASK.fullmatch(key)
        and tensors[key].ndim == 4
        # Not in an average of the network itself, such as `ema_model.module.`.
        and not any(key[dot.end() :] in own for dot in re.finditer(r"\.", key))
    ]
    if not found:
        return ()
    return (
        f"the source looks like a network for segmentation or detection ({listed(found, 2)}): its "
        "backbone may have dilated convolutions, which no key shows and jtl's does not have",
    )


def _notes(layout: Layout) -> tuple[str, ...]:
    """What was understood of the keys, in sentences."""
    notes = []
    if layout.prefix:
        notes.append(f"the prefix '{layout.prefix}' was stripped from the keys")
    if layout.spelling:
        notes.append(f"the keys are read as {layout.spelling}")
    for reason, keys in layout.ignored.items():
        plural = "keys" if len(keys) != 1 else "key"
        notes.append(f"{len(keys)} {plural} ignored, {reason}: {listed(keys, 4)}")
    if keys := layout.ignored.get(OWN_HEAD):
        found = computed(keys)
        why = (
            f"the head's weight is computed from others ('{shown(found[0], 80)}'; {found[1]} makes "
            "it a plain one)"
            if found
            else "the head is not one dense layer on pooled features"
        )
        notes.append(f"{why}, so the backbone alone is taken; training makes a new head anyway")
    return tuple(notes)


def identify(tensors: Mapping[str, np.ndarray]) -> tuple[Identity, str]:
    """Finds out what a source's tensors are, and says so: network, keys, classifier, and the rest.

    Args:
        tensors: As of `identified`, with anything around the network.

    Raises:
        UserError: They are of no backbone that jtl knows, or of several.
    """
    everything = fused(from_zero(tensors))
    layout = arrange(everything)
    found = identified(layout.tensors)
    model, table, share = found
    table, layout = without_own_head(table, model, layout, drop_head=False)
    if classes_of(table, layout.tensors) is None:
        layout = with_outer_classifier(table, model, layout, everything)
    own = OWN_HEAD in layout.ignored
    head = "a head that is not one dense layer" if own else "no classifier"
    if classes := classes_of(table, layout.tensors):
        key = table.classifier_key()
        name = layout.origin.get(key, key).removesuffix(key.removeprefix(table.classifier))
        outside = not name.startswith(layout.prefix)
        name = name.removeprefix(layout.prefix)
        head = f"classifier '{shown(name, 60)}' with {classes} classes"
        head += ", which is next to the network" if outside else ""
    told = f"{model} in {table.library} keys ({share:.0%} of its backbone's keys are there), {head}"
    told += f", under the prefix '{layout.prefix}'" if layout.prefix else ""
    told += f", {layout.spelling}" if layout.spelling else ""
    if layout.unexplained:
        told += (
            f"; next to the network there is more: {with_shapes(layout.unexplained, everything)}"
        )
    return found, told


def recognize(
    tensors: Mapping[str, np.ndarray],
    model: str | None = None,
    *,
    drop_head: bool = False,
    strip_prefix: str | None = None,
    ignore_keys: str | None = None,
) -> tuple[str, Table, Layout]:
    """The model, its library's names, and its tensors under these; see `convert`."""
    layout = arrange(tensors, model, strip_prefix=strip_prefix, ignore_keys=ignore_keys)
    if model is None:
        model, table, _ = identified(layout.tensors)
    else:
        table = with_classifier(detect(layout.tensors, models.get(model)), layout.tensors, model)
    table, layout = without_own_head(table, model, layout, drop_head=drop_head)
    if not drop_head and classes_of(table, layout.tensors) is None:
        layout = with_outer_classifier(table, model, layout, tensors)
    return model, table, layout


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
