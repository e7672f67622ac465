"""What stands around a network's tensors: prefixes, containers, other networks, a loss's tensors.

Programs wrap the network they train, and every key gets their prefix: `backbone.conv1.weight`,
`encoder_q.layer1.0.conv1.weight` (MoCo), `0.4.0.conv1.weight` (fastai, which puts the layers of a
ResNet into a `Sequential`). Here the keys become those of the network's own library; what lies
outside the network is named with the reason why it is ignored.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from weights_convert.convert.counting import counted
from weights_convert.convert.rules import Table
from weights_convert.convert.tables import TABLES
from weights_convert.printable import listed, shown

# Below this share of a network's units, tensors are taken for something else.
MIN_MATCH = 0.5
# What the convolutions of a unit may be called in jtl.
_CONVOLUTIONS = ("conv", "conv1", "conv2", "conv_dw", "conv_pw", "squeeze")
_CONVOLUTIONS += ("branch1x1/conv", "branch3x3/conv", "branch3x3_1/conv")
# A network has at least this share of its file's keys; of MoCo's two, each has half.
_MIN_SHARE = 0.2
_MAX_PREFIXES = 8
# Tensors of training programs that belong to no network: losses, metrics, MoCo's queue.
_TRAINING = re.compile(
    r"(?i)(\w*criterion\w*|(\w+_)?loss(_\w+)?|\w*metrics?|(train|val|valid|test)_(acc\w*|auroc|f1)|"
    r"confmat|queue(_ptr)?|center|(class|pos|label)_weights?)([./].*)?"
)
# Copies that follow the network that is trained: MoCo's keys, moving averages, BYOL's target.
_COPIES = re.compile(r"(?i)(.*[._])?(encoder_k|key_encoder|momentum_\w+|\w*ema|target_\w+)[._].*")
# Heads of self-supervised training, which compare the network with its copy.
PROJECTION = re.compile(r"(?i)(.*[._])?(proj\w*|predict(or|ion\w*))[._].*")

_SEQUENTIAL = re.compile(r"([0-7])\.(.*)")
_SEQUENTIAL_RESNET = {"0": "conv1", "1": "bn1", **{str(3 + n): f"layer{n}" for n in range(1, 5)}}


def _sequential_resnet(key: str) -> str | None:
    """The key of `nn.Sequential(*resnet.children())` as the ResNet's own; None for a head's."""
    match = _SEQUENTIAL.fullmatch(key)
    name = match and _SEQUENTIAL_RESNET.get(match[1])
    return f"{name}.{match[2]}" if match and name else None


def _inside(container: str) -> Callable[[str], str | None]:
    return lambda key: f"{container}.{key}"


Spelling = tuple[str, Callable[[str], str | None]]
"""(what a source has done to a network, from its keys to the library's)."""

_AS_IS: Spelling = ("", lambda key: key)


def _spellings(family: str) -> tuple[Spelling, ...]:
    """The ways in which sources spell a family's keys, the library's own first."""
    if family == "resnet":
        return (
            _AS_IS,
            ("the layers of a Sequential, as in fastai", _sequential_resnet),
            ("the bare network of transformers", _inside("resnet")),
        )
    if family in ("densenet", "vgg", "alexnet", "squeezenet", "mobilenet"):
        return (_AS_IS, ("the layers inside `features`, as in fastai", _inside("features")))
    return (_AS_IS,)


@dataclasses.dataclass(frozen=True)
class Layout:
    """A network's tensors under its library's keys, and what was around them.

    Attributes:
        tensors: Source arrays by the library's key.
        origin: From these keys to the source's own.
        prefix: What stood before every key of the network.
        spelling: What else was done to the keys, in words; empty for nothing.
        ignored: Keys of the source that are left out, by the reason.
        notes: Sentences that the user should read.
        unexplained: Keys of the source outside of a prefix that was found, of no known purpose.
    """

    tensors: dict[str, np.ndarray]
    origin: dict[str, str]
    prefix: str = ""
    spelling: str = ""
    ignored: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unexplained: tuple[str, ...] = ()

    def without(self, keys: Iterable[str], reason: str) -> Layout:
        """The same without some tensors, by their library's keys."""
        gone = set(keys)
        if not gone:
            return self
        names = tuple(self.origin[key] for key in self.tensors if key in gone)
        kept = {key: array for key, array in self.tensors.items() if key not in gone}
        ignored = {**self.ignored, reason: names}
        return dataclasses.replace(self, tensors=kept, ignored=ignored)

    def renamed(self, names: Mapping[str, str]) -> Layout:
        """The same with other keys for some tensors."""
        tensors = {names.get(key, key): array for key, array in self.tensors.items()}
        origin = {names.get(key, key): source for key, source in self.origin.items()}
        return dataclasses.replace(self, tensors=tensors, origin=origin)


def arrange(
    tensors: Mapping[str, np.ndarray],
    model: str | None = None,
    *,
    strip_prefix: str | None = None,
    ignore_keys: str | None = None,
) -> Layout:
    """Finds the network among a source's tensors, and takes off what stands around it.

    Args:
        tensors: Source arrays by key.
        model: A name of `jtl.models.names()`; None for any of them.
        strip_prefix: What stands before the network's keys; None to find out.
        ignore_keys: A regular expression; keys that it matches as a whole are left out.

    Returns:
        The network's tensors; all tensors, untouched, where no network was recognized.

    Raises:
        UserError: An option matches no key, or several networks could be meant.
    """
    ignored: dict[str, tuple[str, ...]] = {}
    kept = dict(tensors)
    if ignore_keys is not None:
        chosen = _matching(ignore_keys, tensors)
        ignored["--ignore-keys"] = chosen
        kept = {key: array for key, array in tensors.items() if key not in chosen}
    notes: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    if strip_prefix is not None:
        prefix = strip_prefix
        if not any(key.startswith(prefix) and key != prefix for key in kept):
            raise UserError(
                f"no key begins with --strip-prefix '{shown(prefix, 60)}'. Keys begin with: "
                f"{listed(_beginnings(kept))}."
            )
        spelling = _best_spelling(_below(kept, prefix), model)[1]
    else:
        prefix, spelling, copies = _find(kept, model)
        if copies:
            notes = (
                f"the weights are those under '{prefix}'; a copy of the network is under "
                f"{listed(copies)} (take it with --strip-prefix)",
            )
    network: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    outside, training = [], []
    for key, array in kept.items():
        name = spelling[1](key[len(prefix) :]) if key.startswith(prefix) else None
        if name is None:
            (training if _TRAINING.fullmatch(key) else outside).append(key)
        elif _TRAINING.fullmatch(key.removeprefix(prefix)):
            training.append(key)
        else:
            network[name], origin[name] = array, key
    if training:
        ignored["of the training, not of the network"] = tuple(training)
    if outside:
        ignored[f"outside of the prefix '{prefix}'" if prefix else "of its head"] = tuple(outside)
    # Whoever names the prefix says that nothing else counts.
    unexplained = () if strip_prefix is not None else _unexplained(kept, outside, copies)
    return Layout(network, origin, prefix, spelling[0], ignored, notes, unexplained)


def _unexplained(
    tensors: Mapping[str, np.ndarray], outside: Iterable[str], copies: Sequence[str]
) -> tuple[str, ...]:
    """Of the keys outside of the network, those that may be layers of its forward pass."""
    copied = [key for key in outside if key.startswith(tuple(copies)) or _COPIES.fullmatch(key)]
    known = set(copied)
    if copied:
        known |= {key for key in outside if PROJECTION.fullmatch(key)}
    # Counters are integers; parameters of layers are not.
    return tuple(
        key for key in outside if key not in known and tensors[key].dtype.kind not in "iub"
    )


def _matching(pattern: str, keys: Iterable[str]) -> tuple[str, ...]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"--ignore-keys '{shown(pattern)}' is no regular expression: {error}."
        ) from None
    chosen = tuple(key for key in keys if compiled.fullmatch(key))
    if not chosen:
        raise UserError(
            f"--ignore-keys '{shown(pattern)}' matches no key as a whole. Keys are, for example: "
            f"{listed(sorted(keys), 6)}. To match their beginnings, end it with .*"
        )
    return chosen


