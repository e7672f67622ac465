"""Checkpoints in several files, and folders that hold a checkpoint.

The index is that of Hugging Face (`model.safetensors.index.json`): {"weight_map": {key: file}}.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from jtl.common.errors import UserError
from weights_convert.printable import listed, shown
from weights_convert.read import onnx_files, saved_models

SUFFIX = ".index.json"
# Names in a folder of transformers or timm, in the order of preference.
_IN_FOLDERS = (
    "model.safetensors",
    f"model.safetensors{SUFFIX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{SUFFIX}",
)
_MAX_INDEX = 2**26
_AGAIN = "Download the file again"


def is_index(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is called as an index is."""
    return os.fsdecode(path).endswith(SUFFIX)


def checkpoint_in(folder: Path) -> Path | None:
    """The checkpoint in a folder of one of the usual layouts; None without one."""
    found = next((folder / name for name in _IN_FOLDERS if (folder / name).is_file()), None)
    if found is None and folder.is_dir():
        found = saved_models.index_in(folder)
    return found


def files_beside(path: str | os.PathLike[str]) -> list[str]:
    """The other files of a checkpoint in several files, as paths; none of one in one file.

    Raises:
        UserError: What names them is damaged.
        OSError: It cannot be read.
    """
    location = os.fsdecode(path)
    if is_index(location):
        return sorted(set(read_index(location).values()))
    return onnx_files.files_beside(location) or saved_models.files_beside(location)


def read_index(path: str) -> dict[str, str]:
    """The file of every tensor, by its key, as absolute paths.

    Raises:
        UserError: The index is damaged, or names files elsewhere.
    """
    try:
        if os.path.getsize(path) > _MAX_INDEX:
            raise ValueError(f"it has more than {_MAX_INDEX} bytes")
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
        files = index["weight_map"]
        if not files or not all(type(name) is str and name for name in files.values()):
            raise ValueError("weight_map names no files")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"it is no index of a checkpoint in several files ({type(error).__name__}: "
            f"{shown(error)}). {_AGAIN}"
        ) from error
    if outside := sorted({name for name in files.values() if os.path.basename(name) != name}):
        raise UserError(
            f"it names files outside of its folder ({listed(outside, 3)}), which no index does. "
            f"Nothing was opened. {_AGAIN}"
        )
    folder = os.path.dirname(os.path.abspath(path))
    return {key: os.path.join(folder, name) for key, name in files.items()}


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a checkpoint; of several files, that of the first and then of each by name.

    Raises:
        UserError: An index is damaged.
        OSError: A file cannot be read.
    """
    location = os.fsdecode(path)
    beside = files_beside(location)
    with open(location, "rb") as file:
        if not beside:
            return hashlib.file_digest(file, "sha256").hexdigest()
        whole = hashlib.sha256(file.read())
    for other in beside:
        with open(other, "rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
