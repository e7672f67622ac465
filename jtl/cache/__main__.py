"""Runs `python -m jtl.cache`."""

from jtl.cache.command import Options, command
from jtl.cli import app

if __name__ == "__main__":
    app.end(app.main(Options, command, prog="python -m jtl.cache"))
