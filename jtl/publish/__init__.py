"""A run's best model on the Hugging Face hub: `jtl publish`, and `jtl.publish(...)` from Python.

The module is a function, too, as it has the name of the command.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl.publish.function import PublishedModel


class _Callable(types.ModuleType):
    """This module, which can be called."""

    def __call__(self, run: Any, to: str, **options: Any) -> PublishedModel:
        """As of `jtl.publish.function.publish`."""
        from jtl.publish.function import publish

        return publish(run, to, **options)


sys.modules[__name__].__class__ = _Callable
