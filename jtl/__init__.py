"""Transfer learning for image classification in JAX and Flax.

`jtl.fit` trains, `jtl.search` finds the best classifier within a given time, `jtl.load` reads what
was trained, to predict with; `jtl train` and its neighbours are the same as commands.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl.api import Classifier as Classifier
    from jtl.api import Findings as Findings
    from jtl.api import Prediction as Prediction
    from jtl.api import Predictions as Predictions
    from jtl.api import Run as Run
    from jtl.api import Unreadable as Unreadable
    from jtl.api import UserError as UserError
    from jtl.api import clean as clean
    from jtl.api import fit as fit
    from jtl.api import load as load
    from jtl.embed.function import embed as embed
    from jtl.publish.function import publish as publish
    from jtl.search.found import search as search

__version__ = version("jtl")

_API = (
    "Classifier", "Findings", "Prediction", "Predictions", "Run", "Unreadable", "UserError",
    "clean", "fit", "load",
)  # fmt: skip
_CALLABLE_MODULES = ("embed", "publish", "search")


def __getattr__(name: str) -> Any:
    # Imported when asked for: commands that need none of it start sooner.
    if name in _API:
        return getattr(import_module("jtl.api"), name)
    if name in _CALLABLE_MODULES:
        return import_module(f"jtl.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_API, *_CALLABLE_MODULES})
