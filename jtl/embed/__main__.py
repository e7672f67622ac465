"""Runs `python -m jtl.embed`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("embed")
