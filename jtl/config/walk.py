"""The one walker over dataclasses of options: for flags, config files, JSON, checks, comparisons.

An option is a field of a dataclass. Its default says whether it is a flag (with one) or
positional (without); its line under `Attributes:` is its help; `Annotated` carries its checks
(functions of the flag and the value) and how its value is called in the help (`Metavar`).
A field whose default is a dataclass is an area of options.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import numbers
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from jtl.common.errors import UserError, suggest

Check = Callable[[str, Any], None]
_Options = TypeVar("_Options")


@dataclasses.dataclass(frozen=True)
class Metavar:
    """What stands for an option's value in the help, such as `DAYS`."""

    text: str


@dataclasses.dataclass(frozen=True)
class FlagValue:
    """The value of an option whose flag is given alone; `--no-` before it means the default."""

    value: Any


@dataclasses.dataclass(frozen=True)
class HelpFrom:
    """Where the help is that a dataclass of options does not write itself, as its `HELP_FROM`.

    Attributes:
        kind: Dataclass with options of the same names.
        default: What the help says about their defaults in place of what it says there.
    """

    kind: type
    default: str | None = None

    def helps(self) -> dict[str, str]:
        """The help of each option."""
        found = _helps(self.kind)
        if self.default is None:
            return found
        return {
            name: f"{text.partition(' Default:')[0]} Default: {self.default}."
            for name, text in found.items()
        }


@dataclasses.dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: As Python names it.
        area: Name of the field that holds its area; empty where there are no areas.
        kind: Its type without None; of a union of several types their tuple.
        default: Its default; `dataclasses.MISSING` of a positional argument.
        positional: Whether it is given without a flag.
        optional: Whether it may be None.
        help: What it is for.
        marks: What its annotation carries.
    """

    name: str
    area: str
    kind: Any
    default: Any
    positional: bool
    optional: bool
    help: str
    marks: tuple[Any, ...]

    @property
    def flag(self) -> str:
        """Its flag, such as `--head-widths`."""
        return "--" + self.name.replace("_", "-")

    @property
    def required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return typing.get_origin(self.kind) is tuple

    @property
    def item(self) -> Any:
        """The type of one of its values."""
        return typing.get_args(self.kind)[0] if self.is_list else self.kind

    def mark(self, kind: type) -> Any:
        """What its annotation carries of a type, or None."""
        return next((mark for mark in self.marks if isinstance(mark, kind)), None)

    def check(self, value: Any) -> None:
        """Raises UserError where the value is none for the option."""
        if not (value is None and self.optional):
            for each in value if self.is_list and isinstance(value, (tuple, list)) else (value,):
                if not _may_be(self.item, each):
                    raise UserError(f"{self.flag} {must_be(self.item, each)}")
        for mark in self.marks:
            if callable(mark):
                mark(self.flag, value)


def positional(default: Any) -> Any:
    """A field for a positional argument that has a default."""
    return dataclasses.field(default=default, metadata={"positional": True})


def required_flag() -> Any:
    """A field for a flag that has no default."""
    return dataclasses.field(metadata={"positional": False})


@functools.cache
def options(kind: type) -> Mapping[str, Option]:
    """All options of a dataclass by name, those of its areas among them."""
    found: dict[str, Option] = {}
    hints, helps = typing.get_type_hints(kind, include_extras=True), _helps(kind)
    for field in dataclasses.fields(kind):
        if not field.metadata.get("option", True):
            continue
        if dataclasses.is_dataclass(field.default):
            inner = options(type(field.default)).values()
            found |= {option.name: dataclasses.replace(option, area=field.name) for option in inner}
            continue
        hint, marks = hints[field.name], ()
        if typing.get_origin(hint) is Annotated:
            hint, *marks = typing.get_args(hint)
        parts = (
            typing.get_args(hint)
            if typing.get_origin(hint) in (typing.Union, types.UnionType)
            else (hint,)
        )
        kinds = tuple(part for part in parts if part is not type(None))
        found[field.name] = Option(
            field.name,
            "",
            kinds[0] if len(kinds) == 1 else kinds,
            field.default,
            field.metadata.get("positional", field.default is dataclasses.MISSING),
            len(kinds) < len(parts),
            helps.get(field.name, ""),
            tuple(marks),
        )
    return found


def areas(kind: type) -> dict[str, type]:
    """The areas of a dataclass of options, by name."""
    return {
        field.name: type(field.default)
        for field in dataclasses.fields(kind)
        if dataclasses.is_dataclass(field.default)
    }


def value(config: Any, option: Option) -> Any:
    """What an option is in a configuration."""
    return getattr(getattr(config, option.area) if option.area else config, option.name)


def changed(config: Any) -> dict[str, Any]:
    """The options that are not as by default."""
    return {
        name: given
        for name, option in options(type(config)).items()
        if (given := value(config, option)) != option.default
    }


def replace(config: _Options, values: Mapping[str, Any]) -> _Options:
    """A configuration with other values for the options named."""
    direct, by_area = _by_area(type(config), values)
    inner = {
        area: dataclasses.replace(getattr(config, area), **changes)
        for area, changes in by_area.items()
    }
    return dataclasses.replace(typing.cast(Any, config), **direct, **inner)


def create(kind: type[_Options], values: Mapping[str, Any]) -> _Options:
    """A configuration with these values, and defaults for all others."""
    direct, by_area = _by_area(kind, values)
    found = areas(kind)
    return kind(**direct, **{area: found[area](**inner) for area, inner in by_area.items()})


def _by_area(
    kind: type, values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Values without an area, and those of each area."""
    known = options(kind)
    found: dict[str, dict[str, Any]] = {"": {}}
    for name, given in values.items():
        found.setdefault(known[name].area, {})[name] = given
    return found.pop(""), found


