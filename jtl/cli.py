"""What every command shares: parsing, and errors without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from jtl.errors import UserError

_Options = TypeVar("_Options")


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
        Ctrl-C.
    """
    parsed = tyro.cli(options, prog=prog, args=args)
    try:
        command(parsed)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130  # What shells report for SIGINT.
    return 0
