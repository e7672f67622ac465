"""Learning-rate groups: which optimizer label a leaf gets, and that label's rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jtl.common.trees import FROZEN, has_path
from jtl.freeze.masks import Mask, label_tree
from jtl.models.chain import Unit
from jtl.optim.recipe import Rates

HEAD = "head"
"""The head's unit, and the first word of the labels of its leaves."""


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
        (label tree, {label: highest learning rate} for every label but `frozen`). A label says
        what a leaf is (`head` in the head, never there `backbone`, whatever pattern matched
        it), what a rule of its own says, and with layer decay its unit.

    Raises:
        UserError: As `label_tree`.
    """
    labels = label_tree(mask, params)
    by_label = {rule.label: rule for rule in mask.rules}
    rated = {rule.label: (rule.lr, rule.lr_mult) for rule in mask.rules}
    assert all(rated[rule.label] == (rule.lr, rule.lr_mult) for rule in mask.rules)
    depths = [unit.path for unit in units if has_path(params, unit.path)]
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
        of_the_head = leaf.startswith(HEAD + "/")
        label = _renamed(label, of_the_head)
        if of_the_head and rule.lr is None:
            rate *= rates.head_lr_mult
        if rates.layer_decay != 1.0 and rule.lr is None:
            unit = next(path for path in depths if leaf.startswith(path + "/"))
            rate *= rates.layer_decay ** (len(depths) - 1 - depths.index(unit))
            label = label if of_the_head else f"{label} {unit}"
        assert learning_rates.setdefault(label, rate) == rate, f"'{label}' has two rates"
        return label

    return refine(labels, ""), learning_rates


def is_head(label: str) -> bool:
    """Whether a label is of leaves of the head, which starts anew in every run."""
    return label.partition("@")[0].split(" ")[0] == HEAD


def _renamed(label: str, of_the_head: bool) -> str:
    """The label with the kind of its leaf for the kind that its rule supposed."""
    kind, space, rest = label.partition(" ")
    if of_the_head:
        return HEAD + space + rest
    return ("backbone" if kind == HEAD else kind) + space + rest
