"""Where the arrays of a Keras HDF5 file lie: `python -m weights_convert.read.h5_index FILE`.

Two layouts, told apart by what the file holds:

* `.weights.h5` of Keras 3: groups named after a layer's class and a counter
  (`layers/conv2d_3/vars/0`), which newer versions label with the layer's name;
* `.h5` of Keras 1 and 2, which Keras 3 still writes: groups named after layers, listed by the
  attributes `layer_names` and `weight_names`, below `model_weights` in a whole model.

Both give keys such as `conv1_conv/kernel`. What Keras never writes is refused rather than
followed: links to other places and files, virtual and external storage, chunks, compression.
Only names and places are read, and the attributes of `weights_convert.export`, never an array.

Prints a JSON object: {"format": ..., "metadata": {key: text}, "arrays": {key: [offset, dtype,
shape]}, "config": JSON text of the model or null, "scaling": names of layers that scale images}
or {"error": ...}.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import h5py
from h5py import h5o  # pyright: ignore[reportAttributeAccessIssue]

from jtl.common.errors import UserError
from weights_convert.read.h5_access import (
    AGAIN,
    RESAVE,
    Place,
    checked_text,
    child_of,
    group_at,
    has_list,
    list_attribute,
    member_names,
    place_of,
)

_MAX_NESTING = 32
# Of an attribute that `weights_convert.export` wrote, which begin so.
_MAX_METADATA = 65536
_OURS = "jtl_"


# What a layer's variables are called, in Keras's order; of normalizations see `_leaf_names`.
_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "normalization": ("mean", "variance", "count"),
    "layer_normalization": ("gamma", "beta"),
    "layer_scale": ("gamma",),
}
# Layers that scale an image; a file without the model's configuration has but their names.
_SCALING = re.compile(r"(rescaling|normalization)(_\d+)?")
_MAX_CONFIG = 2**24
# What Keras calls the factors of ConvNeXt's LayerScale, which has no other variable.
_VARIABLE = re.compile(r"(?i)^variable(_\d+)?$")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
# Names that every version since Keras 2 gives; InceptionV3's normalizations have no gamma.
_LEAVES = {*_NORM, "kernel", "bias", "mean", "variance", "count", "depthwise_kernel"}
# Top-level groups beside a model's own layers.
_NOT_WEIGHTS = ("optimizer", "vars")


def index(path: str) -> dict[str, Any]:
    """What this module prints of the file at `path`."""
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            arrays, layout = _index(file)
            return {
                "format": layout,
                "metadata": _metadata(file),
                "arrays": arrays,
                "config": _config(file),
                "scaling": _scaling(file),
            }
    except UserError as error:
        return {"error": str(error)}
    # A damaged file can make the HDF5 library and its binding raise almost anything.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return {
            "error": f"it is an HDF5 file that is damaged or cut short ({reason:.200}). {AGAIN}"
        }


def _index(file: h5py.File) -> tuple[dict[str, Place], str]:
    names = set(member_names(file))
    if "model_weights" in names or has_list(file, "layer_names"):
        root = group_at(file, "model_weights") if "model_weights" in names else file
        found, layout = list(_legacy(root)), "keras-h5"
    elif names & {"layers", "_layer_checkpoint_dependencies", "vars"}:
        found, layout = list(_weights(file)), "keras-weights-h5"
    else:
        some = ", ".join(repr(str(name)[:40]) for name in sorted(names)[:5]) or "nothing"
        raise UserError(
            f"it is an HDF5 file that Keras did not write: it holds {some}, and neither "
            f"'model_weights', a list 'layer_names' nor 'layers'. {RESAVE}"
        )
    if not found:
        raise UserError(f"it is a Keras file without weights. {RESAVE}")
    return _by_key(found), layout


def _metadata(file: h5py.File) -> dict[str, str]:
    """What `weights_convert.export` wrote into the root's attributes."""
    found = {}
    for name in file.attrs:
        shape = file.attrs.get_id(name).shape
        if name.startswith(_OURS) and shape == ():
            value = file.attrs[name]
            # h5py gives texts of fixed length as bytes; other programs write those.
            if isinstance(value, str) and len(value) <= _MAX_METADATA:
                found[name.removeprefix(_OURS)] = value
    return found


def _config(file: h5py.File) -> str | None:
    """The configuration of a whole model."""
    if "model_config" not in file.attrs or file.attrs.get_id("model_config").shape != ():
        return None
    value = file.attrs["model_config"]
    text = value.decode("utf-8") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and len(text) <= _MAX_CONFIG else None


def _scaling(file: h5py.File) -> list[str]:
    """What the file calls layers that scale an image."""
    names = set(member_names(file))
    if "layers" in names:
        layers = member_names(group_at(file, "layers"))
    else:
        root = group_at(file, "model_weights") if "model_weights" in names else file
        layers = list_attribute(root, "layer_names") if has_list(root, "layer_names") else []
    return [name for name in layers if _SCALING.fullmatch(name)]


class _Variable(NamedTuple):
    path: str  # Of its layer in the file, unique.
    layer: str
    leaf: str
    place: Place


