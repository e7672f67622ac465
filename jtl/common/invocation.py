"""How this process was started: as a command of jtl or not, and how its user types commands."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

MODULES = {
    **{
        name: f"jtl.{name}"
        for name in (
            *("train", "search", "predict", "evaluate", "export", "serve"),
            *("embed", "publish", "compare", "data", "cache"),
        )
    },
    "weights": "weights_convert",
}
"""The module of each command that `python -m` runs."""
_COMMAND = re.compile(rf"(?<![\w./-])(?<!-m )jtl ({'|'.join(MODULES)})\b")


def command(name: str) -> str:
    """What starts a command: `jtl NAME`, or what follows `python -m` in a process started so.

    Args:
        name: A name of `MODULES`.
    """
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    started = "" if spec is None else spec.name.removesuffix(".__main__")
    if started == "jtl":
        return f"python -m jtl {name}"
    return f"python -m {MODULES[name]}" if started in MODULES.values() else f"jtl {name}"


def as_typed(text: str) -> str:
    """The text, with each `jtl NAME` in it as `command` spells it."""
    return _COMMAND.sub(lambda found: command(found[1]), text)


def is_command(words: Sequence[str]) -> bool:
    """Whether a process's command line is `python -m jtl.COMMAND`, or that of the script `jtl`."""
    rest = iter(words[1:])
    for word in rest:
        # Switches without a value, of which the last one of a word may be -m.
        if module := re.fullmatch("-[abd-zA-Z]*?m(.*)", word) if word[:2] not in _VALUED else None:
            return (module[1] or next(rest, "")).partition(".")[0] == "jtl"
        if word in (*_VALUED, "--check-hash-based-pycs"):
            next(rest, None)
        elif not word.startswith("-") or word[:2] in ("-", "-c"):
            return os.path.basename(word) == "jtl"
    return False


_VALUED = ("-W", "-X")
"""Python's options with a value, in the same word or the next."""