def check(config: Any) -> None:
    """Checks every option by itself.

    Raises:
        UserError: A value is none for its option; the message names the flag.
    """
    for option in options(type(config)).values():
        option.check(value(config, option))


def _may_be(kind: Any, value: Any) -> bool:
    """Whether a value may be a choice or a number; NumPy's numbers too, and any text or path."""
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not all(part in (int, float) or typing.get_origin(part) is Literal for part in kinds):
        return True
    counts = any(part in (int, float) for part in kinds)
    return is_of(kind, value) or (counts and isinstance(value, numbers.Number))


def must_be(kind: Any, value: Any) -> str:
    """What a value that is none of a type must be, for after the flag."""
    close = ""
    if typing.get_origin(kind) is Literal and isinstance(value, str):
        close = suggest(value, typing.get_args(kind), 0.6)
    shown = f"'{value}'" if isinstance(value, str) else repr(value)
    return f"must be {allowed(kind)}, not {shown}.{close}"


def allowed(kind: Any) -> str:
    """What a type's values are, in words."""
    if isinstance(kind, tuple):
        return " or ".join(map(allowed, kind))
    if typing.get_origin(kind) is Literal:
        *most, last = typing.get_args(kind)
        return f"one of {', '.join(most)} or {last}" if most else str(last)
    if typing.get_origin(kind) is tuple:
        return f"{allowed(typing.get_args(kind)[0])}, or a list of these"
    return {
        int: "a whole number",
        float: "a number",
        Path: "a path",
        str: "text",
        bool: "True or False",
    }.get(kind, "a value")


def is_of(kind: Any, value: Any) -> bool:
    """Whether a value is of an option's type."""
    if isinstance(kind, tuple):
        return any(is_of(part, value) for part in kind)
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind)
    if typing.get_origin(kind) is tuple:
        item = typing.get_args(kind)[0]
        return isinstance(value, tuple) and all(is_of(item, part) for part in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def converted(option: Option, value: Any) -> Any:
    """A value with tuples for lists, paths for texts, and what a bare flag means for True."""
    if isinstance(value, list):
        return tuple(value)
    if option.kind is Path and isinstance(value, str):
        return Path(value)
    if isinstance(value, bool) and (bare := option.mark(FlagValue)):
        return bare.value if value else option.default
    return value


def from_json(option: Option, value: Any) -> Any:
    """An option's value as JSON has it.

    Raises:
        TypeError: It is none of the option's type.
    """
    found = converted(option, value)
    if not ((value is None and option.optional) or is_of(option.kind, found)):
        raise TypeError(f"'{option.name}' is {value!r}")
    return found


def to_json(value: Any) -> Any:
    """An option's value as JSON can hold it."""
    return str(value) if isinstance(value, Path) else value


def description(kind: type) -> str:
    """A dataclass's docstring without what it says of its fields."""
    return _ATTRIBUTES.split(inspect.getdoc(kind) or "")[0].strip()


_ATTRIBUTES = re.compile(r"^Attributes:\n", re.MULTILINE)


def _helps(kind: type) -> dict[str, str]:
    """What a dataclass's docstring says of its fields, and what is written elsewhere."""
    parts = _ATTRIBUTES.split(inspect.getdoc(kind) or "")
    entries = re.split(r"^ {4}(\w+): ", parts[1] if len(parts) > 1 else "", flags=re.MULTILINE)
    texts = (" ".join(text.split()) for text in entries[2::2])
    shared: HelpFrom | None = getattr(kind, "HELP_FROM", None)
    written = {} if shared is None else shared.helps()
    return written | dict(zip(entries[1::2], texts, strict=True))
