"""The source's library: its table, and importing it when a verification asks for it."""

from __future__ import annotations

from typing import Any

from jtl import models
from jtl.common import optional
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.convert.rules import Table
from weights_convert.convert.tables import TABLES


def table_of(checkpoint: ConvertedCheckpoint) -> Table:
    """The table that converted `checkpoint`."""
    family = models.get(checkpoint.model).family
    return next(t for t in TABLES if (t.family, t.library) == (family, checkpoint.library))


def require(name: str, extra: str) -> Any:
    """The module `name`, or an error that says how to get it."""
    return optional.require(name, "--verify", f"jtl[{extra}]", "; or convert without --verify")
