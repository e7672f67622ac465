"""Running the commands: in this process, where that is enough, or in one of their own."""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys

from jtl.cli import app, commands
from jtl.train import command as train


def main(command: str, *args: object) -> int:
    """A command in this process; the exit code that the process would have."""
    known, words = commands.COMMANDS[command], [str(arg) for arg in args]
    module, prog = known.module, f"jtl {command}"
    if words and words[0] in known.more:
        module, prog = known.more[words[0]], f"{prog} {words.pop(0)}"
    module = importlib.import_module(module)
    run = module.command
    if command == "train":
        run = functools.partial(train.command, background_plots=False)
    return app.main(module.Options, run, prog=prog, args=words)


def python(*args: object, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """A real process with the strictness of the test suite; variables that are None it lacks."""
    strict = {"PYTHONWARNINGS": "error", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    variables = {**os.environ, **strict, **environment}
    return subprocess.run(
        [sys.executable, *map(str, args)],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
