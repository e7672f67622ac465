"""From a label tree to the cut: the frozen prefix that runs once, the suffix that trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from jtl.common.trees import ParamTree, subtree
from jtl.config.training import BatchNormMode
from jtl.freeze.masks import FROZEN
from jtl.models.chain import Unit


@dataclasses.dataclass(frozen=True)
class Split:
    """Where a chain of units is cut, and which of its units train.

    Attributes:
        cut: Path of the first unit that trains; the frozen prefix is all before it.
        prefix: Paths of the units before the cut.
        suffix: Paths of the units from the cut on.
        train_units: Paths of the units in train mode, with batch statistics (by default those
            with a trainable leaf); every other unit normalizes with running averages.
    """

    cut: str
    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    train_units: frozenset[str]


def split(labels: ParamTree, units: Sequence[Unit], bn: BatchNormMode = "auto") -> Split:
    """Finds the cut of a chain under a label tree.

    Args:
        labels: As `label_tree` gives it: at least one leaf is not frozen.
        units: The chain, in order.
        bn: Which units run in train mode; see `BatchNormMode`. A unit in train mode changes
            its statistics by the batch, so it cannot lie in the frozen prefix.
    """
    paths = [unit.path for unit in units]
    trains = {path for path in paths if _trains(subtree(labels, path))}
    modes = {"auto": trains, "frozen": trains & {"head"}, "train": set(paths)}
    index = min(paths.index(path) for path in trains | modes[bn])
    return Split(paths[index], tuple(paths[:index]), tuple(paths[index:]), frozenset(modes[bn]))


def _trains(labels: ParamTree | str) -> bool:
    if isinstance(labels, dict):
        return any(_trains(value) for value in labels.values())
    return labels != FROZEN


def trainable(labels: ParamTree) -> Callable[[str], bool]:
    """A predicate for `prune`: leaves that `labels` does not freeze."""
    return lambda leaf: subtree(labels, leaf) != FROZEN
