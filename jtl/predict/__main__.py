"""Runs `python -m jtl.predict`."""

from jtl.cli import commands

if __name__ == "__main__":
    commands.run("predict")
