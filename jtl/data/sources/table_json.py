"""Tables in JSON: objects, one a line or in a list, whose values are the cells of a row."""

from __future__ import annotations

import contextlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.common.errors import UserError
from jtl.data.sources import unread_labels

_LINES = (".jsonl", ".ndjson")
_MOST_NESTED, _DEEPEST = 20, 3
"""Values of an object in a cell that become columns (more of them hardly have names), and how many
objects may lie in one another."""


def objects_in(text: str, path: Path) -> Iterator[tuple[int, Any]] | None:
    """The objects of a file in JSON, a list or one a line, numbered; None of other files.

    Args:
        text: What the file holds.
        path: Of the file.

    Raises:
        UserError: It is one JSON object, as of boxes and settings.
    """
    start, lines = text.lstrip()[:1], path.suffix.lower() != ".json"
    kind = unread_labels.kind_of_text(text[: 2**14]) if start in ("{", "[") else None
    held: Any = None
    if start == "[" or (start == "{" and (kind or not lines)):
        with contextlib.suppress(ValueError, RecursionError):
            held = json.loads(text)
    studio = kind == unread_labels.LABEL_STUDIO
    if isinstance(held, list) and not studio:
        return enumerate(held, 1)
    if held is None:
        in_lines = start == "{" or path.suffix.lower() in _LINES
        return _lines(text, path) if in_lines else None
    boxes = " They may be of several objects in an image: jtl classifies whole images." * bool(kind)
    if studio:
        boxes = " Export them as CSV or as JSON-MIN, in which each image has a row."
    what = f"holds {kind}" if kind else "is one JSON object"
    raise UserError(
        f"{path} {what}, and no table.{boxes} jtl reads JSON objects, one a line or in a list, "
        'such as {"file_name": "1.jpg", "label": "ant"}.'
    )


def _lines(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, row {number} is no JSON: {error}.") from error


def columns_of(
    objects: Iterable[tuple[int, Any]], path: Path
) -> tuple[dict[str, list[str]], Sequence[int], frozenset[str]]:
    """The text of every column, the numbers of the rows, and which columns hold lists.

    Args:
        objects: Numbered.
        path: Of the file that they are in.

    Raises:
        UserError: One is no object.
    """
    columns: dict[str, list[str]] = {}
    rows, lists = array("q"), set()
    for number, values in objects:
        if not isinstance(values, dict):
            raise UserError(
                f"{path}, row {number} is no JSON object, such as "
                '{"file_name": "1.jpg", "label": "ant"}.'
            )
        width = 0
        for name, value in _flat(values):
            if name not in columns:
                columns[name] = [""] * len(rows)
            cell, is_list = cell_of(value)
            columns[name].append(cell)
            width += 1
            if is_list:
                lists.add(name)
        rows.append(number)
        if width < len(columns):
            for cells in columns.values():
                if len(cells) < len(rows):
                    cells.append("")
    return columns, rows, frozenset(lists)


def with_objects(
    names: Sequence[str], columns: Sequence[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """The columns of a text, with those of JSON objects in cells as columns of their values."""
    found: dict[str, list[str]] = {}
    for name, cells in zip(names, columns, strict=True):
        inner = None
        if all(cell[:1] + cell[-1:] in ("", "{}") for cell in cells) and any(cells):
            with contextlib.suppress(ValueError, RecursionError, UserError):
                objects = enumerate({name: json.loads(cell or "{}")} for cell in cells)
                inner, _, _ = columns_of(objects, Path())
        found.update({name: cells} if not inner or name in inner else inner)
    return ([*found], [*found.values()]) if len(found) >= len(names) else ([*names], [*columns])


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values of an object and, as `label.name`, those of objects in it."""
    for name, value in values.items():
        deep = above.count(".") >= _DEEPEST
        if isinstance(value, dict) and 0 < len(value) <= _MOST_NESTED and not deep:
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def cell_of(value: Any) -> tuple[str, bool]:
    """A value as text, and whether it is a list of several."""
    if isinstance(value, str):
        return value.strip(), False
    if isinstance(value, list):
        inner = [cell_of(each)[0] for each in value]
        return "|".join(inner), len(inner) != 1
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "", False
    if isinstance(value, float) and value.is_integer():
        return str(int(value)), False
    return str(value), False
