"""Backbones and heads in Flax Linen."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl.models.building import create as create
    from jtl.models.building import feature_shape as feature_shape
    from jtl.models.building import output_shape as output_shape
    from jtl.models.building import variable_shapes as variable_shapes
    from jtl.models.chain import ImageClassifier as ImageClassifier
    from jtl.models.chain import Unit as Unit
    from jtl.models.chain import locate as locate
    from jtl.models.entry import ModelEntry as ModelEntry
    from jtl.models.entry import Preprocessing as Preprocessing
    from jtl.models.heads import HeadSpec as HeadSpec
    from jtl.models.norm_spec import NormSpec as NormSpec
    from jtl.models.registry import get as get
    from jtl.models.registry import names as names

_NAMES = {
    "chain": ("ImageClassifier", "Unit", "locate"),
    "heads": ("HeadSpec",),
    "norm_spec": ("NormSpec",),
    "building": ("create", "feature_shape", "output_shape", "variable_shapes"),
    "entry": ("ModelEntry", "Preprocessing"),
    "registry": ("get", "names"),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    # Imported when asked for: what only lists models needs no Flax.
    if name in _MODULES:
        found = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
