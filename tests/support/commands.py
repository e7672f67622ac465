"""Running the commands: in this process, where that is enough, or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys

from jtl import compare
from jtl.cli import app
from jtl.config.options import Config
from jtl.evaluate import command as evaluate
from jtl.export import command as export
from jtl.predict import command as predict
from jtl.train import command as train


def main(command: str, *args: object) -> int:
    """A command in this process; the exit code that the process would have."""
    options = {
        "train": (Config, train.command),
        "evaluate": (evaluate.Options, evaluate.command),
        "predict": (predict.Options, predict.command),
        "export": (export.Options, export.command),
        "compare": (compare.Options, compare.command),
    }
    try:
        return app.main(*options[command], prog=f"jtl.{command}", args=[str(a) for a in args])
    except SystemExit as error:  # How the parser ends.
        return int(error.code or 0)


def python(*args: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process with the strictness of the test suite."""
    strict = {"PYTHONWARNINGS": "error", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    return subprocess.run(
        [sys.executable, *map(str, args)],
        env={**os.environ, **strict, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
