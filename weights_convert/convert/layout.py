"""What stands around a network's tensors: prefixes, containers, other networks, a loss's tensors.

Programs wrap the network they train, and every key gets their prefix: `backbone.conv1.weight`,
`encoder_q.layer1.0.conv1.weight` (MoCo), `0.4.0.conv1.weight` (fastai, which puts the layers of a
ResNet into a `Sequential`). Here the keys become those of the network's own library; what lies
outside the network is named with the reason why it is ignored.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from jtl.common.errors import UserError
from weights_convert.convert.prefixes import COPIES, Place, below, best_spelling, find
from weights_convert.convert.spellings import CLIP
from weights_convert.printable import listed, shown

# Tensors of training programs that belong to no network: losses, metrics, MoCo's queue.
_TRAINING = re.compile(
    r"(?i)(\w*criterion\w*|(\w+_)?loss(_\w+)?|\w*metrics?|(train|val|valid|test)_(acc\w*|auroc|f1)|"
    r"confmat|queue(_ptr)?|center|(class|pos|label)_weights?)([./].*)?"
)
_OLD_LEAVES = {"gamma": "weight", "beta": "bias"}
# Statistics of augmented images, which timm's `split_bn` and AdvProp use in training alone.
_AUXILIARY = re.compile(r"(.*\.)?aux_bn\.(\d+\.)?\w+")
# Heads of self-supervised training, which compare the network with its copy.
PROJECTION = re.compile(r"(?i)(.*[._])?(proj\w*|predict(or|ion\w*))[._].*")


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
    if strip_prefix is not None:
        prefix = strip_prefix
        if not any(key.startswith(prefix) and key != prefix for key in kept):
            raise UserError(
                f"no key begins with --strip-prefix '{shown(prefix, 60)}'. Keys begin with: "
                f"{listed(_beginnings(kept))}."
            )
        place = Place(prefix, best_spelling(below(kept, prefix), model)[1])
    else:
        place = find(kept, model)
    prefix, spelling, copies, notes = place
    network: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    outside, training, auxiliary = [], [], []
    for key, array in kept.items():
        name = spelling[1](key[len(prefix) :]) if key.startswith(prefix) else None
        if name is None:
            (training if _TRAINING.fullmatch(key) else outside).append(key)
        elif _TRAINING.fullmatch(key.removeprefix(prefix)):
            training.append(key)
        elif _AUXILIARY.fullmatch(name):
            auxiliary.append(key)
        else:
            network[name], origin[name] = array, key
    if auxiliary:
        ignored["of normalizations for augmented images in training (split_bn)"] = tuple(auxiliary)
    if training:
        ignored["of the training, not of the network"] = tuple(training)
    if outside:
        where = "outside of its vision transformer" if spelling[0] == CLIP else "of its head"
        ignored[f"outside of the prefix '{prefix}'" if prefix else where] = tuple(outside)
    # Whoever names the prefix says that nothing else counts.
    unexplained = () if strip_prefix is not None else _unexplained(kept, outside, copies)
    found = Layout(network, origin, prefix, spelling[0], ignored, notes, unexplained)
    return _with_torch_leaves(found)


def _with_torch_leaves(layout: Layout) -> Layout:
    """The network with `weight` and `bias` of normalizations where they are `gamma` and `beta`."""
    names = {}
    for key in layout.tensors:
        module, _, leaf = key.rpartition(".")
        if leaf in _OLD_LEAVES and f"{module}.running_mean" in layout.tensors:
            names[key] = f"{module}.{_OLD_LEAVES[leaf]}"
    if not names or any(name in layout.tensors for name in names.values()):
        return layout
    note = "gamma and beta of the normalizations are read as their weight and bias"
    return dataclasses.replace(layout.renamed(names), notes=(*layout.notes, note))


def _unexplained(
    tensors: Mapping[str, np.ndarray], outside: Iterable[str], copies: Sequence[str]
) -> tuple[str, ...]:
    """Of the keys outside of the network, those that may be layers of its forward pass."""
    copied = [key for key in outside if key.startswith(tuple(copies)) or COPIES.fullmatch(key)]
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
