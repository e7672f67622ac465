"""Runs `python -m jtl COMMAND`, the same as the script `jtl`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.main()
