"""Reading the trees of arrays that Orbax has written, without Orbax where that can be.

To import Orbax, and to let it find out what there is and read it, takes several times as long as
reading the files: with a whole network's arrays a third of the time of predicting one image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common.trees import ParamTree

_METADATA = "_METADATA"
_DICT_KEY = 2
_ARRAYS = ("np.ndarray", "jax.Array")
_EMPTY = "Dict"


def read_tree(folder: Path) -> ParamTree:
    """Nested dicts of NumPy arrays, by whatever device or process they were saved.

    Args:
        folder: An absolute path without special characters; see `plain_path`.

    Raises:
        Exception: The folder cannot be read; of many types.
    """
    metadata = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    leaves = _plain_leaves(metadata)
    return read_by_orbax(folder) if leaves is None else _by_tensorstore(folder, leaves)


def _plain_leaves(metadata: dict[str, Any]) -> dict[tuple[str, ...], bool] | None:
    """Whether each leaf, by its path, is an array or else an empty dict.

    None where something is of a kind or in a layout that jtl does not write.
    """
    if not metadata.get("use_ocdbt") or metadata.get("use_zarr3"):
        return None
    leaves = {}
    for entry in metadata["tree_metadata"].values():
        keys, value = entry["key_metadata"], entry["value_metadata"]
        is_array = value["value_type"] in _ARRAYS and not value["skip_deserialize"]
        is_plain = is_array or value["value_type"] == _EMPTY
        if not is_plain or any(key["key_type"] != _DICT_KEY for key in keys):
            return None
        leaves[tuple(key["key"] for key in keys)] = is_array
    return leaves


def _by_tensorstore(folder: Path, leaves: dict[tuple[str, ...], bool]) -> ParamTree:
    import tensorstore  # Late: who reads no arrays does without.

    def opened(path: tuple[str, ...]) -> Any:
        store = {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{folder}/"},
            "path": f"{'.'.join(path)}/",
        }
        spec = {"driver": "zarr", "kvstore": store, "fill_missing_data_reads": False}
        return tensorstore.open(spec, open=True, context=context)

    context = tensorstore.Context()
    # All at once: TensorStore's threads open and read them side by side.
    opening = {path: opened(path) for path, is_array in leaves.items() if is_array}
    reading = {path: future.result().read() for path, future in opening.items()}
    tree: ParamTree = {}
    for path in leaves:
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = np.asarray(reading[path].result()) if path in reading else {}
    return tree


def read_by_orbax(folder: Path, template: Any = None) -> Any:
    """The same by Orbax.

    Args:
        folder: As of `read_tree`.
        template: A tree of the structure that was saved, which the result has; default dicts.

    Raises:
        Exception: As of `read_tree`; also where the template is of another structure.
    """
    import jax
    import orbax.checkpoint as ocp

    handler: Any = ocp.PyTreeCheckpointHandler()
    tree = handler.metadata(folder).tree if template is None else template
    # As NumPy arrays: what many devices saved would go to as many again.
    numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    args = ocp.args.PyTreeRestore(item=template, restore_args=numpy)
    return handler.restore(folder, args=args)