def _by_key(variables: list[_Variable]) -> dict[str, Place]:
    """Keys by layer names; by paths where models inside the model use one name twice."""
    paths: dict[str, set[str]] = {}
    for variable in variables:
        paths.setdefault(variable.layer, set()).add(variable.path)
    places: dict[str, Place] = {}
    for path, layer, leaf, place in variables:
        leaf = "kernel" if leaf == "depthwise_kernel" else leaf  # As Keras 3 calls it.
        key = f"{layer if len(paths[layer]) == 1 else path}/{leaf}"
        if key in places:
            raise UserError(f"it holds {key[:60]!r} twice. {RESAVE}")
        places[key] = place
    return places


# Keras 3's .weights.h5.


def _weights(file: h5py.File) -> Iterator[_Variable]:
    seen: set[int] = set()
    for name in member_names(file):
        if name not in _NOT_WEIGHTS:
            yield from _weights_below(group_at(file, name), (name,), seen)


def _weights_below(group: h5py.Group, path: tuple[str, ...], seen: set[int]) -> Iterator[_Variable]:
    address = h5o.get_info(group.id).addr
    # A group that contains itself would have no end.
    if address in seen or len(path) > _MAX_NESTING:
        raise UserError(
            f"its group {str(group.name)[:120]!r} is there at two places or nested too deep, "
            f"which Keras never writes. {RESAVE}"
        )
    seen.add(address)
    for name in member_names(group):
        child = child_of(group, name)
        if name == "vars" and isinstance(child, h5py.Group):
            yield from _layer_variables(child, path)
        elif isinstance(child, h5py.Group):
            yield from _weights_below(child, (*path, name), seen)
        else:
            layer = "/".join(path)
            yield _Variable(layer, layer, name, place_of(child, f"{layer}/{name}"))


def _layer_variables(group: h5py.Group, path: tuple[str, ...]) -> Iterator[_Variable]:
    members = sorted(member_names(group), key=lambda name: (len(name), name))
    full = "/".join(part for part in path if part != "layers")
    layer = checked_text(group.attrs["name"]) if "name" in group.attrs else path[-1]
    leaves: Iterable[str] | None = None
    if members == [str(i) for i in range(len(members))]:
        leaves = _leaf_names(re.sub(r"_\d+$", "", path[-1]), len(members))
    for name, leaf in zip(members, leaves or members, strict=True):
        yield _Variable(full, layer, leaf, place_of(child_of(group, name), f"{full}/{name}"))


def _leaf_names(kind: str, count: int) -> tuple[str, ...] | None:
    """The names of a layer's variables by position; None for a layer of an unknown kind."""
    if kind == "batch_normalization" and count in (3, 4):
        # Three are those of a normalization without scales, as in InceptionV3.
        return _NORM[-count:]
    names = _VARIABLES.get(kind, ())[:count]
    return names if len(names) == count else None


# The older .h5.


def _legacy(root: h5py.Group) -> Iterator[_Variable]:
    for layer in list_attribute(root, "layer_names"):
        group = group_at(root, layer)
        names = list_attribute(group, "weight_names")
        # Old files end names in ":0".
        split = [re.sub(r":\d+$", "", name).rpartition("/") for name in names]
        places = [place_of(child_of(group, name), f"{layer}/{name}") for name in names]
        leaves = [_VARIABLE.sub(_NORM[0], leaf) for _, _, leaf in split]
        if not _LEAVES.issuperset(leaves) and (known := _by_position(places)):
            for leaf, place in zip(known, places, strict=True):
                yield _Variable(layer, layer, leaf, place)
            continue
        owners = _without_common_part([owner for owner, _, _ in split])
        # A layer that owns several layers is a model inside the model.
        nested = len(set(owners)) > 1
        for owner, leaf, place in zip(owners, leaves, places, strict=True):
            path = f"{layer}/{owner}" if nested else layer
            yield _Variable(path, owner if nested else layer, leaf, place)


def _by_position(places: list[Place]) -> tuple[str, ...] | None:
    """The names of a layer's variables by their order; None for a layer of another kind.

    Keras 1 called them `conv1_W` or `uniform12`, but had them in the order of today.
    """
    first, *others = [shape for _, _, shape in places] or [()]
    if len(first) in (2, 4) and others in ([], [first[-1:]]):
        return ("kernel", "bias")[: 1 + len(others)]
    if len(first) == 1 and others == [first] * 3:
        return _NORM
    return None


def _without_common_part(paths: list[str]) -> list[str]:
    """`paths` without the leading parts that all of them share."""
    parts = [path.split("/") for path in paths]
    while parts and all(len(p) > 1 and p[0] == parts[0][0] for p in parts):
        parts = [p[1:] for p in parts]
    return ["/".join(p) for p in parts]


# Groups and datasets, taken out with distrust.


def _leave_no_core() -> None:
    """A crash on a damaged file is expected, and its memory is of no use to anybody."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _leave_no_core()
    json.dump(index(sys.argv[1]), sys.stdout)
