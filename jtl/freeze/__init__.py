"""Which leaves train: masks as rules, label trees, and where the frozen prefix ends."""

from jtl.freeze.masks import FROZEN, Mask, label_tree, parse
from jtl.freeze.split import Split, split

__all__ = ["FROZEN", "Mask", "Split", "label_tree", "parse", "split"]
