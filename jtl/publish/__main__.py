"""Runs `python -m jtl.publish`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("publish")
