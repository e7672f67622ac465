"""What jtl knows of each family's weights: a module of the family's name, found by the registry.

It has `TABLES` (see `weights_convert.convert.rules.Table`) and `MODELS` (by model, see
`weights_convert.convert.published.Published`). It may have `OUTPUTS`: layers without params that
other libraries name and whose output is their unit's; and `INSIDE`: those within a unit, where jtl
has no name for the place. Both are pairs of a pattern and a function from its groups to the unit.

No module needs JAX or Flax: what only lists models takes no time.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from jtl.models import registry
from weights_convert.convert.published import Published
from weights_convert.convert.rules import Naming, Table

# Raise this when a table or a rule changes what a source becomes, or what is kept of it: converted
# weights that are cached under an older number are then converted again.
TABLES_VERSION = 6

_FAMILIES: dict[str, ModuleType] = {
    family: import_module(f"{__name__}.{family}")
    for family in dict.fromkeys(registry.get(name).family for name in registry.names())
    if find_spec(f"{__name__}.{family}")
}
TABLES: tuple[Table, ...] = tuple(table for module in _FAMILIES.values() for table in module.TABLES)


def published(model: str) -> Published:
    """What is published of a model; only the names of its family for one that no table lists."""
    family = registry.get(model).family
    known: dict[str, Published] = getattr(_FAMILIES.get(family), "MODELS", {})
    if model in known:
        return known[model]
    return Published(tuple(t.library for t in TABLES if t.family == family and not t.is_of_keras))


def has(table: Table, model: str) -> bool:
    """Whether the library of `table` has `model`."""
    if registry.get(model).family != table.family:
        return False
    return table.library in published(model).libraries


def torchvision_name(model: str) -> str:
    """What torchvision calls a model."""
    file = published(model).torchvision
    return (file and file.model) or model


def outputs(family: str) -> tuple[Naming, ...]:
    """The family's `OUTPUTS`."""
    return getattr(_FAMILIES.get(family), "OUTPUTS", ())


def inside(family: str) -> tuple[Naming, ...]:
    """The family's `INSIDE`."""
    return getattr(_FAMILIES.get(family), "INSIDE", ())


__all__ = [
    "TABLES",
    "TABLES_VERSION",
    "has",
    "inside",
    "outputs",
    "published",
    "torchvision_name",
]
