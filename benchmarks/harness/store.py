"""Results that survive an interruption: written after each arm, and not measured twice."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.common.files import replace_text

Row = dict[str, Any]


def add_options(parser: argparse.ArgumentParser, smoke: str, *, redraw: bool = False) -> None:
    """The options of every script that stores its rows.

    Args:
        parser: Gets them.
        smoke: What `--smoke` makes small, in words.
        redraw: Whether stored rows can be drawn again.
    """
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    if redraw:
        parser.add_argument(
            "--redraw", action="store_true", help="measure nothing, draw what is stored"
        )
    parser.add_argument("--smoke", action="store_true", help=smoke)


class Store:
    """The rows of one script in a JSON file.

    Args:
        path: The file; read if it is there.
        facts: As `harness.machine.facts` gives them. Rows of other facts are dropped: a table
            holds figures of one machine, one source and one set of versions. None takes the
            file as it is, to draw its figures again.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any] | None):
        self._path = path
        self.facts = dict(facts or {})
        self.rows: list[Row] = []
        self.commands: list[str] = []
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if facts is None:
                self.facts = stored["facts"]
            if stored.get("facts") == self.facts:
                self.rows, self.commands = stored["rows"], stored["commands"]
            else:
                told = f"{path} is of another machine, source or versions: all is measured again"
                print(told, file=sys.stderr, flush=True)
        elif facts is None:
            raise SystemExit(f"{path} is not there: measure first, without --redraw.")

    def find(self, settings: Mapping[str, Any], **key: Any) -> Row | None:
        """The row with this key, if it was measured under these settings."""
        for row in self.rows:
            if row["settings"] == settings and all(row[name] == key[name] for name in key):
                return row
        return None

    def put(self, key: tuple[str, ...], row: Row, command: str) -> None:
        """Adds a row in place of one with the same values of `key`, and writes the file."""
        same = [all(old[name] == row[name] for name in key) for old in self.rows]
        self.rows = [old for old, drop in zip(self.rows, same, strict=True) if not drop]
        self.rows.append(row)
        if command not in self.commands:
            self.commands.append(command)
        content = {"commands": self.commands, "facts": self.facts, "rows": self.rows}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(self._path, json.dumps(content, indent=2) + "\n")

    def ordered(self, *orders: tuple[str, tuple[str, ...]]) -> list[Row]:
        """The rows by the given orders of values of columns; unknown values come last."""

        def place(row: Row) -> list[int]:
            return [
                values.index(row[name]) if row[name] in values else len(values)
                for name, values in orders
            ]

        return sorted(self.rows, key=place)
