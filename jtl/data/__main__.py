"""Runs `python -m jtl.data`."""

from jtl.cli import app
from jtl.data.command import Options, command

if __name__ == "__main__":
    app.end(app.main(Options, command, prog="python -m jtl.data"))
