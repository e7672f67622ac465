"""Reads a source's file and converts it, with all that is known of it."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from jtl import models
from jtl.common.errors import UserError
from weights_convert.checkpoint.description import Reading
from weights_convert.checkpoint.folder import ConvertedCheckpoint
from weights_convert.convert.conversion import Converted, convert
from weights_convert.convert.counting import counted
from weights_convert.convert.folded import with_epsilon
from weights_convert.convert.prefixes import MIN_MATCH, quick_match
from weights_convert.convert.spellings import CLIP, TOWER
from weights_convert.convert.tables import TABLES, has, published
from weights_convert.printable import listed
from weights_convert.read import readers
from weights_convert.source import (
    architectures,
    arguments,
    class_names,
    keras_graph,
    keras_layers,
    metadata,
    normalization,
    onnx_check,
    plain_values,
    same_keys,
)
from weights_convert.source.description import Source

# Variables of Keras's layer that normalizes an image, not a network's features.
_NORMALIZATION = re.compile(r"(.*/)?\w*normalization(_\d+)?/(mean|variance|count)")
# Who states the preprocessing where nobody else does.
_USUAL = "the usual of such weights"


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
        if file.graph:
            family = models.get(converted.model).family
            table = next(t for t in TABLES if (t.library, t.family) == (converted.library, family))
            built = models.create(converted.model, conventions=converted.conventions)
            onnx_check.check(file.graph, table, built.backbone, converted.prefix)
    except UserError as error:
        target = f" for {model}" if model else ""
        raise UserError(f"cannot convert '{source.name}'{target}: {error}") from error
    stated = _stated(source, converted)
    unclear = converted.shown.get("norm_pre") and converted.spelling in (CLIP, TOWER)
    if unclear and not source.architecture and "activation" not in stated:
        raise UserError(
            f"'{source.name}' holds a vision transformer of CLIP, and its keys do not show which "
            "activation it was trained with. OpenAI's own networks have QuickGELU: say so with "
            f"--architecture {_clip_name(converted.model, 'quickgelu')} of `jtl weights`. "
            "OpenCLIP's of LAION and DataComp have GELU: --architecture "
            f"{_clip_name(converted.model, 'clip_')}."
        )
    if converted.spelling == TOWER and converted.num_classes and not _averages(converted):
        raise UserError(
            f"the classifier of '{source.name}' stands on the mean of the patches, as in "
            "transformers, where jtl's network does not pool so. Convert the backbone alone with "
            "--drop-head of `jtl weights`."
        )
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
    conventions = {**conventions, **converted.shown, **stated}
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


def _averages(converted: Converted) -> bool:
    return converted.shown.get("pooling") == "normed_avg"


def _stated(source: Source, converted: Converted) -> dict[str, Any]:
    """Fields of a vision transformer that no key shows, as configurations say them."""
    if not hasattr(models.get(converted.model).backbone, "activation"):
        return {}
    stated = {key: value for one in source.built for key, value in one.conventions.items()}
    if converted.spelling == TOWER and not converted.shown.get("norm_pre"):
        stated.setdefault("activation", "gelu_tanh")  # All that are published have it.
    return stated


def _clip_name(model: str, part: str) -> str:
    """Timm's first name of a model's networks with `part` in it."""
    return next((name for name in published(model).timm if part in name), model)


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
        if note:
            fields = keras_layers.of_application(file.tensors)
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
    backbone = models.create(converted.model, conventions=converted.conventions).backbone
    if size := getattr(backbone, "image_size", None):
        preprocessing = dataclasses.replace(preprocessing, size=size)
    conventions = {**converted.conventions, **conventions, **source.conventions}
    if converted.folded:
        exact: Any = models.create(converted.model, conventions=conventions).backbone
        with_epsilon(converted.variables, converted.folded, exact.norm.epsilon)
    notes = [*source.notes, *file.notes, *converted.notes]
    guess = architectures.guess(converted.model, converted.library, converted.shown)
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
        conventions=conventions,
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
