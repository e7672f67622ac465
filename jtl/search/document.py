"""A page of headings, texts, tables and plots, written as Markdown or as HTML."""

from __future__ import annotations

import base64
import dataclasses
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
class Items:
    """Sentences, one below the other."""

    texts: Sequence[str]


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

    @property
    def source(self) -> str:
        """The content as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}"


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


Block = Heading | Text | Items | Code | Plot | Rows


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
    if isinstance(block, Items):
        return "\n".join(f"- {for_markdown(text)}" for text in block.texts)
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


def as_html(blocks: Sequence[Block]) -> str:
    """The page as HTML that needs no other file; whatever comes from outside is escaped."""
    from jtl.common import pages  # Jinja2 takes a moment.

    title = next(block.text for block in blocks if isinstance(block, Heading))
    named = [(type(block).__name__, block) for block in blocks]
    return pages.render("jtl.search", "blocks.html", title=title, blocks=named)
