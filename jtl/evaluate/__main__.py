"""Runs `python -m jtl.evaluate`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("evaluate")
