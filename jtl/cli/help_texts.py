"""How a command's options are written in its help, and what it needs."""

from __future__ import annotations

import argparse
import dataclasses
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jtl.common.invocation import as_typed
from jtl.config import walk
from jtl.config.walk import Option


def usage(kind: type, prog: str) -> str:
    """The line that begins the help: subcommands before the options, other arguments after them."""
    options = list(walk.options(kind).values())
    actions = [metavar(option) for option in options if is_action(option)]
    wanted = [f"{o.flag} {metavar(o)}" for o in options if o.required and not o.positional]
    for option in options:
        if option.positional and not is_action(option):
            wanted.append(f"{metavar(option)}{' ...' if option.is_list else ''}")
    return " ".join([prog, *actions, "[OPTIONS]", *wanted])


def is_action(option: Option) -> bool:
    """Whether it is a word of the command's own, such as `check` in `jtl data check`."""
    return option.positional and typing.get_origin(option.kind) is Literal


def needed(kind: type, given: Mapping[str, Any], prog: str) -> str | None:
    """What is missing on a command line, with an example; None where nothing is.

    Args:
        kind: Dataclass of the command's options.
        given: What it holds.
        prog: The command's name.
    """
    options = walk.options(kind).values()
    missing = [option for option in options if option.required and option.name not in given]
    if not missing:
        return None
    names = [metavar(o) if o.positional else f"{o.flag} {metavar(o)}" for o in missing]
    listed = " and ".join(names).replace("|", " or ")
    actions = [given[o.name] for o in options if is_action(o) and o.name in given]
    return f"{' '.join([prog, *actions])} needs {listed}.{example(kind)}\nSee {prog} --help."


def example(kind: type) -> str:
    """The first command line of the help, as an example at the end of a message."""
    found = re.search(r"^ +(jtl .*)$", walk.description(kind), re.MULTILINE)
    return f" For example:\n  {as_typed(found[1])}" if found else ""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and writes lists as `WIDTH,...`."""

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "?" and action.metavar == "":
            return ""
        # `WIDTH ...` where argparse would say `[WIDTH ...]` or `WIDTH [WIDTH ...]`.
        if action.nargs in ("*", "+") and action.option_strings:
            return f"{self._metavar_formatter(action, default_metavar)(1)[0]},..."
        return super()._format_args(action, default_metavar)


def explained(option: Option, short: bool) -> str:
    """An option's help with its default; the short form is its first sentence and the default."""
    help, default = option.help, option.default
    if short:
        first, _, rest = help.partition(". ")
        told = rest[rest.index("Default:") :] if "Default:" in rest else ""
        # What comes after a semicolon is about rarer cases.
        parts = [first, told.partition(";")[0]]
        help = " ".join(f"{part.rstrip('.')}." for part in parts if part)
    if (
        option.kind is not bool
        and default not in (None, (), dataclasses.MISSING)
        and not option.positional
        and "Default:" not in help
    ):
        shown = ",".join(map(str, default)) if option.is_list else default
        help = f"{help} (default: {shown})"
    return as_typed(help).replace("%", "%%")


def metavar(option: Option) -> str:
    if named := option.mark(walk.Metavar):
        return named.text
    item = option.item
    if typing.get_origin(item) is Literal:
        return "{" + ",".join(typing.get_args(item)) + "}"
    if isinstance(item, tuple):
        return "|".join(_names(part) for part in item)
    return _names(item)


def _names(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return "|".join(typing.get_args(kind))
    return {int: "N", float: "X", Path: "PATH"}.get(kind, "TEXT")
