"""The best classifier within a given time: `jtl search`, and `jtl.search(...)` from Python.

The module is a function, too, as it has the name of the command.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl.search.found import Found


class _Callable(types.ModuleType):
    """This module, which can be called."""

    def __call__(self, data: Any = "digits", *, budget: str | None = None, **options: Any) -> Found:
        """As of `jtl.search.found.search`."""
        from jtl.search.found import search

        return search(data, budget=budget, **options)


sys.modules[__name__].__class__ = _Callable
