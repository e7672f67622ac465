"""The weight store: from what `--weights` says to a converted checkpoint.

A source is converted when it is first asked for and kept under `cache_dir()`, so that later
runs read Flax arrays and need neither the source's file format nor its library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jtl import models
from jtl.common import files
from jtl.common.errors import UserError
from jtl.common.paths import WEIGHTS, cache_dir

if TYPE_CHECKING:
    from weights_convert.checkpoint.folder import ConvertedCheckpoint
    from weights_convert.export.targets import TargetModel
    from weights_convert.source.description import Source

Progress = Callable[[str], None]


def _silent(message: str) -> None:
    del message


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a checkpoint is read where its own keys do not say; see `jtl weights`.

    Attributes:
        entry: The entry of a PyTorch checkpoint that holds the weights; None for the usual one.
        strip_prefix: What stands before the network's keys; None to find out.
        ignore_keys: A regular expression of keys to leave out.
        bgr: Whether the weights expect blue first.
    """

    entry: str | None = None
    strip_prefix: str | None = None
    ignore_keys: str | None = None
    bgr: bool = False

    def flags(self) -> list[str]:
        """The options that are given, as flags."""
        given = dataclasses.asdict(self)
        return [f"--{name.replace('_', '-')}" for name, value in given.items() if value]


def resolve(
    spec: str,
    model: str,
    cache: Path | None = None,
    progress: Progress = _silent,
    reading: Reading = Reading(),
) -> ConvertedCheckpoint:
    """The weights that `spec` names, converted for the backbone `model`.

    Args:
        spec: `default` (of the model), `timm:NAME[@REVISION]` (the Hugging Face hub),
            `package:NAME` (an installed package), `torchvision:NAME` (PyTorch's cache), the path
            of a checkpoint file, or the path of a folder that `weights_convert` wrote or that
            holds a checkpoint as on the Hugging Face hub.
        model: A name of `jtl.models.names()`.
        cache: Where converted weights are kept; default `cache_dir()`.
        progress: Called with a line of text when something takes time or is worth knowing.
        reading: How the checkpoint is read.

    Returns:
        The checkpoint, its variables as NumPy arrays.

    Raises:
        UserError: The weights are not to be had, cannot be read, or are of another model.
    """
    from weights_convert.checkpoint import folder as converted_folder
    from weights_convert.read import sharded
    from weights_convert.source import hub, source_conversion, sources

    models.get(model)
    folder = os.path.expanduser(spec)
    if (
        not spec.startswith(("timm:", "package:", "torchvision:"))
        and spec != "default"
        and os.path.isdir(folder)
        and (converted_folder.is_converted(Path(folder)) or not sharded.checkpoint_in(Path(folder)))
    ):
        if flags := reading.flags():
            raise UserError(
                f"'{spec}' is a folder of converted weights, so {', '.join(flags)} cannot change "
                "anything. Use it with `jtl weights` when you convert."
            )
        converted = converted_folder.read(folder)
        if converted.model != model:
            raise UserError(
                f"'{spec}' holds weights of {converted.model}, but the model is {model}. Try "
                f"--model {converted.model}, or other weights: "
                f"{models.get(model).default_weights}."
            )
        return converted
    try:
        source = sources.locate(spec, model, **dataclasses.asdict(reading))
    except hub.Unavailable as error:
        raise UserError(
            f"{error} A file goes in --weights PATH; --weights random trains without pretrained "
            "weights."
        ) from error
    entry = (cache_dir() if cache is None else cache) / WEIGHTS / f"{model}-{_key(source, model)}"
    if (cached := _cached(entry, progress)) is not None:
        return cached
    progress(f"Preparing the pretrained weights {source.name} for {model} (once)")
    converted = source_conversion.convert_source(source, model)
    for note in converted.notes:
        progress(f"{source.name}: {note}")
    try:
        converted_folder.write(entry, converted)
    except UserError as error:
        progress(f"jtl could not save the converted weights: {error}")
    return converted


def _cached(entry: Path, progress: Progress) -> ConvertedCheckpoint | None:
    """What the cache holds at `entry`; a damaged entry is removed."""
    from weights_convert.checkpoint import folder as converted_folder

    if not os.path.lexists(entry):
        return None
    try:
        return converted_folder.read(entry)
    except UserError as error:
        progress(f"converting again, because the cached weights are damaged: {error}")
    with contextlib.suppress(OSError):  # Read-only; `write` will tell.
        files.remove(entry)
    return None


def _key(source: Source, model: str) -> str:
    """Names everything that the converted checkpoint depends on, in 16 hexadecimal digits."""
    from weights_convert.checkpoint.description import FORMAT_VERSION
    from weights_convert.convert.tables import TABLES_VERSION

    metadata = dataclasses.asdict(source) | {
        "path": _sha256(source.path),
        "model": model,
        "format_version": FORMAT_VERSION,
        "tables_version": TABLES_VERSION,
    }
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:16]


def _sha256(path: Path) -> str | None:
    from weights_convert.read import sharded

    try:
        # Opening a pipe would wait for ever; the reader refuses it in words.
        if not path.is_file():
            return None
        return sharded.digest(path)
    except (OSError, UserError):
        return None  # Likewise.


def choose(word: str, progress: Progress = _silent) -> str:
    """The backbone that `auto:fast` or `auto:best` stands for; see `source.choice`."""
    from weights_convert.source import choice

    chosen = choice.choose(word, progress)
    progress(chosen.why)
    return chosen.model


def translate(name: str, model: str) -> str:
    """From another library's layer name to a path; see `convert.layer_names`."""
    from weights_convert.convert import layer_names

    return layer_names.translate(name, model)


def export(folder: Path, to: str, path: Path) -> TargetModel:
    """Writes a run's best weights for another library; see `weights_convert.export.writer`."""
    from weights_convert.export import writer

    return writer.export(folder, to, path)


def fetch(repo: str, files: Sequence[str], revision: str | None = None) -> Path:
    """Files on the Hugging Face hub; see `weights_convert.source.hub.fetch_files`."""
    from weights_convert.source import hub

    return hub.fetch_files(repo, files, revision)
