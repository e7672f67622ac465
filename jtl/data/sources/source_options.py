"""What was asked for where a source can be read in several ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from jtl.config.data import ClassLevel, SplitLists, Task


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How a source is read, where it could be read in several ways.

    Attributes:
        classes: Which folders are classes: see `jtl.data.sources.class_folders.ClassLevel`.
        image_column: The column of the images.
        label_column: The column of the labels.
        split_lists: Whether lists of splits beside class folders are read.
        split_column: The column of the splits; "none" for no splits.
        image_root: Where the paths in a table start.
        label_from: Where labels come from, if not from class folders.
        group_column: The column of the groups that splits do not divide.
        group_from: The part of the images' names that says their groups.
        task: Whether images may have several labels.
        label_delimiter: What stands between these in a table's cells.
        exclude: A list of images to leave out; every kind of source has it.
    """

    classes: ClassLevel = "auto"
    image_column: str | None = None
    label_column: str | None = None
    split_lists: SplitLists = "read"
    split_column: str | None = None
    image_root: str | None = None
    label_from: str | None = None
    group_column: str | None = None
    group_from: str | None = None
    task: Task = "auto"
    label_delimiter: str | None = None
    exclude: str | None = None

    @classmethod
    def of(cls, options: Any) -> SourceOptions:
        """Those among the options of a run, or of a command, which have the same names."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def within(self, names: Iterable[str]) -> SourceOptions:
        """These options alone, the others as by default."""
        return SourceOptions(**{name: getattr(self, name) for name in names})


DEFAULT = SourceOptions()
"""As nobody asks for anything."""
