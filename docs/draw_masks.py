"""Draws docs/masks.png: what each mask trains in ResNet50, from the label trees themselves.

Run from the project's root: python docs/draw_masks.py
"""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from jtl import models
from jtl.common.trees import subtree
from jtl.freeze import FROZEN, label_tree, parse

MODEL = "resnet50"
MASKS = (
    "head_only",
    "last_stage",
    "last_stages:2",
    "from:stage3/block4",
    "first_stages:1",
    "norm_only",
    "bias_only",
    "full",
)
COLOURS = ("#e6e6e6", "#9ecae1", "#2171b5")


def trained_share(mask: str) -> list[int]:
    """Per unit with params: 0 frozen, 1 some leaves train, 2 all do."""
    model = models.create(MODEL, num_classes=10)
    labels = label_tree(parse(mask, model.units()), models.variable_shapes(model)["params"])
    shares = []
    for unit in model.units():
        if leaves := jax.tree.leaves(subtree(labels, unit.path)):
            frozen = sum(label == FROZEN for label in leaves)
            shares.append(0 if frozen == len(leaves) else 2 if not frozen else 1)
    return shares


def main() -> None:
    """Writes the image beside this file."""
    model = models.create(MODEL, num_classes=10)
    names = [unit.path for unit in model.units() if unit.path != "pool"]
    grid = np.array([trained_share(mask) for mask in MASKS])
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.pcolormesh(grid, cmap=ListedColormap(COLOURS), vmin=0, vmax=2, edgecolors="w", linewidth=2)
    axes.invert_yaxis()
    axes.set_yticks(np.arange(len(MASKS)) + 0.5, MASKS, family="monospace")
    axes.set_xticks(np.arange(len(names)) + 0.5, names, rotation=60, ha="right", fontsize=8)
    axes.set_title("What each mask trains in ResNet50 (images come in at the left)", loc="left")
    labels = ("frozen", "some parameters trained", "all parameters trained")
    handles = [
        Patch(color=colour, label=label) for colour, label in zip(COLOURS, labels, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(Path(__file__).with_name("masks.png"), dpi=110)


if __name__ == "__main__":
    main()
