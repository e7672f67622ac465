"""Runs `python -m jtl.search`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("search")
