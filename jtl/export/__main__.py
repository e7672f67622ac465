"""Runs `python -m jtl.export`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("export")
