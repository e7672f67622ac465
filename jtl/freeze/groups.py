"""Learning-rate groups: which optimizer label a leaf gets, and that label's rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from jtl.freeze.masks import FROZEN, Mask, label_tree
from jtl.models.chain import Unit


@dataclasses.dataclass(frozen=True)
class Rates:
    """How learning rates differ between leaves.

    Attributes:
        lr: The run's learning rate, at its highest.
        head_lr_mult: The head's multiple of it.
        layer_decay: Every unit's multiple of the next one's rate, towards the input (BEiT,
            arXiv 2106.08254, as timm does it: the head keeps the whole rate); 1 for none.
    """

    lr: float
    head_lr_mult: float = 1.0
    layer_decay: float = 1.0


def assign(
    mask: Mask, params: dict[str, Any], units: Sequence[Unit], rates: Rates
) -> tuple[dict[str, Any], dict[str, float]]:
    """Labels every leaf and gives every label its learning rate.

    Args:
        mask: Which leaves train; its rules may set rates of their own.
        params: Nested dicts with arrays or their shapes as leaves.
        units: The model's chain, for the depth of a leaf.
        rates: See `Rates`.

    Returns:
        (label tree, {label: highest learning rate} for every label but `frozen`). With layer
        decay, labels carry the unit they belong to.

    Raises:
        UserError: As `label_tree`.
    """
    labels = label_tree(mask, params)
    by_label = {rule.label: rule for rule in mask.rules}
    depths = [unit.path for unit in units if _has_params(params, unit.path)]
    learning_rates: dict[str, float] = {}

    def refine(tree: dict[str, Any], path: str) -> dict[str, Any]:
        return {
            key: refine(value, f"{path}{key}/")
            if isinstance(value, dict)
            else group(value, f"{path}{key}")
            for key, value in tree.items()
        }

    def group(label: str, leaf: str) -> str:
        if label == FROZEN:
            return FROZEN
        rule = by_label[label]
        rate = rates.lr * rule.lr_mult if rule.lr is None else rule.lr
        if leaf.startswith("head/") and rule.lr is None:
            rate *= rates.head_lr_mult
        if rates.layer_decay != 1.0 and rule.lr is None:
            unit = next(path for path in depths if leaf.startswith(path + "/"))
            rate *= rates.layer_decay ** (len(depths) - 1 - depths.index(unit))
            label = label if unit == "head" else f"{label} {unit}"
        learning_rates[label] = rate
        return label

    return refine(labels, ""), learning_rates


def _has_params(params: dict[str, Any], path: str) -> bool:
    node: Any = params
    for key in path.split("/"):
        if key not in node:
            return False
        node = node[key]
    return True
