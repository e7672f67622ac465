"""Groups of images, such as those of one patient or video: said beside images, or in their names.

jtl divides images, not groups. What is said of groups is therefore not used, but told.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources.image_index import ImageIndex
from jtl.data.sources.name_rules import rule_of
from jtl.data.sources.names import words_of
from jtl.data.sources.stores import ImageFile
from jtl.data.splits import OpenedSource

WORDS = {
    "video", "videos", "clip", "clips", "sequence", "sequences", "seq", "seqs", "scene", "scenes",
    "frame", "frames", "track", "tracks", "tracklet", "tracklets", "session", "sessions",
    "patient", "patients", "subject", "subjects", "person", "persons", "people", "participant",
    "participants", "user", "users", "identity", "identities", "pid", "pids", "uid", "uids",
    "case", "cases", "study", "studies", "series", "scan", "scans", "volume", "volumes", "slide",
    "slides", "donor", "donors", "group", "groups", "instance", "instances", "object", "objects",
}  # fmt: skip
"""What images are grouped by."""
_MORE = {"lesion", "individual", "animal", "plant", "specimen", "site", "hospital", "plate", "well",
         "burst", "location", "fold", "kfold"}  # fmt: skip
"""What they are grouped by in columns; files that are called so may be anything."""
IN_COLUMNS = frozenset(WORDS | _MORE)
_ENOUGH = 0.5
"""The share of rows that name a group, or of images that are named in a table of groups."""
_MOST_WORDS = 3
"""Of a group's name within that of an image."""
_MOST_IMAGES = 50_000
"""That are looked at."""
_SHORTEST = 4
"""Letters of a group's name without a digit."""
_SEPARATOR = re.compile(r"[^0-9A-Za-z]+")


def column_of(where: str, rows: Sequence[Sequence[str]], index: ImageIndex) -> str:
    """What a table groups images by, such as "patient"; empty where it does not.

    Args:
        where: The table's path, which counts if its columns have no names.
        rows: Of the table, the first cell of each being the whole row.
        index: Of the images.
    """
    images = index.of_rows(rows)
    named = [row for row, image in zip(rows, images, strict=True) if image is not None]
    folders = [image.rpartition("/")[0] for image in images if image is not None]
    if not named or len(named) < _ENOUGH * len(rows):
        return ""
    heads = [{word.removesuffix("id") or word for word in words_of(head)} for head in rows[0]]
    if images[0] is not None:  # A row like the others.
        heads = [WORDS & {*words_of(where.rpartition("/")[2])}] * len(rows[0])
    for column, words in enumerate(heads):
        cells = [row[column] if column < len(row) else "" for row in named]
        groups = set(cells)
        if len({*zip(cells, folders, strict=True)}) == len(groups) == len({*folders}):
            continue  # The classes.
        if column and words & IN_COLUMNS and 1 < len(groups) <= _ENOUGH * len(named):
            return rows[0][column] if images[0] is None else min(words)
    return ""


def with_groups(found: OpenedSource, rule: str) -> OpenedSource:
    """A source whose images' names say which belong together.

    Args:
        found: The source.
        rule: `regex:EXPRESSION` or another, as of `jtl.data.sources.name_rules.rule_of`.

    Raises:
        UserError: The rule cannot be used, or does not fit some names.
    """
    if found.groups:
        raise UserError("--group-column and --group-from both say the groups: leave one out.")
    group_of = rule_of(rule, "--group-from", "group").label_of
    names = [name for split in found.splits.values() for name in split.names]
    groups = {name: group_of(ImageFile(tuple(name.split("/")), None, -1, 0)) for name in names}
    lost = [name for name, group in groups.items() if not group]
    if lost:
        good = [f"{name} = {group}" for name, group in groups.items() if group][:3]
        others = f" Others have one, such as {listed(good)}." if good else ""
        raise UserError(
            f"{len(lost):,} of {counted(len(names), 'image')} have no group in their names by "
            f"--group-from {rule}: {listed(lost, 5)}.{others} Change the rule."
        )
    return dataclasses.replace(
        found,
        groups={name: g for name, g in groups.items() if g},
        notes=tuple(note for note in found.notes if "--group-from" not in note),  # It is done.
    )


def in_names(rows: Iterable[Sequence[str]], index: ImageIndex) -> list[str]:
    """What most rows name that stands in the names of some images, such as `subject07`.

    Args:
        rows: Of a list in which no row names an image.
        index: Of the images.
    """
    cells = [{c for cell in row if (c := _plain(cell)) and _may_be_group(c, index)} for row in rows]
    wanted = set().union(*cells)
    if not wanted:
        return []
    step = max(1, len(index.names) // _MOST_IMAGES)
    found: set[str] = set()
    images = 0
    for name in index.names[::step]:
        same = wanted & _parts(name)
        found |= same
        images += bool(same)
    rows_found = sum(bool(row & found) for row in cells)
    if images == len(index.names[::step]) or rows_found < max(1, _ENOUGH * len(cells)):
        return []
    return sorted(found)


def _may_be_group(text: str, index: ImageIndex) -> bool:
    if text.isdigit() or text in {_plain(folder) for folder in index.folders}:
        return False  # A small number counts anything, and a class is no group.
    return any(c.isdigit() for c in text) or len(text) >= _SHORTEST


def _parts(name: str) -> set[str]:
    """All sequences of a few words in an image's path."""
    words = [word for word in _SEPARATOR.split(name.casefold()) if word]
    return {
        " ".join(words[start : start + count])
        for count in range(1, _MOST_WORDS + 1)
        for start in range(len(words) - count + 1)
    }


def _plain(text: str) -> str:
    return " ".join(word for word in _SEPARATOR.split(text.casefold()) if word)
