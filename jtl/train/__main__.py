"""Runs `python -m jtl.train`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("train")
