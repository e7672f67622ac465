"""Features of images: `jtl embed`, and `jtl.embed(...)` from Python.

The module is a function, too, as it has the name of the command.
"""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl.embed.embeddings import Embeddings


class _Callable(types.ModuleType):
    """This module, which can be called."""

    def __call__(self, model: Any, source: Any = "digits", **options: Any) -> Embeddings:
        """As of `jtl.embed.function.embed`."""
        from jtl.embed.function import embed

        return embed(model, source, **options)


sys.modules[__name__].__class__ = _Callable
