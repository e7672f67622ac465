"""A classifier as `jtl publish` writes it: a folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jtl import models, weights
from jtl.common.errors import UserError, first_line
from jtl.common.trees import ParamTree, leaf_paths, lookup
from jtl.config import walk
from jtl.config.options import Config
from jtl.runs import selective
from jtl.runs.checkpoints.model_description import rebuild_model
from jtl.runs.files import SUMMARY, read_json

DESCRIPTION, WEIGHTS = "jtl.json", "model.safetensors"
FILES = (DESCRIPTION, WEIGHTS, SUMMARY)
"""What is read; other libraries read `config.json` in place of the first."""
MORE = "files"
"""What the description calls a list of further ones, which are read if they are named there."""
OPTIONAL = (selective.FILE,)
PREFIX = "hf:"
UNPUBLISHED = "unpublished:"
"""What the data of a published model are called, which did not come with it."""
FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Published:
    """What a published folder holds.

    Attributes:
        folder: Where its files are.
        config: The options of the run that belong to the model; all others as by default.
        variables: {"params", "batch_stats"}, float32 NumPy arrays.
        meta: As of a checkpoint; see `jtl.runs.checkpoints.model_description`.
        epoch: The epoch it is from.
    """

    folder: Path
    config: Config
    variables: ParamTree
    meta: dict[str, Any]
    epoch: int


def is_published(folder: Path) -> bool:
    """Whether `jtl publish` wrote a folder."""
    return (folder / DESCRIPTION).is_file()


def fetch(name: str) -> Path:
    """The folder in the hub's local cache with a published classifier, downloaded if need be.

    Args:
        name: hf:USER/NAME, or hf:USER/NAME@REVISION.

    Raises:
        UserError: The name is none, or there is no such classifier, or the hub cannot be reached.
    """
    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    check_repo(repo, f"'{name}'")
    folder = weights.fetch(repo, FILES, revision or None)
    description = read_json(folder / DESCRIPTION)
    named = description.get(MORE) if isinstance(description, dict) else None
    more = [name for name in OPTIONAL if isinstance(named, list) and name in named]
    return weights.fetch(repo, more, folder.name) if more else folder


def check_repo(repo: str, told: str) -> None:
    """Raises `UserError` if a text is no USER/NAME of the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
        if repo.count("/") == 1:
            return
    except HFValidationError:
        pass
    raise UserError(f"{told} cannot be a name on the hub. Write it as hf:USER/NAME.")


def read(folder: Path) -> Published:
    """Reads a published folder.

    Raises:
        UserError: A file is missing or damaged, or of another version of jtl.
    """
    found = read_json(folder / DESCRIPTION)
    try:
        if found["format_version"] != FORMAT_VERSION:
            raise UserError(
                f"'{folder / DESCRIPTION}' has format version {found['format_version']}, but this "
                f"version of jtl reads version {FORMAT_VERSION}. Use the version that wrote it."
            )
        known = walk.options(Config)
        values = {name: walk.from_json(known[name], v) for name, v in found["options"].items()}
        values["data"] = UNPUBLISHED + str(found["data"])
        config, meta = walk.replace(Config(), values), found["meta"]
        layout, epoch = found["layout"], int(found["epoch"])
        model, _ = rebuild_model(meta)
    except (KeyError, TypeError, ValueError, AttributeError, LookupError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"'{folder / DESCRIPTION}' cannot be read: it is damaged, or from another version of "
            f"jtl ({type(error).__name__}: {error})."
        ) from error
    path = folder / WEIGHTS
    if layout == "jtl":
        variables = _tensors(path)
    else:
        variables = weights.resolve(str(path), meta["model"]).variables
    expected = models.variable_shapes(model, meta["input"]["size"])
    if _shapes(variables) != _shapes(expected):
        raise UserError(f"'{path}' does not hold the weights that {DESCRIPTION} describes.")
    return Published(folder, config, variables, meta, epoch)


def _shapes(tree: ParamTree) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: tuple(lookup(tree, path).shape) for path in leaf_paths(tree)}


def _tensors(path: Path) -> ParamTree:
    """Arrays under jtl's own names."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tree = unflatten_dict(load_file(path), sep="/")
        return {"params": {}, "batch_stats": {}} | tree
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(f"'{path}' cannot be read: {first_line(error)}.") from error


def write_tensors(path: Path, variables: ParamTree, metadata: Mapping[str, Any]) -> None:
    """Writes arrays under jtl's own names, such as `params/head/logits/kernel`."""
    from safetensors.numpy import save_file

    flat = flatten_dict(variables, sep="/")
    arrays = {key: np.ascontiguousarray(leaf) for key, leaf in flat.items()}
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    save_file(arrays, path, texts)
