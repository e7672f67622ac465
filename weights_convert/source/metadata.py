"""What comes beside the tensors: timm's `config.json`, an export's header, flags.

Whoever states a value, it passes the same checks, since anybody may write a file.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jtl.common.errors import UserError
from weights_convert.convert import relatives
from weights_convert.printable import is_text, shown
from weights_convert.source import arguments, processor
from weights_convert.source.architectures import Declared
from weights_convert.source.arguments import Built

_CHOICES = {"interpolation": ("bicubic", "bilinear"), "channel_order": ("rgb", "bgr")}
# Beyond these, float32 cannot divide or an image cannot be resized.
_LARGEST, _SMALLEST_SHARE, _MAX_PIXELS = 1e30, 0.01, 16384


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says of the weights.

    Attributes:
        by: Which file, for messages and the model card.
        architecture: The network's name, and who says it.
        preprocessing: Fields of `Preprocessing`.
        licence: Of the weights.
        class_names: In the order of the logits.
        built: How the network was built.
        notes: What is stated and not used.
    """

    by: str
    architecture: Declared | None = None
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)
    licence: str | None = None
    class_names: tuple[str, ...] | None = None
    built: Built | None = None
    notes: tuple[str, ...] = ()


def triple(values: Any, seen: object = None) -> tuple[float, float, float]:
    """Three numbers for red, green and blue; a ValueError says what else `values` is."""
    seen = values if seen is None else seen
    if not isinstance(values, (list, tuple)) or len(values) != 3 or not all(map(_number, values)):
        raise ValueError(
            f"'{shown(seen)}' is not three numbers for red, green and blue, as in 0.485,0.456,0.406"
        )
    red, green, blue = map(float, values)
    return red, green, blue


def deviations(values: Any, seen: object = None) -> tuple[float, float, float]:
    """Three numbers above 0, as `triple` takes them."""
    numbers = triple(values, seen)
    if min(numbers) < 1 / _LARGEST:
        raise ValueError(f"'{shown(seen or values)}' holds a number that is not above 0")
    return numbers


def means(values: Any, seen: object = None) -> tuple[float, float, float]:
    """Three means of values in [0, 1]; those of bytes would make every image nearly constant."""
    numbers = triple(values, seen)
    if max(numbers) > 1:
        raise ValueError(
            f"'{shown(seen or values)}' is for values up to 255: divide mean and std by 255, as "
            "images are scaled to [0, 1] first"
        )
    return numbers


def share(value: Any) -> float:
    """A share of a length, such as what a crop keeps."""
    if not _number(value) or not _SMALLEST_SHARE <= value <= 1:
        raise ValueError(f"{shown(value)} is not a share from {_SMALLEST_SHARE} to 1")
    return float(value)


def pixels(value: Any) -> int:
    """The side of a square image."""
    if type(value) is not int:
        raise ValueError(f"{shown(value)} is not a number of pixels")
    if value < 32:
        raise ValueError(f"{value} is too small: the networks divide it by 32")
    if value > _MAX_PIXELS:
        raise ValueError(f"it is too large: {_MAX_PIXELS} pixels are the most")
    return value


def _number(value: Any) -> bool:
    """Whether `value` is a finite number that float32 can hold; not for True."""
    return type(value) in (int, float) and -_LARGEST < value < _LARGEST


def _square(value: Any) -> int:
    if not isinstance(value, (list, tuple)) or len(value) != 3 or value[0] != 3:
        raise ValueError(f"'{shown(value)}' is not [3, height, width]")
    if value[1] != value[2]:
        raise ValueError(f"'{shown(value)}' is not square")
    return pixels(value[2])


# Key in timm's `pretrained_cfg` -> field of `Preprocessing`, check.
_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "mean": ("mean", means),
    "std": ("std", deviations),
    "crop_pct": ("crop_pct", share),
    "input_size": ("size", _square),
}


def of_config(config: Mapping[str, Any], by: str) -> Metadata:
    """Reads timm's `config.json`.

    Args:
        config: Its content.
        by: Whose it is, in words that begin a sentence.

    Raises:
        UserError: A value cannot be.
    """
    declared = config.get("pretrained_cfg")
    declared = declared if isinstance(declared, dict) else config
    architecture = config.get("architecture")
    if architecture is not None and not isinstance(architecture, str):
        raise _useless(by, f"architecture is '{shown(architecture)}', which is not a name")
    if architecture is None:
        architecture = _named(declared, ("architecture", "hf_hub_id", "url", "file"))
    licence = declared.get("license")
    return Metadata(
        by=by,
        architecture=None if architecture is None else Declared(architecture, by),
        preprocessing=_preprocessing(declared, by),
        licence=shown(licence, 200) if isinstance(licence, str) else None,
        class_names=_names(config.get("label_names") or declared.get("label_names"), by),
        built=arguments.of_timm(config, by),
    )


