"""Runs `python -m jtl.cache`."""

from jtl import cli
from jtl.cache.command import Options, command

if __name__ == "__main__":
    cli.end(cli.main(Options, command, prog="python -m jtl.cache"))
