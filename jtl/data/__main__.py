"""Runs `python -m jtl.data`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("data")
