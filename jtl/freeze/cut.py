"""From a label tree to the cut: the frozen prefix that runs once, the suffix that trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from jtl.common.trees import FROZEN, ParamTree, subtree
from jtl.config.training import BatchNormMode
from jtl.freeze.batch_norm import units_with_batch_statistics
from jtl.models.chain import Unit


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where a chain of units is cut, and in which modes its units run.

    Attributes:
        unit: Path of the first unit that trains; the frozen prefix is all before it.
        prefix: Paths of the units before the cut.
        suffix: Paths of the units from the cut on.
        train_units: Paths of the units with a trainable leaf, which run in train mode: with
            dropout, and an auxiliary head with its loss.
        stats_units: Paths of the units that normalize with the batch's statistics; see
            `jtl.freeze.batch_norm`.
    """

    unit: str
    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    train_units: frozenset[str]
    stats_units: frozenset[str]

    @property
    def features_at(self) -> str | None:
        """Where a phase's features are taken: the cut; None without a frozen prefix."""
        return self.unit if self.prefix else None


def find_cut(labels: ParamTree, units: Sequence[Unit], bn: BatchNormMode = "batch") -> Cut:
    """Find the cut of a chain under a label tree.

    Args:
        labels: As `label_tree` gives it: at least one leaf is not frozen.
        units: The chain, in order.
        bn: Which units use batch statistics; see `BatchNormMode`. They change by the batch, so
            that such a unit cannot lie in the frozen prefix.
    """
    paths = [unit.path for unit in units]
    trains = frozenset(path for path in paths if _trains(subtree(labels, path)))
    stats = units_with_batch_statistics(paths, trains, bn)
    index = min(paths.index(path) for path in trains | stats)
    return Cut(paths[index], tuple(paths[:index]), tuple(paths[index:]), trains, stats)


def _trains(labels: ParamTree | str) -> bool:
    if isinstance(labels, dict):
        return any(_trains(value) for value in labels.values())
    return labels != FROZEN


def trainable(labels: ParamTree) -> Callable[[str], bool]:
    """A predicate for `prune`: leaves that `labels` does not freeze."""
    return lambda leaf: subtree(labels, leaf) != FROZEN
