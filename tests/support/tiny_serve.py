"""`python -m jtl.serve` in a process that knows the tiny backbone."""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from jtl.cli import app
from jtl.models import registry
from jtl.serve import command as serve
from support import tiny

if __name__ == "__main__":
    registry.ENTRIES[tiny.ENTRY.name] = tiny.ENTRY
    app.end(app.main(serve.Options, serve.command, prog="jtl serve"))
