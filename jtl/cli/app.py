"""What every command shares: options in, an exit code out, errors without a traceback."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from jtl.cli import parser
from jtl.common import garbage_collection, signals
from jtl.common.errors import UserError, explain
from jtl.common.invocation import as_typed
from jtl.common.text import for_terminal
from jtl.config import file, walk

_Options = TypeVar("_Options")

BROKEN_PIPE = 128 + 13
"""What shells report for SIGPIPE: the reader of the output, such as `head`, has gone."""


def main(
    options: type[_Options],
    command: Callable[[_Options], int | None],
    *,
    prog: str,
    args: Sequence[str] | None = None,
) -> int:
    """Parses the command line and runs a command.

    Args:
        options: Dataclass of the command's options.
        command: What to do with them; may give an exit code.
        prog: The command's name in its help.
        args: The command line; default that of the process.

    Returns:
        The exit code: 0, or that of the command; 2 after a message on stderr about what the user
        can fix; 130 after SIGINT (Ctrl-C), 143 after SIGTERM, 141 if nobody reads the output any
        more.
    """
    words = sys.argv[1:] if args is None else args
    return guarded(lambda: command(parsed(options, words, prog)) or 0)


def guarded(run: Callable[[], int]) -> int:
    """Runs a command and turns how it ends into messages and an exit code; see `main`."""
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # Names that the locale cannot write.
    try:
        try:
            with signals.sent_again_where_swallowed():
                code = run()
        except SystemExit as ended:  # After help.
            code = int(ended.code or 0)
        sys.stdout.flush()  # Here, where a failure still gets a message.
    except BrokenPipeError:
        code = BROKEN_PIPE
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        _say(f"error: {message}")
        code = 2
    except KeyboardInterrupt as error:
        _say(str(error) or "interrupted")
        code = 128 + getattr(error, "signal", signal.SIGINT)  # What shells report.
    _drop_unwritten(sys.stdout)
    _drop_unwritten(sys.stderr)
    return code


def _open_closed() -> None:
    """Gives a process that was started without standard streams (`>&-`) some that go nowhere.

    Or the next file that is opened would take their numbers, and get what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest free number.
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


def end(code: int) -> NoReturn:
    """Ends the process with what `main` gave.

    After a signal at once: programs may be running still, and Python would wait for them, or
    they for Python. So too after an error in one of many processes, for which it would wait.
    """
    processes: Any = sys.modules.get("jtl.distributed.processes")  # If ever there were others.
    if code >= 128 or (code and processes is not None and processes.is_distributed()):
        if processes is not None:
            processes.wait_for_shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    garbage_collection.skip_at_exit()
    sys.exit(code)


def parsed(options: type[_Options], args: Sequence[str], prog: str) -> _Options:
    """The options that a command line gives, those of its `--config FILE` before them.

    Raises:
        UserError: A flag or a value is none, and what is allowed.
        SystemExit: Help was asked for, and has been printed.
    """
    given = parser.parse(options, args, prog)
    path = given.pop("config", None)
    if isinstance(path, Path):
        words = file.words(path, options, given)
        try:
            given = {**parser.parse(options, words, prog), **given}
        except UserError as error:
            raise UserError(f"in the file of {file.FLAG}: {error}") from error
    config = walk.create(options, given)
    walk.check(config)
    noting: Any = getattr(config, "noting", None)
    return config if noting is None else noting(tuple(given))


def quiet_libraries() -> None:
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
        print(for_terminal(as_typed(message)), file=sys.stderr)


def _drop_unwritten(stream: Any) -> None:
    """Sends what a stream cannot write nowhere, or Python would complain of it at its end."""
    try:
        stream.flush()
    except OSError:
        # https://docs.python.org/3/library/signal.html#note-on-sigpipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
