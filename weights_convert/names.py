"""Other libraries' layer names, understood wherever jtl takes a path."""

from __future__ import annotations

import os.path
import re
from collections.abc import Callable

from jtl import models
from jtl.errors import UserError
from weights_convert.rules import leaf_paths
from weights_convert.tables import TABLES

Places = tuple[tuple[str, Callable[..., str]], ...]
"""(pattern of a layer without params, function from its groups to the unit it is of)."""


def _keras_block(stage: str, block: str) -> str:
    return f"stage{int(stage) - 1}/block{block}"


def _torch_block(stage: str, block: str) -> str:
    return f"stage{stage}/block{int(block) + 1}"


def _keras_transition(stage: str) -> str:
    return f"stage{int(stage) - 1}/transition"


def _stem() -> str:
    return "stem"


OUTPUTS: dict[str, Places] = {
    "resnet": (
        (r"maxpool|pool1_pool", _stem),
        (r"conv(\d)_block(\d+)_out", _keras_block),
    ),
    "densenet": (
        (r"(?:features\.)?pool0|pool1|pool1_pool", _stem),
        (r"conv(\d)_block(\d+)_concat", _keras_block),
        (r"pool([234])_pool", _keras_transition),
        (r"features\.transition(\d)\.pool", lambda stage: f"stage{stage}/transition"),
        (r"relu", lambda: "final"),
    ),
}
"""By family: layers without params whose output is their unit's."""

INSIDE: dict[str, Places] = {
    "resnet": (
        (r"relu|act1|conv1_relu|conv1_pad|pool1_pad", _stem),
        (r"conv(\d)_block(\d+)_(?:\d_relu|add)", _keras_block),
        (r"layer(\d)\.(\d+)\.(?:relu|act\d|drop_block|aa)", _torch_block),
    ),
    "densenet": (
        (r"features\.relu0|conv1[_/]relu|zero_padding2d(?:_1)?", _stem),
        (r"conv(\d)_block(\d+)_\d_relu", _keras_block),
        (
            r"features\.denseblock(\d)\.denselayer(\d+)\.relu\d",
            lambda stage, block: f"stage{stage}/block{block}",
        ),
        (r"pool([234])_relu", _keras_transition),
        (r"features\.transition(\d)\.relu", lambda stage: f"stage{stage}/transition"),
    ),
    "efficientnet_lite": (
        (r"act1|bn1\.act", _stem),
        (
            r"blocks\.(\d)\.(\d+)\.(?:bn\d\.)?(?:act\d?|drop_path|drop)",
            lambda stage, block: f"stage{int(stage) + 1}/block{int(block) + 1}",
        ),
    ),
}
"""By family: layers without params inside a unit, where jtl has no name for the place."""


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
        UserError: A library has this layer inside a unit, where jtl names no place.
    """
    entry = models.get(model)
    shapes = models.variable_shapes(models.create(model))
    modules = sorted({"/".join(path[1:-1]) for path in leaf_paths(shapes)})
    if any(module == name or module.startswith(name + "/") for module in modules):
        return name
    if unit := _unit_of(name, OUTPUTS.get(entry.family, ())):
        return unit
    for table in TABLES:
        if table.family != entry.family:
            continue
        called = {table.module_name(m, models.create(model).backbone): m for m in modules}
        if name in called:
            return called[name]
        keys = table.source_keys(models.create(model).backbone, shapes)
        for path, key in keys.items():
            if key == name and path[0] == "params":
                return "/".join(path[1:])
        below = [m for n, m in called.items() if n.startswith((name + ".", name + "_"))]
        if below:
            return os.path.commonpath(below)
    if unit := _unit_of(name, INSIDE.get(entry.family, ())):
        layers = [module for module in modules if module.startswith(unit + "/")]
        raise UserError(
            f"'{name}' is a layer without params inside a unit, a place that has no name here. "
            f"Name {', '.join(layers)} for the output of that layer, or {unit} for the output of "
            "the whole unit."
        )
    return name


def _unit_of(name: str, places: Places) -> str | None:
    for pattern, unit in places:
        if match := re.fullmatch(pattern, name):
            return unit(*match.groups())
    return None
