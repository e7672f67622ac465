"""`python -m support.toy_command --do WHAT`: a command that does what tests need of one."""

from __future__ import annotations

import dataclasses

from jtl.cli import app
from jtl.common.output import print_json


@dataclasses.dataclass(frozen=True)
class Options:
    """Does what it is told.

    Attributes:
        do: What to do.
    """

    do: str = "nothing"


NAMES = ("ö-ash", "樺", "plain", "a\udcff")


def command(options: Options) -> None:
    if options.do == "lines":
        for number in range(100_000):
            print(number)
    if options.do == "line":
        print("one")
    if options.do == "names":
        for name in NAMES:
            print(name)
    if options.do == "json":
        print_json({"names": NAMES})
    if options.do == "defect":
        raise KeyError("a defect of jtl")


if __name__ == "__main__":
    app.end(app.main(Options, command, prog="it"))
