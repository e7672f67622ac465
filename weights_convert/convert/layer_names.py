"""Other libraries' layer names, understood wherever jtl takes a path."""

from __future__ import annotations

import contextlib
import functools
import os.path
import re
from typing import Any

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths
from weights_convert.convert.rules import Naming
from weights_convert.convert.tables import TABLES, inside, outputs

_Names = dict[str, str]
# How PyTorch's libraries call layers without params inside a block.
_WITHOUT_PARAMS = re.compile(r"\d|act\d?|gate|drop|drop_path|avgpool|(scale_)?activation")


def translate(name: str, model: str) -> str:
    """The path in jtl's param tree that another library calls `name`.

    Args:
        name: A layer (`layer4.0.conv1`, `conv3_block1_3_conv`), a param of one
            (`layer4.0.conv1.weight`), the common beginning of several (`layer4`,
            `conv3_block1`), or a layer without params that ends a unit (Keras's
            `conv3_block1_out`).
        model: A name of `jtl.models.names()`.

    Returns:
        The layer's path (`stage2/block1/conv3`), or the path that all layers of that beginning
        share, or the unit; `name` itself where no library knows it, or where it is a path
        already.

    Raises:
        UserError: A library has this layer inside a unit, where jtl names no place, or calls
            several units so.
    """
    family, modules, libraries = _known(model)
    if any(module == name or module.startswith(name + "/") for module in modules):
        return name
    if unit := _unit_of(name, outputs(family)) or _block(name, model):
        return unit
    for called, params in libraries:
        below = [m for n, m in called.items() if n.startswith((name + ".", name + "_", name + "/"))]
        # A block there may own a param itself.
        is_block = any(n.startswith(f"{name}.") for n in called)
        if path := (None if is_block else called.get(name)) or params.get(name):
            return path
        if below and (shared := os.path.commonpath(below)):
            return shared
        if below:
            raise UserError(
                f"'{name}' are several units here: {', '.join(below)}. Name one of them, such as "
                f"from:{below[0].split('/')[0]} for all from the first on."
            )
        if unit := _numbered(name, family, called, models.get(model).backbone):
            return unit
    unit = _unit_of(name, inside(family)) or _around(name, libraries, models.get(model).backbone)
    if unit:
        layers = [module for module in modules if module.startswith(unit + "/")]
        raise UserError(
            f"'{name}' is a layer without params inside a unit, a place that has no name here. "
            f"Name {', '.join(layers)} for the output of that layer, or {unit} for the output of "
            "the whole unit."
        )
    return name


def _block(name: str, model: str) -> str | None:
    """The one block called `name`, such as `block9`, in whatever stage it is; None for several."""
    if not re.fullmatch(r"block\d+", name):
        return None
    paths = [unit.path for unit in models.get(model).backbone.units()]
    found = [path for path in paths if path.endswith(f"/{name}")]
    return found[0] if len(found) == 1 else None


@functools.cache
def _known(model: str) -> tuple[str, tuple[str, ...], tuple[tuple[_Names, _Names], ...]]:
    """A model's family, its modules, and for each library its names of modules and params."""
    entry = models.get(model)
    classifier = models.create(model)
    leaves = leaf_paths(models.variable_shapes(classifier))
    modules = tuple(sorted({"/".join(path[1:-1]) for path in leaves}))
    norms = {path[1:-1] for path in leaves if path[-1] == "scale"}
    libraries = []
    for table in TABLES:
        if table.family != entry.family:
            continue
        called: _Names = {}
        for module in modules:
            # Keras's old letters end with the sixth block: it had ResNet50 alone.
            with contextlib.suppress(LookupError):
                called[table.module_name(module, classifier.backbone)] = module
        names = {module: name for name, module in called.items()}
        params: _Names = {}
        for collection, *inner, leaf in leaves:
            module = "/".join(inner)
            if collection == "params" and module in names:
                own = table.leaf_name(collection, leaf, norm=tuple(inner) in norms)
                params[table.key(names[module], own)] = f"{module}/{leaf}"
        libraries.append((called, params))
    return entry.family, modules, tuple(libraries)


def _numbered(name: str, family: str, called: _Names, backbone: Any) -> str | None:
    """The unit that ends with a layer without params, where torchvision numbers all layers."""
    match = re.fullmatch(r"features\.(\d+)", name)
    if family not in ("vgg", "alexnet", "squeezenet") or not match:
        return None
    number = int(match[1])
    with_params = {
        int(known[1]): module
        for other, module in called.items()
        if (known := re.match(r"features\.(\d+)", other)) and int(known[1]) < number
    }
    if not with_params:
        return None
    last = max(with_params)
    units = [unit.path for unit in backbone.units()]
    owner = next(i for i, u in enumerate(units) if with_params[last].startswith(f"{u}/"))
    # A ReLU comes first, but not after a fire module, which is one layer there.
    index = owner + number - last - (family != "squeezenet")
    # No further than the pooling that ends a stage.
    return units[index] if index in (owner, owner + 1) and index < len(units) else None


def _unit_of(name: str, places: tuple[Naming, ...]) -> str | None:
    for pattern, unit in places:
        if match := re.fullmatch(pattern, name):
            return unit(*match.groups())
    return None


def _around(name: str, libraries: tuple[tuple[_Names, _Names], ...], backbone: Any) -> str | None:
    """The unit around a layer that is named as those without params are."""
    parent, _, last = name.rpartition(".")
    if not parent or not _WITHOUT_PARAMS.fullmatch(last):
        return None
    for called, _ in libraries:
        beside = [module for other, module in called.items() if other.startswith(f"{parent}.")]
        units = {u.path for u in backbone.units() for m in beside if m.startswith(f"{u.path}/")}
        if len(units) == 1:
            return units.pop()
    return None
