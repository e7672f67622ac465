"""The source's library: its table, and importing it when a verification asks for it."""

from __future__ import annotations

import importlib
from typing import Any

from jtl import models
from jtl.common.errors import UserError
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.convert.rules import Table
from weights_convert.convert.tables import TABLES


def table_of(checkpoint: ConvertedCheckpoint) -> Table:
    """The table that converted `checkpoint`."""
    family = models.get(checkpoint.model).family
    return next(t for t in TABLES if (t.family, t.library) == (family, checkpoint.library))


def require(name: str, extra: str) -> Any:
    """The module `name`, or an error that says how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"--verify compares with {name}, which cannot be imported ({error}). Install it "
            f"with: pip install 'jtl[{extra}]'; or convert without --verify."
        ) from error
