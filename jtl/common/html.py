"""Pieces of HTML for notebooks; whatever comes from outside is escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path


def lines(text: str) -> str:
    """Lines of text."""
    return "<br>".join(html.escape(line) for line in text.splitlines())


def image(png: bytes, title: str, width: int | None = None) -> str:
    """A PNG, inside the page."""
    data = base64.b64encode(png).decode("ascii")
    size = f' style="width:{width}px"' if width else ' style="max-width:100%"'
    return f'<img src="data:image/png;base64,{data}" alt="{html.escape(title)}"{size}>'


def plot(path: Path, title: str) -> str:
    """The PNG in a file; nothing where there is none."""
    try:
        return image(path.read_bytes(), title)
    except OSError:
        return ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
