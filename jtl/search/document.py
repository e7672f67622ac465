"""A page of headings, texts, tables and plots, written as Markdown or as HTML."""

from __future__ import annotations

import base64
import dataclasses
import html
from collections.abc import Sequence

from jtl.common.text import for_markdown


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading; the first one of a page is its title."""

    text: str


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclasses.dataclass(frozen=True)
class Code:
    """A command to copy."""

    text: str


@dataclasses.dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: What it shows.
        file: Its name beside the page.
        png: Its content, which HTML holds itself.
    """

    title: str
    file: str
    png: bytes


@dataclasses.dataclass(frozen=True)
class Link:
    """A cell that leads to a file or folder beside the page."""

    text: str
    target: str


Cell = str | Link


@dataclasses.dataclass(frozen=True)
class Rows:
    """A table."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


Block = Heading | Text | Code | Plot | Rows


def markdown(blocks: Sequence[Block], *, title: bool = True) -> str:
    """The page as Markdown.

    Args:
        blocks: What is on it.
        title: Whether the first block is its title.
    """
    told = (_markdown(block, title=title and not at) for at, block in enumerate(blocks))
    return "\n\n".join(told) + "\n"


def _markdown(block: Block, *, title: bool) -> str:
    if isinstance(block, Heading):
        return f"{'#' if title else '##'} {for_markdown(block.text)}"
    if isinstance(block, Text):
        return for_markdown(block.text)
    if isinstance(block, Code):
        return f"    {block.text}"
    if isinstance(block, Plot):
        return f"![{for_markdown(block.title)}]({block.file})"
    rows = [[_markdown_cell(cell) for cell in row] for row in block.rows]
    lines = [list(map(for_markdown, block.header)), ["---"] * len(block.header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f"[{for_markdown(cell.text)}]({cell.target})"
    return for_markdown(cell)


_STYLE = """
body { font-family: system-ui, sans-serif; line-height: 1.5; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; background: #fff; }
h1, h2, p { overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .3rem .8rem;
        border-bottom: 1px solid #ddd; vertical-align: top; }
pre { background: #f4f4f4; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; }
@media (max-width: 40rem) { body { margin: 1rem auto; } h1 { font-size: 1.4rem; }
  th, td { padding: .3rem .4rem; font-size: .85rem; } }
"""


def as_html(blocks: Sequence[Block]) -> str:
    """The page as HTML that needs no other file; whatever comes from outside is escaped."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    body = "\n".join(_html(block, title=not at) for at, block in enumerate(blocks))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _html(block: Block, *, title: bool) -> str:
    if isinstance(block, Heading):
        tag = "h1" if title else "h2"
        return f"<{tag}>{html.escape(block.text)}</{tag}>"
    if isinstance(block, Text):
        return f"<p>{html.escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{html.escape(block.text)}</pre>"
    if isinstance(block, Plot):
        data = base64.b64encode(block.png).decode("ascii")
        return f'<img src="data:image/png;base64,{data}" alt="{html.escape(block.title)}">'
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in block.header)
    body = "\n".join(
        f"<tr>{''.join(f'<td>{_html_cell(cell)}</td>' for cell in row)}</tr>" for row in block.rows
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


def _html_cell(cell: Cell) -> str:
    if isinstance(cell, Link):
        return f'<a href="{html.escape(cell.target)}">{html.escape(cell.text)}</a>'
    return html.escape(cell)
