"""Runs `python -m jtl.cache`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("cache")
