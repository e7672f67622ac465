"""What was asked for where a source can be read in several ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import fields
from typing import Annotated, Any, ClassVar

from jtl.config import walk
from jtl.config.data import ClassLevel, DataConfig, SplitLists, Task


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """How a source is read, where it could be read in several ways; in the commands that read one.

    `jtl.config.data.DataConfig` has the same options among those of a training, and explains them.
    """

    HELP_FROM: ClassVar = walk.HelpFrom(DataConfig)

    task: Task = "auto"
    label_delimiter: str | None = None
    classes: ClassLevel = "auto"
    split_lists: SplitLists = "read"
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    image_root: str | None = None
    label_from: str | None = None
    group_column: str | None = None
    group_from: str | None = None
    exclude: Annotated[str | None, walk.Metavar("FILE")] = None

    @classmethod
    def of(cls, options: Any) -> SourceOptions:
        """Those among the options of a run, which have the same names."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    def within(self, names: Iterable[str]) -> SourceOptions:
        """These options alone, the others as by default."""
        return SourceOptions(**{name: getattr(self, name) for name in names})


DEFAULT = SourceOptions()
"""As nobody asks for anything."""
