"""The command line: `python -m weights_convert SOURCE --out DIR`, `list`, `inspect`, `export`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from jtl.cli import app, commands
from jtl.common.invocation import command
from weights_convert.cli import commands as ours


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        The exit code: 0, 1 for a verification beyond its bounds, 2 for what the user can fix, 130
        after Ctrl-C, or 141 where nobody reads the output any more.
    """
    words = sys.argv[1:] if arguments is None else arguments
    return commands.run_one_of(ours, words, command("weights"))


if __name__ == "__main__":
    app.end(main())
