"""Checkpoints of TensorFlow and SavedModels: the variables of a Keras model, without TensorFlow.

A SavedModel is a folder with a program (`saved_model.pb`), which is not run, and a tensor bundle
(`variables/`). Keras 2 keeps the model's configuration beside it, in `keras_metadata.pb`.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError
from weights_convert.printable import shown
from weights_convert.read import mapped, tensor_bundle
from weights_convert.read.protobuf import Message
from weights_convert.read.tensor_bundle import Bundle

PROGRAM = "saved_model.pb"
_METADATA = "keras_metadata.pb"
_INDEX = ("variables", "variables.index")
# Keys and names of what is no weight: an optimizer's state, metrics, counters, copies.
_BESIDE = re.compile(r"(optimizer|keras_api|save_counter)(/.*)?|.*/\.OPTIMIZER_SLOT/.*")
_STATE = re.compile(
    r"global_step|.*/(ExponentialMovingAverage|Momentum|RMSProp(_\d+)?|Adam(_\d+)?|Adagrad)"
)
# What a program calls the layers that scale an image; see `h5_index`.
_SCALING = re.compile(rb"(?<![A-Za-z0-9_])((?:rescaling|normalization|true_divide)(?:_\d{1,6})?)/")
_MAX_METADATA = 2**26


class Content(NamedTuple):
    """Arrays by `layer/variable` in Keras's layouts, and what is around them.

    Attributes:
        tensors: By name.
        left_out: The first parts of the names of what is no weight.
        config: The model's configuration; None if there is none.
        scaling: What the program calls layers that scale an image.
    """

    tensors: dict[str, np.ndarray]
    left_out: tuple[str, ...] = ()
    config: dict[str, Any] | None = None
    scaling: tuple[str, ...] = ()


def index_in(folder: Path) -> Path | None:
    """The index of the variables in a SavedModel, or in a folder with one checkpoint."""
    if (folder / PROGRAM).is_file():
        index = folder.joinpath(*_INDEX)
        return index if index.is_file() else None
    found = tensor_bundle.indices_in(str(folder))
    return Path(found[0]) if len(found) == 1 else None


def files_beside(path: str) -> list[str]:
    """The other files of an index, as paths: those of tensors, the program, the configuration.

    Raises:
        UserError: The index is damaged.
        OSError: It cannot be read.
    """
    if not tensor_bundle.is_index(mapped.whole_file(path)):
        return []
    return [*Bundle(path).files, *_around(path)]


def _around(path: str) -> list[str]:
    """The program and the configuration of a SavedModel, as far as they are there."""
    variables, name = os.path.split(os.path.abspath(path))
    folder, inside = os.path.split(variables)
    places = [os.path.join(folder, file) for file in (PROGRAM, _METADATA)]
    if (inside, name) != _INDEX or not os.path.isfile(places[0]):
        return []
    return [place for place in places if os.path.isfile(place)]


def read(path: str) -> Content:
    """Reads the variables of an index.

    Args:
        path: The index.

    Raises:
        UserError: A file is damaged or missing.
        OSError: A file cannot be read.
    """
    bundle = Bundle(path)
    tensors: dict[str, np.ndarray] = {}
    left_out: dict[str, None] = {}
    for name, key in tensor_bundle.names(bundle):
        name = re.sub(r":\d+$", "", name)
        if _BESIDE.fullmatch(key) or _STATE.fullmatch(name):
            left_out[re.split(r"[/.]", key)[0]] = None
            continue
        array = bundle.array(key)
        if array is None:
            left_out[name] = None
            continue
        if name.endswith("/depthwise_kernel"):
            name = name.removesuffix("depthwise_kernel") + "kernel"  # As Keras 3 calls it.
        # An export has each variable in several lists.
        if name not in tensors:
            tensors[name] = array
        elif not np.array_equal(tensors[name], array):
            raise UserError(
                f"it is a checkpoint of TensorFlow with two variables called '{shown(name, 60)}'. "
                "Save the model as one file: model.save('model.keras')"
            )
    if not tensors:
        raise UserError("it is a checkpoint of TensorFlow without variables")
    around = {os.path.basename(place): mapped.whole_file(place) for place in _around(path)}
    scaling = {name.decode(): None for name in _SCALING.findall(around.get(PROGRAM, b""))}
    return Content(tensors, tuple(left_out), _config(around.get(_METADATA)), tuple(scaling))


def _config(data: memoryview | None) -> dict[str, Any] | None:
    """The configuration of a whole model, of Keras 2; None without one."""
    if data is None or len(data) > _MAX_METADATA:
        return None
    try:
        nodes = Message(data).messages(1)
        root = next((node for node in nodes if node.text(4) == "_tf_keras_network"), None)
        found = json.loads(root.text(5), object_hook=_tuples) if root else None
        return found and {"class_name": found["class_name"], "config": found["config"]}
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"its {_METADATA} is damaged ({error!s:.200}). Download the folder again"
        ) from error


def _tuples(value: dict[str, Any]) -> Any:
    """Lists in place of what Keras writes for tuples."""
    return value["items"] if value.get("class_name") == "__tuple__" and "items" in value else value
