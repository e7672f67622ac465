"""`--exclude FILE`: images that a list leaves out, such as `clean.csv` of `jtl data clean`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources.stores import decoded, printable
from jtl.data.sources.table_files import read_table
from jtl.data.splits import LONG_NAMES, OpenedSource, absent

FILE, SPLIT, EXCLUDE = "file", "split", "exclude"
"""Columns of a list; the last two may be missing."""
_YES, _NO = ("yes", "y", "true", "1", "x"), ("no", "n", "false", "0", "")
_EXAMPLES = 5


def without_excluded(found: OpenedSource, path: str, spec: str) -> OpenedSource:
    """A source without the images that a list excludes.

    Args:
        found: The source.
        path: The list: a table with the column `file` (the images' names), and if it has a column
            `exclude`, of the rows that say `yes` there; or a text with a name in each line.
        spec: What the source is called.

    Raises:
        UserError: The list cannot be read, names images that the source does not have, or leaves
            no image of a split or none to train a class on.
    """
    chosen = _chosen(_names_in(Path(os.path.expanduser(path))), found, path, spec)
    total = sum(map(len, found.splits.values()))
    count = sum(map(len, chosen.values()))
    if not count:
        note = f"--exclude {path} excludes no image."
        return dataclasses.replace(found, notes=(*found.notes, note))
    splits: dict[str, Any] = dict(found.splits)
    for name, rows in chosen.items():
        before = splits[name]
        splits[name] = after = before.subset(np.setdiff1d(np.arange(len(before)), sorted(rows)))
        known = absent(found.class_names, before.labels)
        gone = [each for each in absent(found.class_names, after.labels) if each not in known]
        if not len(after) or (name == "train" and gone):
            what = f"training images of {listed(gone)}" if gone else f"{name} images"
            raise UserError(
                f"--exclude {path} leaves no {what}. Exclude fewer of them, or remove the "
                f"{'class' if gone else 'split'} from the data."
            )
    excluded = sorted(
        f"{name}\0{found.splits[name].names[row]}" for name, rows in chosen.items() for row in rows
    )
    text = "\n".join([found.fingerprint, "excluded", *excluded])
    told = ", ".join(f"{len(rows):,} {LONG_NAMES.get(s, s)}" for s, rows in chosen.items() if rows)
    return dataclasses.replace(
        found,
        splits=splits,
        notes=(
            *found.notes,
            f"Left out {count:,} of {counted(total, 'image')}, which {path} excludes ({told}).",
        ),
        fingerprint=hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
    )


def _names_in(path: Path) -> list[tuple[str, str]]:
    """(split, name) of every image that a list excludes; the split is empty if it does not say."""
    try:
        text = decoded(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"--exclude {path}: {error.strerror or error}. Give a list of images, such as the "
            "clean.csv that jtl data clean writes."
        ) from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line.strip('"') for line in lines if line]
    head = [cell.strip(' "').lower() for cell in re.split(r"[,;\t]", lines[0] if lines else "")]
    if FILE not in head or len(head) == 1:
        return [("", line) for line in (lines[1:] if head == [FILE] else lines)]
    if len(lines) == 1:
        return []
    table = read_table(path)
    columns = {n.lower(): cells for n, cells in zip(table.names, table.columns, strict=True)}
    answers = columns.get(EXCLUDE, ["yes"] * len(table.rows))
    wrong = [row for row, each in enumerate(answers) if each.lower() not in (*_YES, *_NO)]
    if wrong:
        told = (f"row {table.rows[row]} ({answers[row]!r})" for row in wrong)
        raise UserError(
            f"{path}, column '{EXCLUDE}', must be yes or no in every row: see "
            f"{listed(told, _EXAMPLES)}."
        )
    said = columns.get(SPLIT, [""] * len(table.rows))
    return [
        (split, name)
        for split, name, each in zip(said, columns[FILE], answers, strict=True)
        if each.lower() in _YES
    ]


def _chosen(
    wanted: list[tuple[str, str]], found: OpenedSource, path: str, spec: str
) -> dict[str, set[int]]:
    """The images that names stand for, by split.

    Raises:
        UserError: Some names stand for none.
    """
    places: dict[str, dict[str, int]] = defaultdict(dict)
    for split, images in found.splits.items():
        for row, name in enumerate(images.names):
            places[name][split] = row
    chosen: dict[str, set[int]] = {split: set() for split in found.splits}
    unknown: dict[str, None] = {}
    for split, name in wanted:
        # As it is; without the apostrophe that keeps spreadsheets from running it.
        forms = (name, name.removeprefix("'"), printable(name))
        there = next((places[form] for form in forms if form in places), None)
        if there is None:
            unknown[name] = None
            continue
        for each in [split] if split in there else there:
            chosen[each].add(there[each])
    if unknown:
        example = next((images.names[0] for images in found.splits.values() if len(images)), "")
        raise UserError(
            f"--exclude {path}: {len(unknown):,} of {counted(len(wanted), 'name')} are not images "
            f"of '{spec}': {listed(unknown, _EXAMPLES)}. Its images have names such as {example}. "
            "Remove these rows, or give the list that belongs to the data (a name in each line, "
            f"or a table with the column '{FILE}')."
        )
    return chosen
