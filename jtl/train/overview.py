"""What is about to be trained: in a line, and group by group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jtl.common.trees import ParamTree, leaf_paths, lookup
from jtl.freeze import FROZEN
from jtl.freeze.plan import PhasePlan
from jtl.runs import messages
from jtl.train.setup import Setup


def opening_line(setup: Setup) -> str:
    """What is about to be trained on what."""
    dataset, augmented = setup.dataset, setup.config.augment.resolved().describe()
    weights = setup.class_weights
    return (
        f"{setup.config.model.model} ({setup.source['name']}) on {dataset.spec}: "
        f"{len(dataset.train)} train, {len(dataset.val)} val images, "
        f"{len(dataset.class_names)} classes, {setup.inputs.device.size} px, "
        + ", then ".join(
            f"mask {plan.phase.mask}, cut at {plan.cut.unit}, "
            f"{messages.counted(plan.phase.epochs, 'epoch')}"
            for plan in setup.plans
        )
        + ("" if weights is None else f"; classes weigh {weights.min():.3g} to {weights.max():.3g}")
        + ("" if setup.inputs.augmentation is None else f"; augmentation: {augmented}")
        + messages.describe_devices(setup.sharding)
    )


def groups_of(setup: Setup, plan: PhasePlan) -> list[dict[str, Any]]:
    """The leaves by label, params first by the label's order in the tree, frozen last."""
    groups: dict[str, dict[str, Any]] = {}
    params = setup.variables["params"]
    units = [unit.path for unit in setup.model.units()]
    with_norm = {unit for unit in units if _inside(setup.variables.get("batch_stats", {}), unit)}
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


def _inside(tree: ParamTree, path: str) -> bool:
    for key in path.split("/"):
        if key not in tree:
            return False
        tree = tree[key]
    return True


def normalization_lines(setup: Setup) -> Iterator[str]:
    """How each group normalizes, a line for every phase whose groups differ from the last."""
    before = None
    for plan in setup.plans:
        rows = groups_of(setup, plan)
        told = "; ".join(f"{row['label']}: {row['bn']}" for row in rows if row["bn"] != "none")
        if told and told != before:
            yield f"batch normalization under {plan.phase.mask}, by group: {told}"
        before = told