def of_training(settings: Mapping[str, Any]) -> Metadata:
    """Reads the options of a training that a PyTorch checkpoint keeps.

    Only a network that has the keys of another one is taken from its name there, which may be
    anything.
    """
    by = "its training's configuration"
    names = (relatives.named(str(settings.get(key, ""))) for key in ("arch", "model"))
    other = next(filter(None, names), None)
    declared = Declared(other, by) if other else None
    return Metadata(by, declared, built=arguments.of_training(settings))


def of_transformers(config: Mapping[str, Any], prepared: Any) -> Metadata:
    """Reads the two files of a model of transformers.

    Args:
        config: Its `config.json`.
        prepared: Its `preprocessor_config.json`; None without one.

    Raises:
        UserError: A value cannot be.
    """
    by = f"the {processor.FILE_NAME} next to it"
    known, notes = processor.stated(prepared if isinstance(prepared, dict) else {})
    labels = config.get("id2label")
    names = None
    if isinstance(labels, dict):
        numbered = {int(n): name for n, name in labels.items() if str(n).isdecimal()}
        names = [numbered[n] for n in range(len(labels)) if n in numbered]
    stated_by = f"the config.json next to {by.removeprefix('the ')}"
    other = _named(config, ("_name_or_path", "backbone"))
    return Metadata(
        by=by,
        architecture=None if other is None else Declared(other, "the config.json next to it"),
        preprocessing=_preprocessing(known, by),
        class_names=_names(names, stated_by),
        built=arguments.of_transformers(config),
        notes=tuple(notes),
    )


def of_header(metadata: Mapping[str, str], by: str) -> Metadata:
    """Reads what `weights_convert.export` wrote beside the tensors.

    Args:
        metadata: Its entries; without one called `jtl`, somebody else wrote them.
        by: Whose they are, in words that begin a sentence.

    Raises:
        UserError: A value cannot be.
    """
    if "jtl" not in metadata:
        return _of_others_header(metadata, by)
    found: dict[str, Any] = {}
    for key in ("preprocessing", "class_names"):
        try:
            found[key] = json.loads(metadata.get(key, "null"))
        except (ValueError, RecursionError) as error:
            reason = f"{key} is no JSON ({type(error).__name__}: {shown(error)})"
            raise _useless(by, reason) from error
    fields = found["preprocessing"]
    if fields is not None and not (isinstance(fields, dict) and "size" in fields):
        raise _useless(by, f"preprocessing is '{shown(fields)}'")
    if fields is not None:
        fields["input_size"] = [3, fields["size"], fields["size"]]
    architecture, licence = metadata.get("architecture"), metadata.get("licence")
    return Metadata(
        by=by,
        architecture=None if architecture is None else Declared(architecture, by),
        preprocessing=_preprocessing(fields or {}, by),
        licence=None if licence is None else shown(licence, 200),
        class_names=_names(found["class_names"], by),
        built=Built(by, None if metadata.get("pool") is None else shown(metadata["pool"], 40)),
    )


def _named(said: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    """The network with the keys of another one that some of the values speak of, if any does."""
    texts = (text[:1000] for key in keys if isinstance(text := said.get(key), str))
    return next(filter(None, map(relatives.named, texts)), None)


def _of_others_header(metadata: Mapping[str, str], by: str) -> Metadata:
    """What other programs wrote beside the tensors, as far as no key shows it."""
    stated_there = arguments.stated_alone(metadata)
    for key in ("model_args", "model_kwargs"):
        try:
            stated = json.loads(metadata.get(key, "null"))
        except (ValueError, RecursionError):
            continue
        if isinstance(stated, dict):
            stated_there |= arguments.stated_alone(stated)
    other = _named(metadata, metadata)
    return Metadata(
        by, None if other is None else Declared(other, by), built=Built(by, None, stated_there)
    )


def _useless(by: str, reason: str) -> UserError:
    return UserError(f"{by} cannot be used: {reason}. Correct or remove it.")


def _preprocessing(declared: Mapping[str, Any], by: str) -> dict[str, Any]:
    """The fields of `Preprocessing` that timm's `pretrained_cfg` states."""
    known: dict[str, Any] = {}
    for key, (field, check) in _CHECKS.items():
        if key in declared:
            try:
                known[field] = check(declared[key])
            except ValueError as error:
                raise _useless(by, f"{key}: {error}") from error
    for key, allowed in _CHOICES.items():
        if declared.get(key) in allowed:
            known[key] = declared[key]
    return known


def _names(names: Any, by: str) -> tuple[str, ...] | None:
    if not isinstance(names, list):
        return None
    texts = tuple(map(str, names))
    for number, text in enumerate(texts):
        if not is_text(text):
            raise _useless(by, f"class name {number} is half a character: {text!r:.80}")
    return texts
