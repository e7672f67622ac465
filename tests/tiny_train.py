"""`python -m jtl.train` in a process that knows the tiny backbone."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import tiny

from jtl import cli, train
from jtl.config import Config
from jtl.models import registry

if __name__ == "__main__":
    registry._ENTRIES[tiny.ENTRY.name] = tiny.ENTRY
    cli.end(cli.main(Config, train.command, prog="tiny_train"))
