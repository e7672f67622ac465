"""Tensors beside a network under a prefix: a classifier, or layers that jtl's network lacks."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np

from jtl.common.errors import UserError
from weights_convert.convert.heads import pooled_features
from weights_convert.convert.layout import PROJECTION, Layout
from weights_convert.convert.leaf_names import TORCH
from weights_convert.convert.rules import Table
from weights_convert.printable import listed, shown

# A pattern of more names than these is nothing to copy.
_MOST_MODULES = 4


def refuse_unexplained(layout: Layout, tensors: Mapping[str, np.ndarray]) -> None:
    """Refuses a classifier whose inputs or outputs other layers may change.

    Args:
        layout: The network's tensors, a classifier among them.
        tensors: All tensors of the source.

    Raises:
        UserError: There are tensors of no known purpose beside the network.
    """
    keys = layout.unexplained
    if not keys:
        return
    some = with_shapes(keys, tensors)
    raise UserError(
        f"next to the network under '{shown(layout.prefix, 60)}' there is more: {some}. If it is "
        "part of the forward pass, the classifier would give other results without it. If it is "
        f"not, add --ignore-keys '{_pattern(keys, layout.origin.values())}'; --drop-head of "
        "`jtl weights` converts the backbone alone."
    )


def with_shapes(keys: Iterable[str], tensors: Mapping[str, np.ndarray]) -> str:
    """Some keys with the shapes of their tensors."""
    return listed([f"{shown(key, 60)} {tensors[key].shape}" for key in keys], 4)


def _pattern(keys: tuple[str, ...], network: Iterable[str]) -> str:
    """A regular expression that matches `keys`, and no key of the network."""
    kept = tuple(network)
    starts: dict[str, None] = {}
    for key in keys:
        places = [place.end() for place in re.finditer(r"\.", key)]
        modules = (key[:end] for end in places)
        start = next((m for m in modules if not any(k.startswith(m) for k in kept)), None)
        starts[re.escape(key) if start is None else f"{re.escape(start)}.*"] = None
    return "|".join(starts) if len(starts) <= _MOST_MODULES else "REGEX"


def with_outer_classifier(
    table: Table, model: str, layout: Layout, tensors: Mapping[str, np.ndarray]
) -> Layout:
    """The network with the one dense layer beside it as its classifier, if there is such a layer.

    Args:
        table: The source's names.
        model: The backbone's name.
        layout: The network's tensors, without a classifier.
        tensors: All tensors of the source.
    """
    matrices = [key for key in layout.unexplained if tensors[key].ndim == 2]
    if table.leaves is not TORCH or table.layout_of("head/logits") or len(matrices) != 1:
        return layout
    module = matrices[0].removesuffix("weight")
    names = {
        module + "weight": table.classifier_key(),
        module + "bias": table.classifier_key("bias"),
    }
    if set(names) != set(layout.unexplained) or PROJECTION.fullmatch(module):
        return layout
    bias = tensors[module + "bias"]
    if tensors[matrices[0]].shape != (*bias.shape, pooled_features(table, model)):
        return layout
    ignored = {
        reason: left
        for reason, keys in layout.ignored.items()
        if (left := tuple(key for key in keys if key not in names))
    }
    note = f"the one dense layer next to the network, '{module[:-1]}', is read as its classifier"
    return dataclasses.replace(
        layout,
        tensors=layout.tensors | {name: tensors[key] for key, name in names.items()},
        origin=layout.origin | {name: key for key, name in names.items()},
        ignored=ignored,
        notes=(*layout.notes, note),
        unexplained=(),
    )
