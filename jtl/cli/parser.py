"""The parser of a command: built from a dataclass of options, on argparse.

Every option is a flag and its value (`--lr 0.1`, `--lr=0.1`; `--head_lr_mult` is read as
`--head-lr-mult`), a switch and its opposite (`--json`, `--no-json`), or positional. Lists have
commas or spaces (`--head-widths 1024,512`).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import typing
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

from jtl.cli import help_texts
from jtl.common.errors import UserError
from jtl.common.invocation import as_typed
from jtl.config import spellings, walk
from jtl.config.walk import Option

HELP = ("-h", "--help", "--help-all", "--version")
"""What prints and ends."""


def parse(kind: type, args: Sequence[str], prog: str) -> dict[str, Any]:
    """The options that a command line gives, by name.

    Args:
        kind: Dataclass of the command's options.
        args: The command line.
        prog: The command's name, for messages.

    Raises:
        UserError: There is no such option, or a value is none for its option.
        SystemExit: Help or the version was asked for, and has been printed.
    """
    args = _renamed([_plain(arg) for arg in args], flags(kind))
    if "--version" in args:
        print(f"jtl {version('jtl')}")
        raise SystemExit(0)
    parser = build(kind, prog, everything="--help-all" in args)
    if not set(HELP).intersection(args):
        _check_flags(kind, args, prog)
    options = walk.options(kind)
    try:
        given, surplus = parser.parse_known_intermixed_args(args)
    except argparse.ArgumentError as error:
        raise UserError(_message(error, kind, prog)) from None
    if surplus:
        raise UserError(_unexpected(surplus[0], kind, prog, _with_commas(surplus[0], args, kind)))
    values = vars(given)
    for name in [n for n, value in values.items() if value is None and options[n].positional]:
        del values[name]
    if message := help_texts.needed(kind, values, prog):
        raise UserError(message)
    return {name: _joined(options[name], value) for name, value in values.items()}


def _renamed(args: Sequence[str], known: Sequence[str]) -> list[str]:
    """The words with jtl's names for options of `spellings.ALIASES`, each noted on stderr."""
    found = list(args)
    end = found.index("--") if "--" in found else len(found)
    for index, word in enumerate(found[:end]):
        alias, tied, value = word.partition("=")
        flag = spellings.ALIASES.get(alias)
        if flag is None or alias in known or flag not in known:
            continue
        if alias == "--name":  # A name in the folder that holds the runs, not a path.
            at = index if tied else index + 1
            if at < len(found) and (tied or not found[at].startswith("-")):
                found[at] = str(Path("runs", value if tied else found[at]))
                value = found[at]
            print(f"note: --name means --run-dir {value}".rstrip(), file=sys.stderr)
        else:
            print(f"note: jtl calls {alias} {flag}", file=sys.stderr)
        found[index] = f"{flag}{tied}{value}" if tied else flag
    return found


def build(kind: type, prog: str, *, everything: bool = False) -> argparse.ArgumentParser:
    """The parser of a dataclass of options, with its help.

    Args:
        kind: The dataclass. One with a `SHORT_HELP` (names of options) has a short help of these,
            and all the others in groups with `--help-all`.
        prog: The command's name.
        everything: Whether its help is the long one.
    """
    options = list(walk.options(kind).values())
    width = min(shutil.get_terminal_size().columns, 100)
    basic: Sequence[str] = getattr(kind, "SHORT_HELP", ())
    short = bool(basic) and not everything
    epilog = as_typed(getattr(kind, "DETAILS", "")) or None
    if short:
        epilog = f"{prog} --help-all explains all {len(options)} options."
    parser = _Parser(
        prog=prog,
        usage=help_texts.usage(kind, prog),
        description=as_typed(walk.description(kind)),
        formatter_class=lambda prog: help_texts.Formatter(prog, max_help_position=28, width=width),
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        exit_on_error=False,
        add_help=False,
        epilog=epilog,
    )
    parser._positionals.title = "arguments"
    parser.add_argument("-h", "--help", action="help", help="Show this help and exit.")
    if basic:
        parser.add_argument("--help-all", action="help", help="Show the help of all options.")
    if short:
        by_name = {option.name: option for option in options}
        for name in basic:
            _add(parser, by_name.pop(name), short=True)
        for option in by_name.values():
            _add(parser, option, hidden=True)
        return parser
    groups: dict[str, Any] = {"": parser}
    for area, inner in walk.areas(kind).items():
        title, _, more = walk.description(inner).partition(". ")
        groups[area] = parser.add_argument_group(title.rstrip("."), " ".join(more.split()) or None)
    for option in options:
        _add(groups[option.area], option)
    return parser


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: Any = None) -> None:
        print(self.format_help(), end="", file=file)  # Argparse would hide that a pipe is closed.

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message[:1].lower()}{message[1:]}. See {self.prog} --help.")


