"""The converted checkpoint on disk: a folder that appears whole or not at all.

    FOLDER/
      weights.json   what the weights are, where they came from, what they expect
      README.md      the same for people: a model card
      variables/     an Orbax checkpoint of {"params", "batch_stats"}, float32

The folder is everything that jtl needs of a source: whoever has it needs neither the source's
file nor its library.
"""

from __future__ import annotations

import dataclasses
import datetime
import errno
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jtl import models
from jtl.common import files, hashes
from jtl.common.errors import UserError, first_line
from jtl.common.orbax_arrays import read_tree
from jtl.common.paths import plain_path
from jtl.common.trees import leaf_paths, lookup
from weights_convert.checkpoint import card, description
from weights_convert.convert.filling import report
from weights_convert.printable import is_text

VARIABLES = "variables"


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    packages = {"jtl": "jtl", "jax": "jax", "flax": "flax", "orbax": "orbax-checkpoint"}
    return {name: importlib.metadata.version(package) for name, package in packages.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class ConvertedCheckpoint:
    """Converted weights and everything known about them.

    Attributes:
        model: A name of `jtl.models.names()`.
        variables: {"params": ..., "batch_stats": ...} of float32 NumPy arrays, with `head`
            where the source had a classifier.
        library: The source's naming convention.
        conventions: Fields for `jtl.models.create(..., conventions=...)`.
        num_classes: Width of the source's classifier; None without one.
        class_names: Of the source's classes in order, where it states them.
        preprocessing: What the weights expect of an image.
        source: As the user named it; of a path only the file's name.
        sha256: Of the source's file.
        licence: Of the weights, where known.
        source_format: `safetensors`, `torch-zip`, ...
        created: When the source was converted, ISO 8601 in UTC.
        versions: Of the packages that converted it.
        revision: The hub's commit that the file belongs to; None for other sources.
        verified: What `weights_convert.verify` measured; None if it was not asked to.
        notes: What the user should know, such as a guess.
        counters: PyTorch's `num_batches_tracked` by the path of the normalization.
        reading: What became of the source's content.
    """

    model: str
    variables: dict[str, Any]
    library: str
    conventions: dict[str, Any]
    num_classes: int | None
    class_names: tuple[str, ...] | None
    preprocessing: models.Preprocessing
    source: str
    sha256: str
    licence: str | None
    source_format: str
    created: str = dataclasses.field(default_factory=_now)
    versions: dict[str, str] = dataclasses.field(default_factory=_versions)
    revision: str | None = None
    verified: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    counters: dict[str, int] = dataclasses.field(default_factory=dict)
    reading: description.Reading = dataclasses.field(default_factory=description.Reading)

    @property
    def num_params(self) -> int:
        """Number of params, without batch statistics."""
        params = self.variables["params"]
        return sum(lookup(params, path).size for path in leaf_paths(params))


def is_converted(folder: Path) -> bool:
    """Whether `folder` looks like one that `write` made, be it damaged."""
    return (folder / description.FILE_NAME).is_file() and (folder / VARIABLES).is_dir()


def write(
    out: str | os.PathLike[str], checkpoint: ConvertedCheckpoint, *, overwrite: bool = False
) -> None:
    """Writes a converted checkpoint.

    Everything is written beside `out` and then renamed, so nobody ever sees a part of it. Of
    several processes that write the same weights to the same place, the first one wins and
    the others keep its folder.

    Args:
        out: The folder to make; parents are made as needed. It may exist if it is empty.
        checkpoint: What to write.
        overwrite: Whether to replace `out` if it is a converted checkpoint.

    Raises:
        UserError: `out` is taken or cannot be written. Nothing has changed then.
    """
    refuse_taken(out, overwrite=overwrite)
    target = Path(os.path.realpath(out))
    try:
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
        files.remove_leftovers(target.parent)
        with files.partial(target) as unfinished:
            unfinished.mkdir()
            _save_variables(unfinished, checkpoint.variables)
            card.save(unfinished, checkpoint)
            description.save(unfinished, _facts(checkpoint, hashes.of_files(unfinished, VARIABLES)))
            # Whatever exits with success can be read.
            description.load(unfinished)
            _move_into_place(unfinished, target, checkpoint, overwrite)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"cannot write '{out}': {reason}. Choose a folder that you may write to and that "
            "has room."
        ) from error


