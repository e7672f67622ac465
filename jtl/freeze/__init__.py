"""Which leaves train: masks as rules, label trees, and where the frozen prefix ends."""

from jtl.common.trees import FROZEN
from jtl.freeze.cut import Cut, find_cut
from jtl.freeze.masks import Mask, label_tree, parse

__all__ = ["FROZEN", "Cut", "Mask", "find_cut", "label_tree", "parse"]
