"""Runs `python -m jtl.serve`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("serve")
