"""Other libraries' layer names, understood wherever jtl takes a path."""

from __future__ import annotations

import contextlib
import functools
import os.path
import re
from collections.abc import Callable
from typing import Any

from jtl import models
from jtl.common.errors import UserError
from jtl.common.trees import leaf_paths
from weights_convert.convert.tables import TABLES

_Names = dict[str, str]
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


def _keras_mixed(number: str) -> str:
    """Keras counts InceptionV3's 3, 5 and 3 blocks from 0."""
    places = [
        f"stage{s}/block{b}" for s, depth in ((1, 3), (2, 5), (3, 3)) for b in range(1, depth + 1)
    ]
    return places[int(number)] if int(number) < len(places) else f"mixed{number}"


def _final() -> str:
    return "final"


def _mobile_block(stage: str, block: str) -> str:
    return f"stage{int(stage) + 1}/block{int(block) + 1}"


def _mobilenet_block(number: str) -> str:
    """A unit by its number in torchvision, which counts through all stages: the stem is 0."""
    return models.get("mobilenet_v2").backbone.units()[int(number)].path


# timm's MobileNetV2 and EfficientNet-Lite.
_MOBILE_OUTPUTS: Places = ((r"act1|bn1\.act", _stem), (r"act2|bn2\.act", _final))
_MOBILE_INSIDE: Places = (
    (r"blocks\.([0-6])\.(\d+)\.(?:bn\d\.)?(?:act\d?|drop_path|drop)", _mobile_block),
)

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
    "vgg": (
        # Keras's convolutions and dense layers activate.
        (r"block(\d)_conv(\d)", lambda stage, block: f"stage{stage}/block{block}"),
        (r"block(\d)_pool", lambda stage: f"stage{stage}/pool"),
    ),
    "squeezenet": ((r"features\.2", _stem),),
    "mobilenet": (*_MOBILE_OUTPUTS, (r"features\.0\.2", _stem), (r"features\.18\.2", _final)),
    "efficientnet_lite": _MOBILE_OUTPUTS,
    "inception": (
        (r"maxpool2|max_pooling2d_1|Pool2", _stem),
        (r"mixed(\d+)", _keras_mixed),
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
    "mobilenet": (
        *_MOBILE_INSIDE,
        (r"features\.([1-9]|1[0-7])\.conv\.[01]\.2", _mobilenet_block),
    ),
    "efficientnet_lite": _MOBILE_INSIDE,
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
        UserError: A library has this layer inside a unit, where jtl names no place, or calls
            several units so.
    """
    family, modules, libraries = _known(model)
    if any(module == name or module.startswith(name + "/") for module in modules):
        return name
    if unit := _unit_of(name, OUTPUTS.get(family, ())):
        return unit
    for called, params in libraries:
        if path := called.get(name) or params.get(name):
            return path
        below = [m for n, m in called.items() if n.startswith((name + ".", name + "_"))]
        if below and (shared := os.path.commonpath(below)):
            return shared
        if below:
            raise UserError(
                f"'{name}' are several units here: {', '.join(below)}. Name one of them, such as "
                f"from:{below[0].split('/')[0]} for all from the first on."
            )
        if unit := _numbered(name, family, called, models.get(model).backbone):
            return unit
    if unit := _unit_of(name, INSIDE.get(family, ())):
        layers = [module for module in modules if module.startswith(unit + "/")]
        raise UserError(
            f"'{name}' is a layer without params inside a unit, a place that has no name here. "
            f"Name {', '.join(layers)} for the output of that layer, or {unit} for the output of "
            "the whole unit."
        )
    return name


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
                own = table.leaves.leaf_name(collection, leaf, norm=tuple(inner) in norms)
                params[names[module] + table.leaves.separator + own] = f"{module}/{leaf}"
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


def _unit_of(name: str, places: Places) -> str | None:
    for pattern, unit in places:
        if match := re.fullmatch(pattern, name):
            return unit(*match.groups())
    return None
