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
shape]}} or {"error": ...}.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5d, h5l, h5o, h5t  # pyright: ignore[reportAttributeAccessIssue]

from jtl.common.errors import UserError

_MAX_NAME = 512
_MAX_NAMES = 2**20
_MAX_NESTING = 32
# Of an attribute that `weights_convert.export` wrote, which begin so.
_MAX_METADATA = 65536
_OURS = "jtl_"

_AGAIN = "Download the file again"
_RESAVE = "Save the weights again with Keras"

# What a layer's variables are called, in Keras's order; of normalizations see `_leaf_names`.
_VARIABLES = {"conv2d": ("kernel", "bias"), "dense": ("kernel", "bias")}
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
# Top-level groups beside a model's own layers.
_NOT_WEIGHTS = ("optimizer", "vars")

Place = tuple[int | None, str, tuple[int, ...]]
"""An array's offset in bytes (None without elements), its dtype and its shape."""


def index(path: str) -> dict[str, Any]:
    """What this module prints of the file at `path`."""
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            arrays, layout = _index(file)
            return {"format": layout, "metadata": _metadata(file), "arrays": arrays}
    except UserError as error:
        return {"error": str(error)}
    # A damaged file can make the HDF5 library and its binding raise almost anything.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        return {
            "error": f"it is an HDF5 file that is damaged or cut short ({reason:.200}). {_AGAIN}"
        }


def _index(file: h5py.File) -> tuple[dict[str, Place], str]:
    names = set(_members(file))
    if "model_weights" in names or _has_list(file, "layer_names"):
        root = _group(file, "model_weights") if "model_weights" in names else file
        found, layout = list(_legacy(root)), "keras-h5"
    elif names & {"layers", "_layer_checkpoint_dependencies", "vars"}:
        found, layout = list(_weights(file)), "keras-weights-h5"
    else:
        some = ", ".join(repr(str(name)[:40]) for name in sorted(names)[:5]) or "nothing"
        raise UserError(
            f"it is an HDF5 file that Keras did not write: it holds {some}, and neither "
            f"'model_weights', a list 'layer_names' nor 'layers'. {_RESAVE}"
        )
    if not found:
        raise UserError(f"it is a Keras file without weights. {_RESAVE}")
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
        key = f"{layer if len(paths[layer]) == 1 else path}/{leaf}"
        if key in places:
            raise UserError(f"it holds {key[:60]!r} twice. {_RESAVE}")
        places[key] = place
    return places


# Keras 3's .weights.h5.


def _weights(file: h5py.File) -> Iterator[_Variable]:
    seen: set[int] = set()
    for name in _members(file):
        if name not in _NOT_WEIGHTS:
            yield from _weights_below(_group(file, name), (name,), seen)


def _weights_below(group: h5py.Group, path: tuple[str, ...], seen: set[int]) -> Iterator[_Variable]:
    address = h5o.get_info(group.id).addr
    # A group that contains itself would have no end.
    if address in seen or len(path) > _MAX_NESTING:
        raise UserError(
            f"its group {str(group.name)[:120]!r} is there at two places or nested too deep, "
            f"which Keras never writes. {_RESAVE}"
        )
    seen.add(address)
    for name in _members(group):
        child = _child(group, name)
        if name == "vars" and isinstance(child, h5py.Group):
            yield from _layer_variables(child, path)
        elif isinstance(child, h5py.Group):
            yield from _weights_below(child, (*path, name), seen)
        else:
            layer = "/".join(path)
            yield _Variable(layer, layer, name, _place(child, f"{layer}/{name}"))


def _layer_variables(group: h5py.Group, path: tuple[str, ...]) -> Iterator[_Variable]:
    members = sorted(_members(group), key=lambda name: (len(name), name))
    full = "/".join(part for part in path if part != "layers")
    layer = _text(group.attrs["name"]) if "name" in group.attrs else path[-1]
    leaves: Iterable[str] | None = None
    if members == [str(i) for i in range(len(members))]:
        leaves = _leaf_names(re.sub(r"_\d+$", "", path[-1]), len(members))
    for name, leaf in zip(members, leaves or members, strict=True):
        yield _Variable(full, layer, leaf, _place(_child(group, name), f"{full}/{name}"))


def _leaf_names(kind: str, count: int) -> tuple[str, ...] | None:
    """The names of a layer's variables by position; None for a layer of an unknown kind."""
    if kind == "batch_normalization" and count in (3, 4):
        # Three are those of a normalization without scales, as in InceptionV3.
        return _NORM[-count:]
    names = _VARIABLES.get(kind, ())[:count]
    return names if len(names) == count else None


# The older .h5.


def _legacy(root: h5py.Group) -> Iterator[_Variable]:
    for layer in _list_attribute(root, "layer_names"):
        group = _group(root, layer)
        names = _list_attribute(group, "weight_names")
        # Old files end names in ":0".
        split = [re.sub(r":\d+$", "", name).rpartition("/") for name in names]
        owners = _without_common_part([owner for owner, _, _ in split])
        # A layer that owns several layers is a model inside the model.
        nested = len(set(owners)) > 1
        for name, owner, (_, _, leaf) in zip(names, owners, split, strict=True):
            place = _place(_child(group, name), f"{layer}/{name}")
            path = f"{layer}/{owner}" if nested else layer
            yield _Variable(path, owner if nested else layer, leaf, place)


