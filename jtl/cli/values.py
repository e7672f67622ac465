"""What is wrong with a value on the command line, in one sentence."""

from __future__ import annotations

import dataclasses
import itertools
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from jtl.common.errors import suggest


def complaint(options: type, args: Sequence[str]) -> tuple[str, str] | None:
    """The first flag whose value is none for it, and what it takes.

    Args:
        options: Dataclass of a command's options.
        args: Its command line, lists in words of their own.

    Returns:
        None where nothing is found; something else may be wrong then.
    """
    kinds = dict(_kinds(options))
    flag: str | None = None
    for word in args:
        if word.startswith("--"):
            name, tied, value = word.partition("=")
            if flag is not None and (told := _without_value(kinds[flag])):
                return flag, f"{flag} {told}."
            flag, plain = None, "--" + name[2:].replace("_", "-")
            if plain not in kinds:
                continue
            if tied:
                if told := _told(kinds[plain], value):
                    return plain, f"{plain} {told}"
            elif kinds[plain] is not bool:
                flag = plain
        elif flag is not None:
            if told := _told(kinds[flag], word):
                return flag, f"{flag} {told}"
            flag = flag if _is_list(kinds[flag]) else None
        elif not any(_is_positional(field) for field in dataclasses.fields(options)):
            told = (
                f"'{word}' belongs to no flag: every option is a flag and its value, as in --help."
            )
            return word.partition("=")[0].replace("_", "-"), told
    if flag is not None and (told := _without_value(kinds[flag])):
        return flag, f"{flag} {told}."
    return None


def empty(options: type, args: Sequence[str]) -> str | None:
    """The first flag whose value should be a text or a path and is empty."""
    kinds = dict(_kinds(options))
    for word, following in itertools.zip_longest(args, args[1:]):
        name, tied, value = word.partition("=")
        flag = "--" + name[2:].replace("_", "-")
        if kinds.get(flag) in (Path, str) and (value if tied else following) == "":
            return flag
    return None


def _is_positional(field: dataclasses.Field[Any]) -> bool:
    return "Positional" in str(field.type)


def _kinds(options: type) -> Iterator[tuple[str, Any]]:
    """Every flag and the type of its value, None left out; a tuple of several types."""
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(field.default):
            yield from _kinds(type(field.default))
        elif field.default is not dataclasses.MISSING and field.metadata.get("flag", True):
            kind = hints[field.name]
            if typing.get_origin(kind) in (typing.Union, types.UnionType):
                parts = tuple(part for part in typing.get_args(kind) if part is not type(None))
                kind = parts[0] if len(parts) == 1 else parts
            yield "--" + field.name.replace("_", "-"), kind


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is tuple


def _without_value(kind: Any) -> str | None:
    return None if _is_list(kind) else f"needs {_named(kind)}"


def _named(kind: Any) -> str:
    if isinstance(kind, tuple):
        return " or ".join(map(_named, kind))
    if typing.get_origin(kind) is Literal:
        *most, last = typing.get_args(kind)
        return f"one of {', '.join(most)} or {last}" if most else str(last)
    return {int: "a whole number", float: "a number"}.get(kind, "a value")


def _told(kind: Any, value: str) -> str | None:
    """What is wrong with a value, and what it may be; None if nothing is."""
    if _is_list(kind):
        kind = typing.get_args(kind)[0]
    if isinstance(kind, tuple):
        if any(_told(part, value) is None for part in kind):
            return None
        return f"must be {_named(kind)}, not '{value}'."
    if kind is bool:
        return f"is a switch and takes no value, not even '{value}'."
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if value in allowed:
            return None
        return f"must be {_named(kind)}, not '{value}'.{suggest(value, allowed)}"
    if kind in (int, float):
        try:
            kind(value)
        except ValueError:
            return f"must be {_named(kind)}, not '{value}'."
    return None
