"""What each phase of a run trains, at which rates, and from which cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from jtl.common.errors import UserError
from jtl.common.trees import ParamTree, leaf_paths, lookup, prune, within
from jtl.config.training import BatchNormMode
from jtl.freeze import FROZEN, Cut, find_cut, parse
from jtl.freeze.cut import trainable
from jtl.freeze.param_groups import assign
from jtl.freeze.phases import Phase
from jtl.models import Unit
from jtl.optim.recipe import Recipe

_LOGITS = ("head", "logits", "kernel")


@dataclasses.dataclass(frozen=True)
class PhasePlan:
    """One phase, worked out for one model.

    Attributes:
        phase: Epochs, mask and learning rate, and a rules file's content.
        recipe: Its hyper-parameters.
        first_epoch: Of the phase, 1-based, counted through all phases.
        labels: Label tree; see `plan_phases` for the labels' form.
        learning_rates: The highest rate of every label but `frozen`.
        cut: The cut, and the modes of the units.
    """

    phase: Phase
    recipe: Recipe
    first_epoch: int
    labels: ParamTree
    learning_rates: dict[str, float]
    cut: Cut

    @property
    def last_epoch(self) -> int:
        """The phase's last epoch, counted through all phases."""
        return self.first_epoch + self.phase.epochs - 1

    def trainable_params(self, variables: ParamTree) -> ParamTree:
        """The sub-tree of the params that train."""
        return prune(variables["params"], trainable(self.labels))

    def live_batch_stats(self, variables: ParamTree) -> ParamTree:
        """The running statistics of the units that use those of the batch."""
        return prune(variables.get("batch_stats", {}), within(self.cut.stats_units))

    def frozen(self, variables: ParamTree) -> ParamTree:
        """{"params", "batch_stats"}: every leaf that the phase leaves alone."""
        trains, live = trainable(self.labels), within(self.cut.stats_units)
        return {
            "params": prune(variables["params"], lambda leaf: not trains(leaf)),
            "batch_stats": prune(variables.get("batch_stats", {}), lambda leaf: not live(leaf)),
        }


def plan_phases(
    phases: Sequence[tuple[Phase, Recipe]],
    params: ParamTree,
    units: Sequence[Unit],
    *,
    bn: BatchNormMode,
    translate: Callable[[str], str],
    extended: int = 0,
) -> tuple[PhasePlan, ...]:
    """Works out every phase before the first one starts, so that mistakes show at once.

    With several phases a label is `GROUP@K`: its leaves have trained without a break since
    phase K (0-based). Leaves that start later form a group of their own, whose optimizer
    counts its own steps: Adam's bias correction would be wrong for a fresh leaf that joined
    an old count.

    Args:
        phases: Every phase with its hyper-parameters.
        params: The model's params or their shapes.
        units: The model's chain.
        bn: Which units use batch statistics.
        translate: From another library's layer names to paths.
        extended: How many of the last phases were added to go on with the one before them. They
            train the same leaves, so that labels, and with them checkpoints, stay as they were.

    Raises:
        UserError: A mask does not fit the model, or freezes a head that never trained.
    """
    plans: list[PhasePlan] = []
    since: dict[tuple[str, ...], int] = {}
    first_epoch = 1
    taught = _LOGITS not in leaf_paths(params)  # A bare backbone has no head to teach.
    for index, (phase, recipe) in enumerate(phases):
        mask = parse(phase.mask, units, translate)
        phase = dataclasses.replace(phase, rules=mask.text)
        labels, learning_rates = assign(mask, params, units, recipe.rates)
        taught = taught or lookup(labels, _LOGITS) != FROZEN
        if not taught:
            raise UserError(
                f"mask '{phase.mask}' freezes the last kernel of the new head "
                f"({'/'.join(_LOGITS)}). It starts at zero, so nothing could be learned. Train "
                "the head now or in an earlier phase: rules:head=train;..."
            )
        if len(phases) - extended > 1:
            paths = leaf_paths(labels)
            still = {path for path in paths if lookup(labels, path) != FROZEN}
            since = {path: since.get(path, index) for path in still}
            labels, learning_rates = _since(labels, learning_rates, since)
        cut = find_cut(labels, units, bn)
        plans.append(PhasePlan(phase, recipe, first_epoch, labels, learning_rates, cut))
        first_epoch += phase.epochs
    return tuple(plans)


def _since(
    labels: ParamTree, learning_rates: dict[str, float], since: dict[tuple[str, ...], int]
) -> tuple[ParamTree, dict[str, float]]:
    """The label tree with the phase in which a leaf began to train in every label."""
    rates: dict[str, float] = {}

    def walk(tree: ParamTree, path: tuple[str, ...]) -> ParamTree:
        marked: ParamTree = {}
        for key, value in tree.items():
            here = (*path, key)
            if isinstance(value, dict):
                marked[key] = walk(value, here)
            elif value == FROZEN:
                marked[key] = FROZEN
            else:
                marked[key] = f"{value}@{since[here]}"
                rates[marked[key]] = learning_rates[value]
        return marked

    return walk(labels, ()), rates


def first_phase(label: str) -> int:
    """The phase since which a label's leaves have trained; 0 in a run of one phase."""
    _, at, index = label.rpartition("@")
    return int(index) if at else 0
