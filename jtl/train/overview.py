"""What is about to be trained: in two lines, and group by group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jtl.common.text import counted
from jtl.common.trees import has_path, leaf_paths, lookup
from jtl.freeze import FROZEN
from jtl.freeze.phase_plan import PhasePlan
from jtl.runs import console_text
from jtl.train.setup import Setup


def opening_lines(setup: Setup) -> Iterator[str]:
    """What is about to be trained: on which images, and how."""
    config, dataset, weights = setup.config, setup.dataset, setup.class_weights
    yield (
        f"Training {config.model.model} on {dataset.spec}: {len(dataset.train):,} training and "
        f"{len(dataset.val):,} validation images, "
        f"{counted(len(dataset.class_names), 'class', 'classes')}"
    )
    solved = config.train.solver == "lbfgs"
    phases = [
        f"mask {plan.phase.mask} "
        + ("(fitted by L-BFGS)" if solved else f"for {counted(plan.phase.epochs, 'epoch')}")
        for plan in setup.plans
    ]
    how = [", then ".join(phases), f"{setup.inputs.device.size} pixels"]
    how.append(f"weights {setup.source['name']}")
    if setup.inputs.augmentation is not None:
        how.append(f"augmentation: {config.augment.resolved().describe()}")
    if weights is not None:
        how.append(f"class weights {weights.min():.3g} to {weights.max():.3g}")
    yield "; ".join(how) + console_text.describe_devices(setup.sharding)


def groups_of(setup: Setup, plan: PhasePlan) -> list[dict[str, Any]]:
    """The leaves by label, params first by the label's order in the tree, frozen last."""
    groups: dict[str, dict[str, Any]] = {}
    params = setup.start["params"]
    units = [unit.path for unit in setup.model.units()]
    with_norm = {unit for unit in units if has_path(setup.variables.get("batch_stats", {}), unit)}
    for path in leaf_paths(params):
        label = lookup(plan.labels, path)
        unit = next(u for u in units if "/".join(path).startswith(u + "/"))
        row = groups.setdefault(
            label,
            {
                "label": label,
                "leaves": 0,
                "params": 0,
                "learning_rate": plan.learning_rates.get(label, 0.0),
                "bn": set(),
            },
        )
        row["leaves"] += 1
        row["params"] += int(lookup(params, path).size)
        if unit in with_norm:
            live = unit in plan.cut.stats_units
            row["bn"].add("batch statistics" if live else "running averages")
    for row in groups.values():
        row["bn"] = " and ".join(sorted(row["bn"])) or "none"
    return sorted(groups.values(), key=lambda row: row["label"] == FROZEN)