def _beginnings(keys: Iterable[str]) -> list[str]:
    """The first parts of keys, with their separator."""
    found = (re.match(r"[^./]+[./]", key) for key in keys)
    return list(dict.fromkeys(match[0] for match in found if match))


def _below(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        key[len(prefix) :]: array
        for key, array in tensors.items()
        if key.startswith(prefix) and key != prefix
    }


def _find(
    tensors: Mapping[str, np.ndarray], model: str | None
) -> tuple[str, Spelling, tuple[str, ...]]:
    """The prefix, the spelling and the copies' prefixes; no prefix where no network is found."""
    share, spelling = _best_spelling(tensors, model)
    if share >= MIN_MATCH:
        _refuse_two(tensors, model)
        return "", spelling, ()
    found: dict[str, Spelling] = {}
    for prefix in _prefixes(tensors, model):
        share, spelling = _best_spelling(_below(tensors, prefix), model)
        if share >= MIN_MATCH:
            found[prefix] = spelling
    if not found:
        return "", _AS_IS, ()
    # A part of the network, such as its `features`, is no network of its own.
    whole = [p for p in found if not any(p.startswith(o) and p != o for o in found)]
    trained = [prefix for prefix in whole if not _COPIES.fullmatch(prefix)] or whole
    if len(trained) > 1:
        names = ", ".join(f"'{shown(prefix, 60)}'" for prefix in trained)
        raise UserError(
            f"the keys are those of several networks, under {names}. Choose one with "
            "--strip-prefix PREFIX."
        )
    prefix = trained[0]
    return prefix, found[prefix], tuple(other for other in whole if other != prefix)


