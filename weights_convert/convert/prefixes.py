"""Where in a source a network is: what stands before its keys, how they are spelt, its copies."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from weights_convert.convert.counting import counted
from weights_convert.convert.rules import Modules, Table, key_of, module_name
from weights_convert.convert.spellings import (
    CLIP,
    TOWER,
    clip,
    clip_tower,
    facebook_convnext,
    keras_convnext,
    transformers_convnext,
    transformers_tower,
    transformers_vit,
)
from weights_convert.convert.tables import TABLES
from weights_convert.printable import listed, shown

# Below this share of a network's units, tensors are taken for something else.
MIN_MATCH = 0.5
# What the convolutions of a unit may be called in jtl.
_CONVOLUTIONS = ("conv", "conv1", "conv2", "conv_dw", "conv_pw", "squeeze", "qkv")
_CONVOLUTIONS += ("layer1/conv", "squeeze/conv")
_CONVOLUTIONS += ("conv_exp", "branch1x1/conv", "branch3x3/conv", "branch3x3_1/conv")
# A network has at least this share of its file's keys; of MoCo's two, each has half.
_MIN_SHARE = 0.2
_MAX_PREFIXES = 8
# Copies that follow the network that is trained: MoCo's keys, moving averages, BYOL's target.
COPIES = re.compile(
    r"(?i)(.*[._])?(encoder_k|key_encoder|momentum_\w+|\w*ema|target_\w+|"
    r"\w+_(momentum|target))[._].*"
)

_SEQUENTIAL = re.compile(r"([0-7])\.(.*)")
_SEQUENTIAL_RESNET = {"0": "conv1", "1": "bn1", **{str(3 + n): f"layer{n}" for n in range(1, 5)}}


def _sequential_resnet(key: str) -> str | None:
    """The key of `nn.Sequential(*resnet.children())` as the ResNet's own; None for a head's."""
    match = _SEQUENTIAL.fullmatch(key)
    name = match and _SEQUENTIAL_RESNET.get(match[1])
    return f"{name}.{match[2]}" if match and name else None


_NUMBERED_BLOCK = re.compile(r"features\.(\d+)\.conv\.(\d)\.(\w+)")
_SEPARABLE = {"0": "0.0", "1": "0.1", "3": "1", "4": "2"}
_INVERTED = {"0": "0.0", "1": "0.1", "3": "1.0", "4": "1.1", "6": "2", "7": "3"}


def _numbered_mobilenet(key: str) -> str | None:
    """The key of a MobileNetV2 whose blocks number all layers; of others the key itself.

    As of torchvision 0.2 and tonylins's repository; of d-li14's the last convolution is `conv`.
    """
    if match := _NUMBERED_BLOCK.fullmatch(key):
        block, layer, leaf = match.groups()
        name = (_SEPARABLE if block == "1" else _INVERTED).get(layer)
        return f"features.{block}.conv.{name}.{leaf}" if name else None
    key = re.sub(r"^conv\.([01])\.", r"features.18.\1.", key)
    return re.sub(r"^classifier\.(weight|bias)$", r"classifier.1.\1", key)


def _inside(container: str) -> Callable[[str], str | None]:
    return lambda key: f"{container}.{key}"


Spelling = tuple[str, Callable[[str], str | None]]
"""(what a source has done to a network, from its keys to the library's)."""

AS_IS: Spelling = ("", lambda key: key)


def _spellings(family: str) -> tuple[Spelling, ...]:
    """The ways in which sources spell a family's keys, the library's own first."""
    if family == "resnet":
        return (
            AS_IS,
            ("the layers of a Sequential, as in fastai", _sequential_resnet),
            ("the bare network of transformers", _inside("resnet")),
        )
    if family == "mobilenet":
        return (
            AS_IS,
            ("those of torchvision 0.2, which number all layers of a block", _numbered_mobilenet),
            ("the layers inside `features`, as in fastai", _inside("features")),
        )
    if family == "convnext":
        return (
            AS_IS,
            ("those of Facebook's repositories", facebook_convnext),
            ("those of transformers", transformers_convnext),
            ("those of a model inside another one, as in Keras's .h5 files", keras_convnext),
        )
    if family == "vit":
        return (
            AS_IS,
            ("those of transformers", transformers_vit),
            (CLIP, clip),
            (CLIP, clip_tower),
            (TOWER, transformers_tower),
        )
    if _has_features(family):
        return (AS_IS, ("the layers inside `features`, as in fastai", _inside("features")))
    return (AS_IS,)


@functools.cache
def _has_features(family: str) -> bool:
    """Whether a library has the family's convolutions inside a module `features`."""
    name = next(n for n in models.names() if models.get(n).family == family)
    tables = [table for table in TABLES if table.family == family]
    units = [_kernels(table, models.get(name).backbone)[0] for table in tables]
    return any(key.startswith("features.") for names in units for key in names)


class Place(NamedTuple):
    """Where a network is.

    Attributes:
        prefix: What stands before its keys; empty also where no network was found.
        spelling: How its keys are spelt.
        copies: What stands before the keys of its copies, or these keys themselves.
        notes: Sentences that the user should read.
    """

    prefix: str
    spelling: Spelling = AS_IS
    copies: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def below(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The tensors whose keys begin with a prefix, without it."""
    return {
        key[len(prefix) :]: array
        for key, array in tensors.items()
        if key.startswith(prefix) and key != prefix
    }


def find(tensors: Mapping[str, np.ndarray], model: str | None) -> Place:
    """Finds the network in a source.

    Args:
        tensors: Source arrays by key.
        model: A name of `jtl.models.names()`; None for any of them.

    Raises:
        UserError: There are several, of which none is a copy of another.
    """
    share, spelling = best_spelling(tensors, model)
    if share >= MIN_MATCH:
        return _of_two(tensors, model) or Place("", spelling)
    found: dict[str, Spelling] = {}
    for prefix in _prefixes(tensors, model):
        share, spelling = best_spelling(below(tensors, prefix), model)
        if share >= MIN_MATCH:
            found[prefix] = spelling
    if not found:
        return Place("")
    # A part of the network, such as its `features`, is no network of its own.
    whole = [p for p in found if not any(p.startswith(o) and p != o for o in found)]
    trained = [prefix for prefix in whole if not COPIES.fullmatch(prefix)] or whole
    equal: tuple[str, ...] = ()
    if len(trained) > 1:
        trained, equal = _without_equals({p: below(tensors, p) for p in trained})
    if len(trained) > 1:
        names = ", ".join(f"'{shown(prefix, 60)}'" for prefix in trained)
        raise UserError(
            f"the keys are those of several networks, under {names}. Choose one with "
            "--strip-prefix PREFIX."
        )
    prefix = trained[0]
    copies = tuple(other for other in whole if other != prefix and other not in equal)
    notes = []
    if equal:
        notes.append(
            f"the weights are those under '{prefix}'; those under {listed(equal)} are equal"
        )
    if copies:
        notes.append(
            f"the weights are those under '{prefix}'; a copy of the network is under "
            f"{listed(copies)} (take it with --strip-prefix)"
        )
    return Place(prefix, found[prefix], (*equal, *copies), tuple(notes))


def _without_equals(
    networks: Mapping[str, Mapping[str, np.ndarray]],
) -> tuple[list[str], tuple[str, ...]]:
    """Networks by their prefixes, without those that others hold; and the prefixes of these."""
    kept: list[str] = []
    equal: list[str] = []
    # The largest first: one of two may have a classifier.
    for prefix in sorted(networks, key=lambda prefix: -len(networks[prefix])):
        same = any(_holds(networks[other], networks[prefix]) for other in kept)
        (equal if same else kept).append(prefix)
    return kept, tuple(equal)


def _holds(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    """Whether a network has all tensors of another, with the same values; counters may differ."""
    weights = {key: array for key, array in other.items() if array.dtype.kind not in "iub"}
    return all(
        key in one and one[key].dtype == array.dtype and np.array_equal(one[key], array)
        for key, array in weights.items()
    )


def _of_two(tensors: Mapping[str, np.ndarray], model: str | None) -> Place | None:
    """The network that has a prefix where one without holds no other weights; None for only one.

    Raises:
        UserError: The two differ.
    """
    for prefix in _prefixes(tensors, model):
        plain = {key: array for key, array in tensors.items() if not key.startswith(prefix)}
        inner = below(tensors, prefix)
        if all(best_spelling(part, model)[0] >= MIN_MATCH for part in (plain, inner)):
            shown_prefix = shown(prefix, 60)
            if _holds(inner, plain):
                note = f"the weights are those under '{shown_prefix}'; those without it are equal"
                return Place(prefix, best_spelling(inner, model)[1], tuple(plain), (note,))
            raise UserError(
                f"the keys are those of two networks, one under '{shown_prefix}' and one without a "
                f"prefix. Choose the first with --strip-prefix {shown_prefix} or the second with "
                f"--ignore-keys '{re.escape(shown_prefix)}.*'."
            )
    return None


def _prefixes(tensors: Mapping[str, np.ndarray], model: str | None) -> list[str]:
    """What stands before keys that may be a network's first convolution, the commonest first."""
    found: dict[str, int] = {}
    families = {models.get(model).family} if model else {table.family for table in TABLES}
    for key in tensors:
        for anchor in _anchors():
            family, name = anchor
            if family in families and key.endswith(name) and key != name:
                prefix = key.removesuffix(name)
                if prefix[-1] in "./":
                    found.setdefault(prefix, 0)
    for prefix in found:
        found[prefix] = sum(key.startswith(prefix) for key in tensors)
    likely = [p for p, count in found.items() if count >= _MIN_SHARE * len(tensors)]
    return sorted(likely, key=lambda prefix: -found[prefix])[:_MAX_PREFIXES]


@functools.cache
def _anchors() -> frozenset[tuple[str, str]]:
    """(family, key of the first convolution) in every library and spelling."""
    anchors = set()
    for table in TABLES:
        name = next(n for n in models.names() if models.get(n).family == table.family)
        backbone = models.get(name).backbone
        first = backbone.units()[0].path
        leaf = table.leaves.separator + table.leaves.names["params", "kernel"]
        for convolution in _CONVOLUTIONS:
            try:
                module = table.module_name(f"{first}/{convolution}", backbone)
            except LookupError:
                continue
            for spelled in (module, module.removeprefix("features."), "0"):
                anchors.add((table.family, spelled.removeprefix("resnet.") + leaf))
    anchors.add(("vit", "conv1.weight"))  # CLIP's.
    anchors.add(("vit", "embeddings.patch_embedding.weight"))  # The same in transformers.
    return frozenset(anchors)


def best_spelling(tensors: Mapping[str, np.ndarray], model: str | None) -> tuple[float, Spelling]:
    """How well a library's names fit, and how the source spells them."""
    best: tuple[float, Spelling] = (0.0, AS_IS)
    if not tensors:
        return best
    as_is = model or counted(tensors)
    families = dict.fromkeys([models.get(model).family] if model else [t.family for t in TABLES])
    for family in families:
        for spelling in _spellings(family):
            likely, spelled = as_is, tensors
            if spelling is not AS_IS:
                names = ((spelling[1](key), array) for key, array in tensors.items())
                spelled = {name: array for name, array in names if name is not None}
                likely = model or counted(spelled)
            share = _best_match(spelled, likely, family)
            if share > best[0]:
                best = (share, spelling)
            if share == 1.0:
                return best
    return best


def _best_match(tensors: Mapping[str, np.ndarray], likely: str | None, family: str) -> float:
    names = [likely] if likely else list(models.names())
    entries = [models.get(name) for name in names if models.get(name).family == family]
    tables = [table for table in TABLES if table.family == family]
    # Reading a few keys first: most tables have none of them.
    return max(
        (quick_match(tensors, table, entry) for entry in entries for table in tables), default=0.0
    )


def quick_match(tensors: Mapping[str, Any], table: Table, entry: models.ModelEntry) -> float:
    """The share of units that have a convolution in `tensors`, known without tracing the model."""
    units = _kernels(table, entry.backbone)
    return sum(any(key in tensors for key in keys) for keys in units) / len(units)


def _kernels(table: Table, backbone: Any) -> tuple[tuple[str, ...], ...]:
    leaves = table.leaves
    return _kernels_of(table.modules, leaves.separator, leaves.names["params", "kernel"], backbone)


@functools.lru_cache(maxsize=1024)  # More than there are pairs of table and model.
def _kernels_of(
    modules: Modules, separator: str, leaf: str, backbone: Any
) -> tuple[tuple[str, ...], ...]:
    """For each unit, what a library may call the kernels of its convolutions."""
    keys = []
    for unit in backbone.units():
        each = []
        for convolution in _CONVOLUTIONS:
            with contextlib.suppress(LookupError):
                module = module_name(modules, backbone, f"{unit.path}/{convolution}")
                each.append(key_of(module, separator, leaf))
        keys.append(tuple(each))
    return tuple(keys)
