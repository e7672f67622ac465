"""Groups, attributes and datasets of an HDF5 file, taken out with distrust.

What Keras never writes is refused rather than followed: links to other places and files, virtual
and external storage, chunks, compression. Damage makes the HDF5 library crash or never return, so
this is used in a process of its own alone; see `h5_index`.
"""

from __future__ import annotations

import math
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5t  # pyright: ignore[reportAttributeAccessIssue]

from jtl.common.errors import UserError

_MAX_NAME = 512
_MAX_NAMES = 2**20
AGAIN = "Download the file again"
RESAVE = "Save the weights again with Keras"
Place = tuple[int | None, str, tuple[int, ...]]
"""An array's offset in bytes (None without elements), its dtype and its shape."""


def has_list(group: h5py.Group, name: str) -> bool:
    """Whether a group has a list of names as an attribute, in one piece or in numbered ones."""
    return name in group.attrs or f"{name}0" in group.attrs


def list_attribute(group: h5py.Group, name: str) -> list[str]:
    """A list of names; Keras splits what is too long for one attribute into numbered ones."""
    if not has_list(group, name):
        raise UserError(f"its group {str(group.name)[:60]!r} lacks the attribute '{name}'. {AGAIN}")
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
                f"its attribute '{attribute}' has the impossible shape {shape}. {AGAIN}"
            )
        values += [checked_text(value) for value in np.asarray(group.attrs[attribute])]
    return values


def checked_text(value: Any) -> str:
    """A name of a layer or a weight as text, unless it is damaged."""
    text = value.decode("utf-8") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not 0 < len(text) <= _MAX_NAME or not text.isprintable():
        raise UserError(f"a name of a layer or of a weight is damaged: {text!r:.60}. {AGAIN}")
    return text


def member_names(group: h5py.Group) -> list[str]:
    """What a group holds, by name."""
    return [str(name) for name in group]


def child_of(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset:
    """The object at `path` below `group`, through nothing but plain containment."""
    node: Any = group
    for part in path.split("/"):
        where = f"{node.name}/{part}".replace("//", "/")[:120]
        link = part.encode()
        # Asking the group itself whether it has the part would follow an external link.
        if not isinstance(node, h5py.Group) or part in ("", ".") or not node.id.links.exists(link):
            raise UserError(f"{where!r} is missing in it. {AGAIN}")
        if node.id.links.get_info(link).type != h5l.TYPE_HARD:
            raise UserError(
                f"{where!r} in it is a link to another place or file, which Keras never writes. "
                f"Nothing was followed. {RESAVE}"
            )
        node = node[part]
    if not isinstance(node, (h5py.Group, h5py.Dataset)):
        raise UserError(f"{path[:120]!r} in it is neither group nor array. {AGAIN}")
    return node


def group_at(group: h5py.Group, path: str) -> h5py.Group:
    """The group at `path` below `group`."""
    node = child_of(group, path)
    if not isinstance(node, h5py.Group):
        raise UserError(f"{path[:120]!r} in it is no group. {AGAIN}")
    return node


def place_of(dataset: h5py.Group | h5py.Dataset, name: str) -> Place:
    """Where the dataset's elements lie in the file, as one run."""
    short = repr(name[:120])
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{short} in it is a group instead of an array. {AGAIN}")
    if dataset.is_virtual or dataset.external:
        raise UserError(
            f"{short} in it is kept in another file, which Keras never does. Nothing was opened. "
            f"{RESAVE}"
        )
    if dataset.id.get_create_plist().get_layout() != h5d.CONTIGUOUS:
        raise UserError(
            f"{short} in it is kept in chunks or compressed, which Keras never does. Nothing was "
            f"unpacked. {RESAVE}, or run `h5repack -l CONTI -f NONE` on the file"
        )
    if dataset.shape is None:
        raise UserError(f"{short} in it has no shape. {AGAIN}")
    dtype = _dtype(dataset, short)
    declared = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > stored or (declared and dataset.id.get_offset() is None):
        raise UserError(f"{short} in it declares {declared} bytes, and {stored} are there. {AGAIN}")
    return dataset.id.get_offset(), dtype, dataset.shape


def _dtype(dataset: h5py.Dataset, short: str) -> str:
    stored = dataset.dtype
    if stored == np.dtype("V2") and "dtype" in dataset.attrs:
        # HDF5 did not know bfloat16; Keras states it beside the bytes.
        if checked_text(dataset.attrs["dtype"]) == "bfloat16":
            return "bfloat16"
    # Damage to a type's description gives numbers that no machine has.
    elif stored.kind in "fiub" and h5t.py_create(stored) == dataset.id.get_type():
        return stored.str
    raise UserError(
        f"{short} in it is of an unusual type, {stored}. Allowed are floating point, integer and "
        f"boolean numbers. {RESAVE}"
    )