def _refuse_two(tensors: Mapping[str, np.ndarray], model: str | None) -> None:
    """Refuses a network without a prefix beside another one that has a prefix."""
    for prefix in _prefixes(tensors, model):
        plain = {key: array for key, array in tensors.items() if not key.startswith(prefix)}
        both = (plain, _below(tensors, prefix))
        if all(_best_spelling(part, model)[0] >= MIN_MATCH for part in both):
            shown_prefix = shown(prefix, 60)
            raise UserError(
                f"the keys are those of two networks, one under '{shown_prefix}' and one without a "
                f"prefix. Choose the first with --strip-prefix {shown_prefix} or the second with "
                f"--ignore-keys '{re.escape(shown_prefix)}.*'."
            )


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
    return frozenset(anchors)


def _best_spelling(tensors: Mapping[str, np.ndarray], model: str | None) -> tuple[float, Spelling]:
    """How well a library's names fit, and how the source spells them."""
    best: tuple[float, Spelling] = (0.0, _AS_IS)
    if not tensors:
        return best
    families = dict.fromkeys([models.get(model).family] if model else [t.family for t in TABLES])
    for family in families:
        for spelling in _spellings(family):
            spelled = {n: a for key, a in tensors.items() if (n := spelling[1](key)) is not None}
            share = _best_match(spelled, model, family)
            if share > best[0]:
                best = (share, spelling)
            if share == 1.0:
                return best
    return best


def _best_match(tensors: Mapping[str, np.ndarray], model: str | None, family: str) -> float:
    likely = model or counted(tensors)
    names = [likely] if likely else list(models.names())
    entries = [models.get(name) for name in names if models.get(name).family == family]
    tables = [table for table in TABLES if table.family == family]
    # Reading a few keys first: most tables have none of them.
    return max(
        (quick_match(tensors, table, entry) for entry in entries for table in tables), default=0.0
    )


def quick_match(tensors: Mapping[str, Any], table: Table, entry: models.ModelEntry) -> float:
    """The share of units that have a convolution in `tensors`, known without tracing the model."""
    leaf = table.leaves.separator + table.leaves.names["params", "kernel"]

    def is_there(unit: str) -> bool:
        for convolution in _CONVOLUTIONS:
            try:
                name = table.module_name(f"{unit}/{convolution}", entry.backbone)
            except LookupError:
                continue
            if name + leaf in tensors:
                return True
        return False

    units = entry.backbone.units()
    return sum(is_there(unit.path) for unit in units) / len(units)
