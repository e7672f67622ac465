"""Fills a target tree from a source's tensors, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import counted, indented
from jtl.common.trees import lookup
from weights_convert.convert.rules import Table, is_ignored, unflatten
from weights_convert.printable import shown

# So many of one kind say as much as all: a network of another depth has hundreds.
_MOST_PROBLEMS = 12


def fill(
    table: Table, backbone: Any, shapes: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Fills a target tree from source tensors, or reports everything that does not fit.

    Args:
        table: The library's table.
        backbone: Configuration of the target model.
        shapes: Its tree of shapes.
        tensors: Source arrays by key; floating of any width.

    Returns:
        The tree of float32 arrays, contiguous in the target's layout, copied from the source.
        float16 and bfloat16 fit into float32 exactly; float64 is rounded to the nearest (ties
        to even), and a number that would overflow is a problem, as infinity is.

    Raises:
        UserError: Keys are missing or unexpected, shapes differ, or values are not finite
            numbers; one message counts all of it and shows the first.
    """
    keys = table.source_keys(backbone, shapes)
    problems, leaves = [], {}
    for path, key in keys.items():
        expected = tuple(lookup(shapes, path).shape)
        if key not in tensors:
            problems.append(f"missing    {shown(key)} (for {'/'.join(path[1:])}, shape {expected})")
            continue
        array = tensors[key]
        wanted = table.source_shape(path, expected)
        name = shown(key)
        if array.shape != wanted:
            problems.append(f"shape      {name} is {array.shape}, expected {wanted}")
        elif not _is_floating(array):
            problems.append(f"dtype      {name} is {array.dtype}, expected a floating type")
        else:
            # A copy, because the source may be a mapped file; too large a float64 turns infinite.
            with np.errstate(over="ignore"):
                array = table.to_target(path, array, expected)
                array = np.array(array, dtype=np.float32, order="C")
            if not np.isfinite(array).all():
                problems.append(f"values     {name} holds NaN or infinity")
            elif path[-1] == "var" and (array < 0).any():
                problems.append(f"values     {name} is a variance with negative values")
            leaves[path] = array
    used = set(keys.values())
    for key in tensors:
        if key not in used and not is_ignored(table, key):
            problems.append(f"unexpected {shown(key)}, shape {tensors[key].shape}")
    if problems:
        fitting = sum(problem.startswith(("dtype", "values")) for problem in problems)
        much = len(problems) - fitting > _MOST_PROBLEMS
        raise UserError(
            report(problems, "between the source and the model")
            + (
                "\nSo many are not damage: it is another network, perhaps deeper or wider, "
                "or its layers have other names." * much
            )
        )
    return {**{collection: {} for collection in shapes}, **unflatten(leaves)}


def _is_floating(array: np.ndarray) -> bool:
    # bfloat16 is not a subtype of NumPy's floating, but names itself a float.
    return np.issubdtype(array.dtype, np.floating) or array.dtype.name == "bfloat16"


def report(problems: Sequence[str], where: str) -> str:
    """How many problems there are, and the first of them, a line each."""
    lines = indented(problems, _MOST_PROBLEMS)
    return "\n".join([f"{counted(len(problems), 'problem')} {where}:", *lines])
