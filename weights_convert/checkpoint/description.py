"""`weights.json`: what converted weights are, where they came from, what they expect."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl import models
from jtl.common.errors import UserError

FORMAT_VERSION = 1
FILE_NAME = "weights.json"

_NONE = type(None)
# Key of weights.json -> what its value may be.
_KEYS: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "library": (str,),
    "conventions": (dict,),
    "num_classes": (int, _NONE),
    "class_names": (list, _NONE),
    "preprocessing": (dict,),
    "source": (str,),
    "revision": (str, _NONE),
    "sha256": (str,),
    "licence": (str, _NONE),
    "format": (str,),
    "created": (str,),
    "versions": (dict,),
    "verified": (dict, _NONE),
    "notes": (list,),
    "counters": (dict,),
    "reading": (dict,),
    "files": (dict,),
}
# Folders from before these keys are still good.
_ADDED = {"revision": None, "verified": None, "notes": [], "counters": {}, "reading": {}}


@dataclasses.dataclass(frozen=True)
class Reading:
    """What became of the source's content.

    Attributes:
        wrappers: What stood around the tensors, outermost first.
        left_out: What else the file held beside them, such as an optimizer's state.
        prefix: What was stripped from the keys.
        ignored: Keys of tensors that nothing was made of.
        ignored_because: Of these, the ones that are no bookkeeping of the library, by the reason.
        dtypes: Source dtype -> number of converted tensors; all became float32.
        preprocessing_by: Who states the preprocessing.
    """

    wrappers: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    prefix: str = ""
    ignored: tuple[str, ...] = ()
    ignored_because: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    dtypes: dict[str, int] = dataclasses.field(default_factory=dict)
    preprocessing_by: str = ""


def save(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes `facts` into `folder`.

    Args:
        folder: Where the file goes.
        facts: A value for every key; configuration dataclasses become objects of their fields.
    """
    contents = {"format_version": FORMAT_VERSION, **{key: facts[key] for key in _KEYS}}
    text = json.dumps(contents, indent=2, default=dataclasses.asdict, ensure_ascii=False)
    (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def load(folder: Path) -> dict[str, Any]:
    """Reads back what `save` wrote, with its configuration dataclasses and tuples.

    Raises:
        UserError: There is no such file, or it is damaged or of a newer format.
    """
    facts = load_unchecked(folder)
    try:
        backbone = models.get(facts["model"]).backbone
        facts["conventions"] = _conventions(facts["conventions"], backbone)
        facts["preprocessing"] = _preprocessing(facts["preprocessing"])
        facts["notes"] = _texts("notes", facts["notes"])
        facts["counters"] = _counts("counters", facts["counters"])
        facts["reading"] = _reading(facts["reading"])
        facts["class_names"] = _class_names(facts["class_names"], facts["num_classes"])
    except (TypeError, ValueError) as error:
        raise damaged(folder, f"{FILE_NAME}: {error}") from error
    return facts


def damaged(folder: Path, reason: str) -> UserError:
    """The error for a folder that cannot be trusted."""
    return UserError(
        f"the converted checkpoint '{folder}' is damaged: {reason}. Convert the source again."
    )


def load_unchecked(folder: Path) -> dict[str, Any]:
    """The keys of the file with values of the right JSON types; see `load`."""
    path = folder / FILE_NAME
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}'. Name one that weights_convert wrote.")
    if not path.is_file():
        raise UserError(
            f"'{folder}' is not a converted checkpoint: it has no {FILE_NAME}. Name a folder "
            "that weights_convert wrote."
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder, f"{FILE_NAME} cannot be read ({error})") from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise UserError(
            f"'{folder}' has format version {version}; this jtl reads up to {FORMAT_VERSION}. "
            "Upgrade jtl, or convert the source again."
        )
    if version != FORMAT_VERSION:
        raise damaged(folder, f"{FILE_NAME} states no format version")
    description = _ADDED | description
    wrong = [
        f"'{key}' is missing" if key not in description else f"'{key}' is {description[key]!r}"
        for key, kinds in _KEYS.items()
        if type(description.get(key, ...)) not in kinds
    ]
    if wrong:
        raise damaged(folder, f"in {FILE_NAME}, {', '.join(wrong)}")
    return {key: description[key] for key in _KEYS}


def _conventions(stated: dict[str, Any], backbone: Any) -> dict[str, Any]:
    """The fields of the backbone's configuration, with specifications for objects."""
    conventions = {}
    for name, value in stated.items():
        if name not in {field.name for field in dataclasses.fields(backbone)}:
            raise ValueError(f"unknown convention '{name}'")
        current = getattr(backbone, name)
        if dataclasses.is_dataclass(current) and isinstance(value, dict):
            value = type(current)(**value)  # pyright: ignore[reportCallIssue]
        if type(value) is not type(current):
            raise ValueError(f"convention '{name}' is {value!r}")
        conventions[name] = value
    return conventions


def _reading(stated: dict[str, Any]) -> Reading:
    lists = {
        key: _texts(key, stated[key])
        for key in ("wrappers", "left_out", "ignored")
        if key in stated
    }
    because = stated.get("ignored_because", {})
    if not isinstance(because, dict):
        raise ValueError("ignored_because is no object of lists")
    return Reading(
        **{
            **stated,
            **lists,
            "dtypes": _counts("dtypes", stated.get("dtypes", {})),
            "ignored_because": {key: _texts(key, names) for key, names in because.items()},
        }
    )


def _texts(key: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{key} is no list of texts")
    return tuple(values)


def _counts(key: str, values: Any) -> dict[str, int]:
    if not isinstance(values, dict) or not all(type(value) is int for value in values.values()):
        raise ValueError(f"{key} is no object of counts")
    return values


def _preprocessing(stated: dict[str, Any]) -> models.Preprocessing:
    numbers = {
        key: tuple(float(x) for x in stated[key]) for key in ("mean", "std") if key in stated
    }
    preprocessing = models.Preprocessing(**{**stated, **numbers})
    # Descriptions from before there were weights in BGR order state no order.
    wanted = {field.name for field in dataclasses.fields(preprocessing)} - {"channel_order"}
    sound = {len(preprocessing.mean), len(preprocessing.std)} == {3}
    if not (sound and wanted <= stated.keys() and preprocessing.channel_order in ("rgb", "bgr")):
        raise ValueError(f"preprocessing is {stated}")
    return preprocessing


def _class_names(names: list[Any] | None, num_classes: int | None) -> tuple[str, ...] | None:
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes is {num_classes}")
    if names is None:
        return None
    if len(names) != num_classes or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names are not {num_classes} names")
    return tuple(names)
