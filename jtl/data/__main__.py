"""Runs `python -m jtl.data`."""

from jtl import cli
from jtl.data.command import Options, command

if __name__ == "__main__":
    cli.end(cli.main(Options, command, prog="python -m jtl.data"))