def _without_common_part(paths: list[str]) -> list[str]:
    """`paths` without the leading parts that all of them share."""
    parts = [path.split("/") for path in paths]
    while parts and all(len(p) > 1 and p[0] == parts[0][0] for p in parts):
        parts = [p[1:] for p in parts]
    return ["/".join(p) for p in parts]


def _has_list(group: h5py.Group, name: str) -> bool:
    return name in group.attrs or f"{name}0" in group.attrs


def _list_attribute(group: h5py.Group, name: str) -> list[str]:
    """A list of names; Keras splits what is too long for one attribute into numbered ones."""
    if not _has_list(group, name):
        raise UserError(
            f"its group {str(group.name)[:60]!r} lacks the attribute '{name}'. {_AGAIN}"
        )
    attributes = [name]
    if name not in group.attrs:
        attributes = []
        while f"{name}{len(attributes)}" in group.attrs:
            attributes.append(f"{name}{len(attributes)}")
    values: list[str] = []
    for attribute in attributes:
        shape = group.attrs.get_id(attribute).shape
        if len(shape) != 1 or math.prod(shape) > _MAX_NAMES:
            raise UserError(
                f"its attribute '{attribute}' has the impossible shape {shape}. {_AGAIN}"
            )
        values += [_text(value) for value in np.asarray(group.attrs[attribute])]
    return values


def _text(value: Any) -> str:
    text = value.decode("utf-8") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_NAME or not text.isprintable():
        raise UserError(f"a name of a layer or of a weight is damaged: {text!r:.60}. {_AGAIN}")
    return text


# Groups and datasets, taken out with distrust.


def _members(group: h5py.Group) -> list[str]:
    return [str(name) for name in group]


def _child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """The object at `path` below `group`, through nothing but plain containment."""
    node: Any = group
    for part in path.split("/"):
        where = f"{node.name}/{part}".replace("//", "/")[:120]
        link = part.encode()
        # Asking the group itself whether it has the part would follow an external link.
        if not isinstance(node, h5py.Group) or part in ("", ".") or not node.id.links.exists(link):
            raise UserError(f"{where!r} is missing in it. {_AGAIN}")
        if node.id.links.get_info(link).type != h5l.TYPE_HARD:
            raise UserError(
                f"{where!r} in it is a link to another place or file, which Keras never writes. "
                f"Nothing was followed. {_RESAVE}"
            )
        node = node[part]
    if not isinstance(node, (h5py.Group, h5py.Dataset)):
        raise UserError(f"{path[:120]!r} in it is neither group nor array. {_AGAIN}")
    return node


def _group(group: h5py.Group, path: str) -> h5py.Group:
    node = _child(group, path)
    if not isinstance(node, h5py.Group):
        raise UserError(f"{path[:120]!r} in it is no group. {_AGAIN}")
    return node


def _place(dataset: h5py.Group | h5py.Dataset, name: str) -> Place:
    """Where the dataset's elements lie in the file, as one run."""
    short = repr(name[:120])
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{short} in it is a group instead of an array. {_AGAIN}")
    if dataset.is_virtual or dataset.external:
        raise UserError(
            f"{short} in it is kept in another file, which Keras never does. Nothing was opened. "
            f"{_RESAVE}"
        )
    if dataset.id.get_create_plist().get_layout() != h5d.CONTIGUOUS:
        raise UserError(
            f"{short} in it is kept in chunks or compressed, which Keras never does. Nothing was "
            f"unpacked. {_RESAVE}, or run `h5repack -l CONTI -f NONE` on the file"
        )
    if dataset.shape is None:
        raise UserError(f"{short} in it has no shape. {_AGAIN}")
    dtype = _dtype(dataset, short)
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > stored or (declared and dataset.id.get_offset() is None):
        raise UserError(
            f"{short} in it declares {declared} bytes, and {stored} are there. {_AGAIN}"
        )
    return dataset.id.get_offset(), dtype, dataset.shape


def _dtype(dataset: h5py.Dataset, short: str) -> str:
    stored = dataset.dtype
    if stored == np.dtype("V2") and "dtype" in dataset.attrs:
        # HDF5 did not know bfloat16; Keras states it beside the bytes.
        if _text(dataset.attrs["dtype"]) == "bfloat16":
            return "bfloat16"
    # Damage to a type's description gives numbers that no machine has.
    elif stored.kind in "fiub" and h5t.py_create(stored) == dataset.id.get_type():
        return stored.str
    raise UserError(
        f"{short} in it is of an unusual type, {stored}. Allowed are floating point, integer and "
        f"boolean numbers. {_RESAVE}"
    )


def _leave_no_core() -> None:
    """A crash on a damaged file is expected, and its memory is of no use to anybody."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    _leave_no_core()
    json.dump(index(sys.argv[1]), sys.stdout)