def refuse_taken(out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raises a UserError unless `out` is free, empty, or may be replaced."""
    target = Path(os.path.realpath(out))
    if not is_text(str(target)):
        # Orbax would write there, but could not read it back.
        raise UserError(
            f"the path {os.fsencode(target)!r} is not UTF-8. Choose a folder whose path is."
        )
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise UserError(f"'{target}' is a file. Choose a folder that does not exist yet.")
    if not any(target.iterdir()) or (overwrite and is_converted(target)):
        return
    if is_converted(target):
        raise UserError(
            f"'{target}' already holds a converted checkpoint. Choose another folder, or allow "
            "it to be replaced with --overwrite."
        )
    raise UserError(
        f"'{target}' is not empty and is no converted checkpoint, so it is left alone. Choose a "
        "folder that does not exist yet."
    )


def _save_variables(folder: Path, variables: Mapping[str, Any]) -> None:
    import jax
    import orbax.checkpoint as ocp

    if jax.process_count() > 1:
        # Orbax would wait for all processes, and leave the writing to the first one.
        raise UserError(
            "weights are converted by a single process, before several join: "
            "`jtl weights`, and --weights with the folder that it writes."
        )
    try:
        with plain_path(folder) as plain, ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(plain / VARIABLES, variables)
    except OSError:
        raise
    except Exception as error:
        # The storage library reports a full disk, among others, under types of its own.
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def _facts(checkpoint: ConvertedCheckpoint, files: Mapping[str, str]) -> dict[str, Any]:
    """What `weights.json` says of an checkpoint and of the files beside it."""
    facts = {
        field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)
    }
    del facts["variables"]
    return {**facts, "format": facts.pop("source_format"), "files": files}


def _move_into_place(
    made: Path, target: Path, checkpoint: ConvertedCheckpoint, overwrite: bool
) -> None:
    try:
        files.place(made, target, overwrite=overwrite and is_converted(target))
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_converted(target):
            raise
        # Another process was faster; the same weights need no second copy.
        winner = description.load_unchecked(target)
        same = ("sha256", "model", "num_classes", "class_names", "conventions", "preprocessing")
        ours = {key: getattr(checkpoint, key) for key in same}
        ours = json.loads(json.dumps(ours, default=dataclasses.asdict))
        if any(winner[key] != value for key, value in ours.items()):
            raise UserError(
                f"another process wrote other weights, or the same with other options, to "
                f"'{target}' in the meantime. Choose another folder."
            ) from None


def read(folder: str | os.PathLike[str]) -> ConvertedCheckpoint:
    """Reads a converted checkpoint and checks it against its model.

    Args:
        folder: What `write` made.

    Returns:
        The checkpoint, with writable float32 NumPy arrays.

    Raises:
        UserError: The folder is missing, damaged, of a newer format, or its variables are not
            exactly those of its model; the message lists the differences.
    """
    path = Path(os.path.realpath(folder))
    facts = description.load(path)
    classifier = models.create(
        facts["model"],
        num_classes=facts["num_classes"] or 1,
        head=models.get(facts["model"]).classifier if facts["num_classes"] else None,
        conventions=facts["conventions"],
    )
    if reason := hashes.damage(path, facts.pop("files")):
        raise description.damaged(path, reason)
    variables = _restore(path, models.variable_shapes(classifier))
    return ConvertedCheckpoint(variables=variables, source_format=facts.pop("format"), **facts)


def _restore(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """The variables, which are exactly the expected ones."""
    try:
        with plain_path(folder) as plain:
            stored = read_tree(plain / VARIABLES)
    except Exception as error:
        # A damaged checkpoint can make the storage library raise almost anything.
        reason = f"{VARIABLES}/ cannot be read ({type(error).__name__}: {first_line(error)})"
        raise description.damaged(folder, reason) from error
    if problems := differences(stored, expected):
        raise description.damaged(folder, report(problems, "between it and its model"))
    return stored


def differences(stored: Mapping[str, Any], expected: Mapping[str, Any]) -> list[str]:
    """A line for each leaf that a tree of arrays lacks, has besides, or has in another form."""
    found, wanted = leaf_paths(stored), set(leaf_paths(expected))
    problems = [f"missing    {'/'.join(path)}" for path in sorted(wanted.difference(found))]
    for path in found:
        leaf, name = lookup(stored, path), "/".join(path)
        if path not in wanted:
            problems.append(f"unexpected {name}")
        elif tuple(leaf.shape) != (shape := tuple(lookup(expected, path).shape)):
            problems.append(f"shape      {name} is {tuple(leaf.shape)}, expected {shape}")
        elif np.dtype(leaf.dtype) != np.float32:
            problems.append(f"dtype      {name} is {leaf.dtype}, expected float32")
    return problems