def _add(group: Any, option: Option, *, short: bool = False, hidden: bool = False) -> None:
    alone = help_texts.is_action(option) and len(typing.get_args(option.kind)) == 1
    help = argparse.SUPPRESS if hidden or alone else help_texts.explained(option, short)
    bare = option.mark(walk.FlagValue)
    if option.kind is bool:
        shown = {option.flag: argparse.SUPPRESS if option.default else help}
        shown |= {_off(option.flag): help if option.default else argparse.SUPPRESS}
        for flag, text in shown.items():
            on = flag == option.flag
            group.add_argument(flag, dest=option.name, action="store_const", const=on, help=text)
        return
    commas = option.is_list and not option.positional
    read = _reader(option.item, commas)
    settings: dict[str, Any] = dict(type=read, metavar=help_texts.metavar(option), help=help)
    if option.positional:
        # Argparse would read SUPPRESS as a value of "?". `help_texts.needed` tells what is missing.
        how = ("*", argparse.SUPPRESS) if option.is_list else ("?", None)
        group.add_argument(option.name, nargs=how[0], default=how[1], **settings)
    elif bare is not None:
        settings["metavar"] = "" if short else settings["metavar"]  # Given alone, mostly.
        group.add_argument(option.flag, nargs="?", const=bare.value, **settings)
        off = dict(action="store_const", const=option.default, help=argparse.SUPPRESS)
        group.add_argument(_off(option.flag), dest=option.name, **off)
    else:
        several = option.is_list and ... in typing.get_args(option.kind)
        group.add_argument(option.flag, nargs="+" if several else None, **settings)


def _reader(kind: Any, commas: bool) -> Any:
    """From a word of the command line to a value; with commas, to all that are between them."""

    def read(word: str) -> Any:
        try:
            if commas:
                return tuple(_read(kind, part) for part in word.split(",") if part)
            return _read(kind, word)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _read(kind: Any, word: str) -> Any:
    """A value from a word; ValueError, which says what it must be."""
    for part in kind if isinstance(kind, tuple) else (kind,):
        if typing.get_origin(part) is Literal:
            if word in typing.get_args(part):
                return word
        elif part in (str, Path):
            if not word:
                raise ValueError(
                    "needs a value, but the one given is empty. Give one, or leave the option out."
                )
            return part(word)
        else:
            try:
                return part(word)
            except ValueError:
                continue
    raise ValueError(walk.must_be(kind, word))


def _joined(option: Option, value: Any) -> Any:
    if not option.is_list or isinstance(value, tuple):
        return value
    return tuple(value) if option.positional else tuple(part for parts in value for part in parts)


def _plain(word: str) -> str:
    """A flag with dashes for underscores; other words as they are."""
    flag, tied, value = word.partition("=")
    return flag.replace("_", "-") + tied + value if flag.startswith("--") else word


def _check_flags(kind: type, args: Sequence[str], prog: str) -> None:
    """Refuses an unknown option, also where a value is tied to it, and names the nearest."""
    known = flags(kind)
    for word in args:
        if word == "--":
            return
        flag = word.partition("=")[0]
        if re.match(r"--?[^\W\d]", flag) and flag not in known:
            close = spellings.nearest(flag, known)
            everything = hasattr(kind, "SHORT_HELP")
            meant = f" Did you mean '{close}'?" if close else ""
            if not close and not everything:
                usual = (one for one in known if not one.startswith("--no-"))
                meant = f" The options are: {', '.join(usual)}."
            see = f"{prog} --help{'-all' if everything else ''}"
            raise UserError(f"there is no option {flag}.{meant} See {see}.")


def _with_commas(word: str, args: Sequence[str], kind: type) -> str:
    """The list that `word` is of, where spaces stand for its commas; empty if it is of none."""
    starts = [i for i in range(args.index(word)) if args[i].startswith("--")]
    lists = {o.flag: typing.get_args(o.kind) for o in walk.options(kind).values() if o.is_list}
    if not starts or not (items := lists.get(args[starts[-1]], (...,))) or ... in items:
        return ""
    flag, *parts = args[starts[-1] : starts[-1] + 1 + len(items)]
    separate = len(parts) == len(items) and not any("," in part for part in parts)
    return f"{flag} {','.join(parts)}" if separate else ""


def _unexpected(word: str, kind: type, prog: str, meant_list: str) -> str:
    """What to do about a word that no flag takes."""
    name, _, value = word.partition("=")
    flag, known = "--" + name.replace("_", "-"), flags(kind)
    meant = f" Did you mean '{meant_list}'?" if meant_list else ""
    if flag in known:
        meant = f" Did you mean '{flag}={value}'?"
    elif "--data" in known and (":" in word or word == "digits" or os.path.lexists(word)):
        meant = f" Did you mean '--data {word}'?"
    return (
        f"unexpected argument '{word}'.{meant} Options are written --NAME VALUE; see {prog} --help."
    )


def flags(kind: type) -> list[str]:
    """All flags of a dataclass of options."""
    found = ["--help", *(["--help-all"] if hasattr(kind, "SHORT_HELP") else [])]
    for option in walk.options(kind).values():
        if not option.positional:
            found += [option.flag]
            found += (
                [_off(option.flag)] if option.kind is bool or option.mark(walk.FlagValue) else []
            )
    return found


def _off(flag: str) -> str:
    return flag.replace("--", "--no-", 1)


def _message(error: argparse.ArgumentError, kind: type, prog: str) -> str:
    """What is wrong with the value of a flag, in one sentence."""
    name = (error.argument_name or "").partition("/")[0]
    options = walk.options(kind).values()
    option = next((o for o in options if name in (o.flag, o.name, help_texts.metavar(o))), None)
    if option is None:
        return str(error)
    if help_texts.is_action(option):
        return f"what follows {prog} {error.message}{help_texts.example(kind)}"
    name = help_texts.metavar(option) if option.positional else option.flag
    if "expected" in error.message and "argument" in error.message:
        return f"{name} needs {walk.allowed(option.item)}."
    if found := re.match(r"ignored explicit argument (.*)", error.message):
        return f"{name} is a switch and takes no value, but got {found[1]}."
    if name == "--resume":
        return f"{name} {error.message} The folder of the run goes after --run-dir."
    return f"{name} {error.message}"
