"""Markdown of other people's text: tables, and names as code."""

from __future__ import annotations

import re
from collections.abc import Sequence

from jtl.common.text import for_terminal


def table(rows: Sequence[Sequence[str]], header: Sequence[str] | None = None) -> str:
    """Rows as a table; cells are Markdown already.

    Args:
        rows: Of equal length; at least one where there is no header.
        header: None for an empty one.
    """
    header = ["" for _ in rows[0]] if header is None else header
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def code(text: str) -> str:
    """Text as code in a line or in a cell, whatever its signs."""
    plain = for_terminal(one_line(str(text))).replace("`", "'").replace("|", "\\|")
    return f"`{plain}`"


def one_line(text: str) -> str:
    """Text with a space for every line break and every run of blanks."""
    return re.sub(r"\s+", " ", text)
