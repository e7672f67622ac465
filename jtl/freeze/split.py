"""From a label tree to the cut: the frozen prefix that runs once, the suffix that trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from jtl.freeze.masks import FROZEN
from jtl.models.chain import Unit

Tree = dict[str, Any]

BatchNormMode = Literal["auto", "frozen", "train"]
"""`auto`: units that train use batch statistics; `frozen`: only the head; `train`: all units."""


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


def split(labels: Tree, units: Sequence[Unit], bn: BatchNormMode = "auto") -> Split:
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


def _trains(labels: Tree | str) -> bool:
    if isinstance(labels, dict):
        return any(_trains(value) for value in labels.values())
    return labels != FROZEN


def subtree(tree: Tree, path: str) -> Tree:
    """The part of a nested dict at `path`; empty where there is none."""
    for key in path.split("/"):
        tree = tree.get(key, {})
    return tree


def prune(tree: Tree, keep: Callable[[str], bool]) -> Tree:
    """The sub-tree of the leaves whose path `keep` accepts; no empty dicts remain."""

    def walk(node: Tree, prefix: str) -> Tree:
        kept = {}
        for key, value in node.items():
            if isinstance(value, dict):
                if inner := walk(value, f"{prefix}{key}/"):
                    kept[key] = inner
            elif keep(prefix + key):
                kept[key] = value
        return kept

    return walk(tree, "")


def merge(*trees: Tree) -> Tree:
    """The union of trees that have no leaf in common; the inverse of pruning."""
    result: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            if isinstance(value, dict):
                result[key] = merge(result.get(key, {}), value)
            else:
                assert key not in result, f"leaf '{key}' is in two trees"
                result[key] = value
    return result


def lookup(tree: Mapping[str, Any], path: Sequence[str]) -> Any:
    """The leaf or sub-tree at a path that is there."""
    for key in path:
        tree = tree[key]
    return tree


def leaf_paths(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The path of every leaf of nested dicts, in order."""
    paths = []
    for key, value in tree.items():
        if isinstance(value, Mapping):
            paths += leaf_paths(value, (*prefix, key))
        else:
            paths.append((*prefix, key))
    return paths


def within(paths: Sequence[str] | frozenset[str]) -> Callable[[str], bool]:
    """A predicate for `prune`: leaves that belong to one of the units `paths`."""
    prefixes = tuple(path + "/" for path in paths)
    return lambda leaf: leaf.startswith(prefixes)


def trainable(labels: Tree) -> Callable[[str], bool]:
    """A predicate for `prune`: leaves that `labels` does not freeze."""
    return lambda leaf: subtree(labels, leaf) != FROZEN
