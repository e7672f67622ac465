"""Param trees: nested dicts with arrays, shapes or labels as leaves, and paths into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

ParamTree = dict[str, Any]
"""Params, batch statistics, or {"params", "batch_stats"} of both."""
FROZEN = "frozen"
"""In a label tree, the label of leaves that do not train."""


def subtree(tree: ParamTree, path: str) -> ParamTree:
    """The part of a nested dict at `path`; empty where there is none."""
    for key in path.split("/"):
        tree = tree.get(key, {})
    return tree


def has_path(tree: ParamTree, path: str) -> bool:
    """Whether a nested dict has a leaf or a sub-tree at `path`."""
    for key in path.split("/"):
        if key not in tree:
            return False
        tree = tree[key]
    return True


def prune(tree: ParamTree, keep: Callable[[str], bool]) -> ParamTree:
    """The sub-tree of the leaves whose path `keep` accepts; no empty dicts remain."""

    def walk(node: ParamTree, prefix: str) -> ParamTree:
        kept = {}
        for key, value in node.items():
            if isinstance(value, dict):
                if inner := walk(value, f"{prefix}{key}/"):
                    kept[key] = inner
            elif keep(prefix + key):
                kept[key] = value
        return kept

    return walk(tree, "")


def merge(*trees: ParamTree) -> ParamTree:
    """The union of trees that have no leaf in common; the inverse of pruning."""
    result: ParamTree = {}
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
