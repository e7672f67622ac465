"""How this process was started, so that messages name commands as their reader types them."""

from __future__ import annotations

import re
import sys

MODULES = {
    **{
        name: f"jtl.{name}"
        for name in ("train", "predict", "evaluate", "export", "compare", "data", "cache")
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
