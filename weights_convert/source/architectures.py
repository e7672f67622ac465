"""Which network a library means by a name, such as timm's `tf_efficientnet_lite0`.

Keys and shapes do not tell everything: timm's `resnetblur50` has those of `resnet50`, and each
Lite is there twice, as TensorFlow's port (`tf_`) and with PyTorch's own padding and epsilon. So
a name that a source states counts, and one that jtl does not know is not taken for another.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jtl import models
from jtl.common.errors import UserError, suggest
from weights_convert.convert.tables import TABLES, has, published
from weights_convert.printable import shown

# timm's names before it had tags, which its older files state.
_OLD_NAMES = (r"(?:tv|ssl|swsl|ig)_(\w+)", r"gluon_(\w+?)(?:_v1b)?")

OVERRULE = "overrule it with --architecture of `jtl weights`"


class Architecture(NamedTuple):
    """A network that jtl has.

    Attributes:
        name: As its library names it.
        model: The backbone.
        conventions: Fields of the backbone's configuration that keys do not show.
        preprocessing: What its weights expect of an image, unless a source states its own; None
            for the model's.
    """

    name: str
    model: str
    conventions: dict[str, Any]
    preprocessing: models.Preprocessing | None = None


class Declared(NamedTuple):
    """An architecture's name, and who says it, in words that begin a sentence."""

    name: str
    by: str


@functools.cache
def _known() -> dict[str, Architecture]:
    """The architectures by name."""
    known: dict[str, Architecture] = {}
    for model in models.names():
        found = published(model)
        known[model] = Architecture(model, model, {})
        for name, network in found.timm.items():
            known[name] = Architecture(
                name, model, dict(network.conventions), network.preprocessing
            )
        if found.torchvision and (name := found.torchvision.model):
            known[name] = Architecture(name, model, {})
        if found.keras:
            known[found.keras] = Architecture(found.keras, model, {})
    return known


def find(name: str) -> Architecture | None:
    """The architecture that a library calls `name`; None if jtl does not have it."""
    plain = name
    for pattern in _OLD_NAMES:
        if match := re.fullmatch(pattern, name):
            plain = match[1]
    return _known().get(plain)


def require(declared: Declared, source: str) -> Architecture:
    """The architecture of a name that somebody declared.

    Args:
        declared: The name and who says it.
        source: What the user calls the weights.

    Raises:
        UserError: jtl does not have it.
    """
    found = find(declared.name)
    if found is None:
        name = shown(declared.name, 60)
        raise UserError(
            f"{declared.by} says that '{source}' holds weights of {name}, which jtl does not "
            f"support.{suggest(name, _known())} Reading them as another network would give wrong "
            f"results. `jtl weights list` shows what jtl supports. If the name is wrong, correct "
            f"it, or {OVERRULE}."
        )
    return found


def check_model(
    declared: Declared, source: str, model: str | None, seen: str | None
) -> Architecture:
    """The declared architecture, if it is that of the model asked for and of the tensors.

    Args:
        declared: The name and who says it.
        source: What the user calls the weights.
        model: The backbone that the user asks for, if any.
        seen: The backbone that the tensors are of, where they tell.

    Raises:
        UserError: They disagree; the message names all of them.
    """
    found = require(declared, source)
    asked = model is not None and model != found.model
    if not asked and seen in (None, found.model):
        return found
    parts = [f"{declared.by} says that '{source}' holds weights of {found.name}"]
    parts += [f"but the model is {model}"] if asked else []
    parts += [f"{'and' if asked else 'but'} its tensors are those of {seen}"] if seen else []
    if seen == found.model:
        advice = f"Try --model {seen}"
    elif seen and model in (None, seen):
        advice = f"If {seen} is right, correct or remove what says {found.name}, or {OVERRULE}"
    elif seen:
        advice = f"If the tensors are right, try --model {seen} --architecture {seen}"
    else:
        advice = f"Try --model {found.model}"
    raise UserError(
        f"{', '.join(parts)}. {advice}; or take other weights: "
        f"{models.get(model or found.model).default_weights}."
    )


def of_same_keys(
    model: str, library: str, shown: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Mapping[str, Any]]:
    """Timm's networks of a model where keys of `library` leave open which of them it is.

    Args:
        model: The backbone.
        library: Whose keys there are.
        shown: Fields of the backbone's configuration that the tensors show.

    Returns:
        What each has of its own, by name; the first is the one that keys are taken for. Empty where
        there is one, or another library's names say which.
    """
    known = published(model).timm
    if library != "timm" or len(known) < 2:
        return {}
    found = {
        name: network.conventions
        for name, network in known.items()
        if all(getattr(backbone(model, network.conventions), k) == v for k, v in shown.items())
    }
    return found if len(found) > 1 else {}


def guess(model: str, library: str, shown: Mapping[str, Any]) -> str | None:
    """A sentence where keys alone leave the architecture open; None where they do not."""
    if not (networks := of_same_keys(model, library, shown)):
        return None
    taken, other = networks
    mine, others = (convention(_known()[name]) for name in networks)
    return (
        f"a guess: nothing states whether these are weights of timm's {taken} or {other}, which "
        f"have the same keys. They are taken for {taken} ({mine}); if they are not, convert them "
        f"with --architecture {other} ({others})"
    )


def backbone(model: str, own: Mapping[str, Any]) -> Any:
    """The configuration of a network of timm that has `own` fields."""
    table = next(t for t in TABLES if has(t, model) and t.library == "timm")
    plain: Any = models.get(model).backbone
    return dataclasses.replace(plain, **{**table.conventions, **own})


def convention(network: Architecture) -> str:
    """What tells a network of timm from the other of the same keys, in words."""
    built = backbone(network.model, network.conventions)
    if not hasattr(built, "padding"):
        usual = network.preprocessing or models.get(network.model).preprocessing
        return f"images normalized by the mean {', '.join(f'{x:g}' for x in usual.mean)}"
    padding = "padding SAME" if built.padding == "SAME" else "symmetric padding"
    return f"{padding}, epsilon {built.norm.epsilon:g}"
