"""What every command shares: parsing, and errors without a traceback."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

from jtl.common.errors import UserError, explain
from jtl.config import file
from jtl.distributed import processes

_Options = TypeVar("_Options")

BROKEN_PIPE = 128 + 13
"""What shells report for SIGPIPE: the reader of the output, such as `head`, has gone."""


def main(
    options: type[_Options],
    command: Callable[[_Options], None],
    *,
    prog: str,
    args: Sequence[str] | None = None,
) -> int:
    """Parses the command line and runs a command.

    Args:
        options: Dataclass of the command's options.
        command: What to do with them.
        prog: The command's name in its help.
        args: The command line; default that of the process.

    Returns:
        The exit code: 0; 2 after a message on stderr about what the user can fix; 130 after
        SIGINT (Ctrl-C), 143 after SIGTERM, 141 if nobody reads the output any more.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # Names that the locale cannot write.
    try:
        if args is None:  # The process is the command's.
            _quiet_libraries()
        code = _run(options, command, prog, sys.argv[1:] if args is None else args)
        sys.stdout.flush()  # Here, where a failure still gets a message.
    except BrokenPipeError:
        code = BROKEN_PIPE
    except Exception as error:
        told = explain(error)
        if told is None:
            raise
        _say(f"error: {told}")
        code = 2
    except KeyboardInterrupt as error:
        _say(str(error) or "interrupted")
        code = 128 + getattr(error, "signal", signal.SIGINT)  # What shells report.
    _drop_unwritten(sys.stdout)
    _drop_unwritten(sys.stderr)
    return code


def end(code: int) -> NoReturn:
    """Ends the process with what `main` gave.

    After a signal at once: programs may be running still, and Python would wait for them, or
    they for Python. So too after an error in one of many processes, for which it would wait.
    """
    if code >= 128 or (code and processes.several()):
        processes.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def print_json(value: Any, indent: int | None = None) -> None:
    """Prints JSON on stdout that stays JSON in every locale."""
    unicode = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    print(json.dumps(value, indent=indent, ensure_ascii=not unicode))


def _run(
    options: type[_Options], command: Callable[[_Options], None], prog: str, args: Sequence[str]
) -> int:
    try:
        given = args
        _check_flags(options, prog, args)
        if file.FLAG in (flags := list(_flags(options))):
            args = file.expanded(args, flags)
        _check_empty(options, args)
        parsed = _parsed(options, prog, given, _spread(options, args))
        noting: Any = getattr(parsed, "noting", None)
        if noting is not None:
            parsed = noting(tuple(file.names(args)))
    except SystemExit as ended:  # After help, or a message about the command line.
        return int(ended.code or 0)
    command(parsed)
    return 0


def _parsed(
    options: type[_Options], prog: str, given: Sequence[str], args: Sequence[str]
) -> _Options:
    """What the command line says.

    Args:
        options: Dataclass of the command's options.
        prog: The command's name in its help.
        given: The command line as it came.
        args: The same with the options of a file, and lists in words of their own.

    Raises:
        UserError: A value is none for its flag.
        SystemExit: Help was asked for, or something else is wrong, which has been told.
    """
    wants_help = any(arg in ("-h", "--help") or arg.startswith("--tyro-") for arg in args)

    def parse(told: bool) -> _Options:
        # Groups of options have headings in the help, and no place in the flags.
        config = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone)
        return tyro.cli(options, prog=prog, args=args, config=config, console_outputs=told)

    if wants_help:
        return parse(True)
    try:
        # Some of its messages come all the same.
        with contextlib.redirect_stderr(io.StringIO()):
            return parse(False)
    except SystemExit:
        from jtl.cli import values

    if found := values.complaint(options, args):
        flag, told = found
        names = {arg.partition("=")[0].replace("_", "-") for arg in given}
        raise UserError(told if flag in names else f"in the file of {file.FLAG}: {told}")
    return parse(True)


def _quiet_libraries() -> None:
    """Keeps Orbax and TensorStore from reporting in their way what they raise as well.

    After a failed write, as on a full disk, each of TensorStore's threads prints that Orbax
    has closed the event loop in the meantime, until the process ends.
    """
    before = sys.unraisablehook

    def unraisable(raised: sys.UnraisableHookArgs) -> None:
        if str(raised.exc_value) != "Event loop is closed":
            before(raised)

    sys.unraisablehook = unraisable
    logging.getLogger("absl").setLevel(logging.CRITICAL)


def _say(message: str) -> None:
    with contextlib.suppress(OSError):  # Nobody may be there to read it.
        print(message, file=sys.stderr)


def _drop_unwritten(stream: Any) -> None:
    """Sends what a stream cannot write nowhere, or Python would complain of it at its end."""
    try:
        stream.flush()
    except OSError:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _check_flags(options: type, prog: str, args: Sequence[str]) -> None:
    """Names the nearest flag for every one there is not, also where a value is tied to it.

    Raises:
        UserError: There is such a flag.
    """
    flags = ["--help", *_flags(options)]
    for argument in args:
        if argument == "--":
            return
        flag = argument.partition("=")[0]
        if not re.match(r"--?[^\W\d]", flag) or flag == "-h" or flag.startswith("--tyro-"):
            continue
        if (plain := "--" + flag.lstrip("-").replace("_", "-")) in flags and flag[:2] == "--":
            continue
        raise UserError(
            f"there is no flag {flag}.{_meant(plain.lower(), flags)} See {prog} --help."
        )


def _check_empty(options: type, args: Sequence[str]) -> None:
    """Refuses an empty value, as of a shell's variable that is not set."""
    if not any(arg == "" or arg.endswith("=") for arg in args):
        return
    from jtl.cli import values  # Only for messages.

    if flag := values.empty(options, args):
        raise UserError(
            f"{flag} needs a value, and was given an empty one. Name it, or leave it out."
        )


def _meant(flag: str, flags: Sequence[str]) -> str:
    """A phrase with the nearest flag, or with all of them."""
    spellings = {known: known for known in flags}
    spellings |= {word: known for word, known in _SYNONYMS.items() if known in flags}
    close = difflib.get_close_matches(flag, spellings, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{spellings[close[0]]}'?"
    return f" The flags are: {', '.join(flags)}."


_SYNONYMS = {
    "--architecture": "--model",
    "--backbone": "--model",
    "--pretrained": "--weights",
    "--dataset": "--data",
    "--freeze": "--mask",
    "--learning-rate": "--lr",
    "--dropout": "--head-dropout",
    "--output-dir": "--run-dir",
    "--num-epochs": "--epochs",
}
"""What other programs call jtl's flags."""


def _spread(options: type, args: Sequence[str]) -> list[str]:
    """Lists with commas, `--head-widths 1024,512`, as the separate words that the parser takes."""
    lists, spread, inside = set(_flags(options, tuple)), [], False
    for argument in args:
        flag, tied, value = argument.partition("=")
        if flag.startswith("--"):
            inside = "--" + flag[2:].replace("_", "-") in lists
            spread += [flag, *_words(value)] if inside and tied else [argument]
        else:
            spread += _words(argument) if inside else [argument]
    return spread


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _flags(options: Any, kind: type = object) -> Iterator[str]:
    """The flags of a dataclass with defaults of a kind; without one, the place tells."""
    for field in dataclasses.fields(options):
        if not field.metadata.get("flag", True):
            continue
        name = field.name.replace("_", "-")
        if dataclasses.is_dataclass(field.default):
            yield from _flags(field.default, kind)
        elif field.default is not dataclasses.MISSING and isinstance(field.default, kind):
            yield f"--{name}"
            if isinstance(field.default, bool):
                yield f"--no-{name}"
