"""What plain values beside the tensors of a file say of the network and its images.

Programs keep such values where they like: beside a state dict, in their settings, in the text of a
configuration. What contradicts jtl's network is refused, as in a `config.json`; constants of a
normalization are taken where they are clear; what is not used is named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from weights_convert.printable import shown
from weights_convert.read.readers import SourceFile
from weights_convert.read.torch_pickle import Tensor
from weights_convert.source import normalization
from weights_convert.source.arguments import AVERAGES, Built
from weights_convert.source.description import Source
from weights_convert.source.places import is_name, places

_UNNORMALIZED = ("normalize", "do_normalize", "normalization", "normalise", "use_normalization")
_KEYS = ("input_space", "input_range", "to_rgb", "global_pool", "act_layer", "style",
         *_UNNORMALIZED)  # fmt: skip
_FRAMING = {
    "interpolation": "--interpolation",
    "crop_pct": "--crop-pct",
    "input_size": "--input-size",
    "img_size": "--input-size",
    "image_size": "--input-size",
    "imgsz": "--input-size",
    "input_resolution": "--input-size",
    "resolution": "--input-size",
}
"""How images are resized: options of `jtl weights convert` say the same."""
_OF_RANGE = (*_UNNORMALIZED, "input_range")
_RANGES = {(0, 1): (0.0, 1.0), (0, 255): (0.0, 1 / 255), (-1, 1): (0.5, 0.5)}
"""The mean and deviation of values in [0, 1] that scale them to a range."""
_OTHER_NORMS = re.compile(
    r"(?i)(openai_?)?clip|inception|0?\.5|half|min_?-?max|z_?-?score|per_?image\w*|cifar\w*|tf|caffe"
)
_SIZES = {key for key, flag in _FRAMING.items() if flag == "--input-size"}
_USUAL_SIZES = (224, (224, 224), (3, 224, 224))
_OTHER_POOLS = re.compile(r"(?i)max|gem")
_LARGEST = 1e30
_BY = "mean and std: plain values in the file"

# In the text of a configuration, as mmpretrain keeps it.
_NUMBERS = r"""(?<!\w)['"]?{}['"]?\s*[=:]\s*[\[(]([-+.\deE,\s]{{3,200}})[\])]"""
_WORD = r"""(?<!\w)['"]?{}['"]?\s*[=:]\s*['"]?(\w+)"""

# In the text of torchvision's transforms: `Resize(size=256, interpolation=bilinear, ...)`.
_RESIZE = re.compile(
    r"(?<!\w)Resize\(\s*(?:size\s*=\s*)?\[?(\d{1,4})\]?\s*(?:,(?!\s*\d)([^()]*))?\)"
)
_CROP = re.compile(
    r"(?<!\w)CenterCrop\(\s*(?:size\s*=\s*)?"
    r"[\[(]?\s*(\d{1,4})(?:\s*,\s*\1)?\s*[\])]?\)"
)
_METHOD = re.compile(r"interpolation\s*=\s*(?:InterpolationMode\.)?(\w+)")


class _Said(NamedTuple):
    """What one place says, such as `args`; "" for the top of the file."""

    place: str
    values: dict[str, Any]

    def named(self, key: str) -> str:
        return f"'{self.place}.{key}'" if self.place else f"'{key}'"

    def told(self, *keys: str) -> str:
        return " and ".join(f"{self.named(key)} is {shown(self.values[key], 60)}" for key in keys)


def described(source: Source, file: SourceFile) -> Source:
    """The source with what the file's plain values say, below what is known already.

    Args:
        source: What is known.
        file: The file that was read.
    """
    own = file.metadata if file.format == "safetensors" and "jtl" not in file.metadata else None
    said = list(_said(file.value if own is None else own, file.wrappers))
    built = tuple(built for one in said if (built := _built(one)) is not None)
    source = dataclasses.replace(source, built=(*source.built, *built))
    return _normalizing(source, said)


def _said(value: object, wrappers: tuple[str, ...]) -> Iterator[_Said]:
    """Every place that says something, each dictionary once."""
    for place, found in places(value, wrappers, _parsed):
        if values := _values(found):
            yield _Said(shown(place, 60), values)


def _values(found: dict[Any, Any]) -> dict[str, Any]:
    """What a dictionary says under the names that count."""
    # Those of a state dict are the network's own: see `normalization`.
    own = any(isinstance(x, Tensor) and is_name(key, ".") for key, x in found.items())
    plain = {
        key: x
        for key, x in found.items()
        if is_name(key) and "." not in key and not (own and isinstance(x, Tensor))
    }
    values = {key: _plain(plain[key]) for key in (*_KEYS, *_FRAMING) if key in plain}
    for key in filter(normalization.MEAN.fullmatch, plain):
        if (other := key[:-4] + "std") in plain:
            values |= {key: _plain(plain[key]), other: _plain(plain[other])}
    return values


def _plain(value: object) -> Any:
    """The value, numbers and lists of text among them; in words if it is of another kind."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, (list, tuple)):
        return tuple(value) if all(map(_is_number, value)) else "a list of something else"
    sound = value is None or type(value) is bool or _is_number(value)
    return value if sound else "no plain value"


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST  # pyright: ignore[reportArgumentType]


def _parsed(text: str) -> dict[str, Any] | None:
    """What a configuration says as text: JSON, else the keys that count here."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict):
            return found
    said: dict[str, Any] = {}
    for key in ("mean", "std"):
        with contextlib.suppress(ValueError):
            lists = re.findall(_NUMBERS.format(key), text)
            rows = {tuple(float(x) for x in row.split(",") if x.strip()) for row in lists}
            if rows:
                said[key] = rows.pop() if len(rows) == 1 else "not the same everywhere"
    for key in _KEYS:
        words = set(re.findall(_WORD.format(key), text)) - {"None", "null", "dict"}
        if len(words) == 1:
            word = words.pop()
            said[key] = {"true": True, "false": False}.get(word.lower(), word)
    return said | _transforms(text)


def _transforms(text: str) -> dict[str, Any]:
    """How torchvision's transforms, shown as text, frame images; empty where that is unclear."""
    resized, cropped = _RESIZE.findall(text), _CROP.findall(text)
    if len(resized) != 1 or len(cropped) != 1:
        return {}
    (shorter, more), side = resized[0], int(cropped[0])
    if not 0 < side <= int(shorter):
        return {}
    method = _METHOD.search(more)
    return {
        "crop_pct": round(side / int(shorter), 4),
        "interpolation": method[1].lower() if method else "bilinear",  # Resize's own.
        "image_size": side,
    }


def _built(said: _Said) -> Built | None:
    """How the network was built; None where nothing tells it apart from jtl's."""
    by = f"the file's '{said.place}'" if said.place else "the file itself"
    pool, act = said.values.get("global_pool"), said.values.get("act_layer")
    if not (isinstance(pool, str) and pool not in AVERAGES and _OTHER_POOLS.search(pool)):
        pool = None
    arguments = {}
    if isinstance(act, str) and act:  # Also `torch.nn.ReLU(inplace=True)`.
        arguments["act_layer"] = act[:60].partition("(")[0].rpartition(".")[2]
    if said.values.get("style") == "caffe":
        arguments["style"] = "caffe"
    return Built(by, pool and shown(pool, 40), arguments) if pool or arguments else None


def _normalizing(source: Source, said: list[_Said]) -> Source:
    """The source with mean and standard deviation, and notes of what is not used."""
    known = source.preprocessing
    notes: list[str] = []
    found: list[tuple[tuple[float, ...], tuple[float, ...], str]] = []
    ranged: list[tuple[float, float, str]] = []
    blue = known.get("channel_order") == "bgr"
    for one in said:
        values = one.values
        space, first_red = values.get("input_space"), values.get("to_rgb")
        states_blue = str(space).upper() == "BGR" or (space is None and first_red is False)
        strange = space is not None and str(space).upper() not in ("RGB", "BGR")
        key = "to_rgb" if space is None else "input_space"
        if (states_blue and "channel_order" not in known) or strange:
            notes.append(
                f"{one.told(key)}, which is not used. If the weights expect blue first: --bgr, "
                "with --mean R,G,B and --std R,G,B"
            )
        framing = [
            k
            for k in _FRAMING
            if values.get(k)
            and _field(k) not in known
            and (k == "input_size" or values[k] not in _USUAL_SIZES)
        ]
        if framing:
            which = "which are" if len(framing) > 1 else "which is"
            flags = " and ".join(dict.fromkeys(_FRAMING[k] for k in framing))
            notes.append(
                f"{one.told(*framing)}, {which} not used. If the weights expect it: {flags}"
            )
        if {"mean", "std"} <= known.keys():
            continue
        constants, note = _by_range(one)
        notes += [note] if note else []
        if constants:
            ranged.append(
                (*constants, " and ".join(one.named(k) for k in _OF_RANGE if k in values))
            )
        if note or constants:
            continue
        for key in filter(normalization.MEAN.fullmatch, values):
            pair = (key, key[:-4] + "std")
            mean, std = (values[k] for k in pair)
            if not mean and not std:
                continue
            reason = _unclear(mean, std, values.get("input_range"))
            if not reason and not blue:
                ordered = space is not None or first_red is not None
                if (states_blue or strange) or (not ordered and normalization.is_blue_first(mean)):
                    reason = "they may be in the order blue, green, red (--bgr)"
            if reason:
                notes.append(
                    f"{one.told(*pair)}, which are not used: {reason}. Give what the weights "
                    "expect with --mean R,G,B and --std R,G,B"
                )
            else:
                names = " and ".join(one.named(k) for k in pair)
                found.append((tuple(map(float, mean)), tuple(map(float, std)), names))
    source = dataclasses.replace(source, notes=(*source.notes, *dict.fromkeys(notes)))
    if not found and len({each[:2] for each in ranged}) == 1:
        mean, std, names = ranged[0]
        note = f"mean {mean:.4g} and std {std:.4g} come from {names}"
        source = dataclasses.replace(source, notes=(*source.notes, note))
        fields = {"mean": (mean,) * 3, "std": (std,) * 3}
        fields = {key: value for key, value in fields.items() if key not in known}
        return source.declaring(fields, _BY)
    found += [((mean,) * 3, (std,) * 3, names) for mean, std, names in ranged]
    if not found:
        return source
    names = ", ".join(names for _, _, names in found[:3])
    try:
        mean, std, _ = found[0]
        if any((mean, std) != other[:2] for other in found):
            raise ValueError("they contradict each other")
        order = "bgr" if blue else "rgb"
        fields, note = normalization.fields_and_note(mean, std, names, order)
    except ValueError as error:
        told = "; ".join(f"{names}: {mean}, {std}" for mean, std, names in found[:3])
        note = (
            f"{told} are not used: {error}. Give what the weights expect with --mean R,G,B and "
            "--std R,G,B"
        )
        return dataclasses.replace(source, notes=(*source.notes, note))
    source = dataclasses.replace(source, notes=(*source.notes, note))
    fields = {key: value for key, value in fields.items() if key not in known}
    return source.declaring(fields, _BY)


def _by_range(one: _Said) -> tuple[tuple[float, float] | None, str | None]:
    """Mean and deviation where images are only scaled; or a note of what is said and not used."""
    values = one.values
    pair = any(values.get(key) for key in filter(normalization.MEAN.fullmatch, values))
    said = {key: values[key] for key in _UNNORMALIZED if values.get(key) is not None}
    off = [key for key, x in said.items() if x is False or str(x).lower() in ("none", "false")]
    span = values.get("input_range")
    constants = _RANGES.get(span) if isinstance(span, tuple) else None
    remedy = "Give what the weights expect with --mean R,G,B and --std R,G,B"
    if off and pair:
        return None, f"{one.told(*off)}, beside a mean and std, which are not used. {remedy}"
    if off and constants is None and "do_normalize" not in off:
        return None, (
            f"{one.told(*off)}, which is not used: it may mean that images are only scaled to "
            "[0, 1] (--mean 0,0,0 --std 1,1,1)"
        )
    if pair:
        return None, None
    others = [k for k, x in said.items() if isinstance(x, str) and _OTHER_NORMS.fullmatch(x)]
    if others:
        return None, f"{one.told(*others)}, which is not used. {remedy}"
    if off or span == (-1, 1):
        return constants or _RANGES[0, 1], None
    if span is not None and span != (0, 1):
        return None, f"{one.told('input_range')}, which is not used. {remedy}"
    return None, None


def _field(key: str) -> str:
    """What a value is called in `Preprocessing`."""
    return "size" if key in _SIZES else key


def _unclear(mean: Any, std: Any, span: Any) -> str | None:
    """Why constants are no mean and deviation of three channels; None where they are."""
    if not all(isinstance(part, tuple) and len(part) == 3 for part in (mean, std)):
        return "they are not three numbers each"
    if span is not None:
        stated = tuple(span) if isinstance(span, (list, tuple)) else span
        scale = 255 if max(*mean, *std) > 1 else 1
        if stated not in ((0, 1), (0, 255)) or (stated[1] != scale):
            return f"input_range is {shown(stated, 40)}"
    return None
