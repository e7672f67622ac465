"""Runs `python -m jtl.compare`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("compare")
