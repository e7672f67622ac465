"""Columns of numbers that measure something, such as ages, and count no classes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jtl.common.text import counted, listed
from jtl.data.sources.names import words_of

_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_FEWEST = 20
"""Different numbers."""
_GAPS, _OFTEN = 1.5, 0.1
"""From which range on, for each different number, and from which share of different ones."""
_MEASURES = {
    "age", "boneage", "bone", "months", "years", "weight", "height", "width", "length", "depth",
    "mass", "size", "area", "volume", "count", "counts", "number", "price", "score", "temperature",
    "temp", "distance", "angle", "bmi", "iq", "value", "rating", "percent", "percentage", "ratio",
    "income", "yield", "biomass", "concentration", "pawpularity", "popularity", "mos",
}  # fmt: skip
"""Words in the names of columns."""


def is_measured(name: str, cells: Sequence[str]) -> bool:
    """Whether a column holds many different numbers that look like measurements.

    Args:
        name: Of the column.
        cells: Of the column; empty ones do not count.
    """
    different = {*cells} - {""}
    if len(different) < _FEWEST or not all(map(_NUMBER.fullmatch, different)):
        return False
    if _MEASURES & {*words_of(name)}:
        return True
    numbers = sorted(map(float, different))
    gaps = numbers[-1] - numbers[0] > _GAPS * len(different)
    return gaps and len(different) > _OFTEN * len(cells)


def measurement_told(name: str, cells: Sequence[str]) -> str:
    """A sentence on such a column."""
    numbers = sorted({*cells} - {""}, key=float)
    return (
        f"The column '{name}' holds {counted(len(numbers), 'different number')} "
        f"({listed(numbers, 3)}), as measurements such as ages do. jtl classifies, and does no "
        "regression: each number would be a class of its own, and 11 no closer to 12 than to 90."
    )
