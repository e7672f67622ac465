"""Contact sheets: the images that were found, with what is said of them."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from jtl.cleaning.findings import NEAR, OUTLIER, WRONG, Finding
from jtl.cleaning.pool import Pool
from jtl.common import fonts
from jtl.common.errors import UserError
from jtl.common.text import shortened
from jtl.data.decoding import HostTransform

NAMES = {WRONG: "wrong-labels", NEAR: "near-duplicates", OUTLIER: "outliers"}
"""Of the sheets; a number and .jpg follow."""
COLUMNS, ROWS = 6, 5
MOST_PAGES = 10
"""Of each kind; the table has all."""
HEADINGS = {
    WRONG: "Likely wrong labels. Black: the label that the image has. Red: what it looks like, and "
    "how unlikely its label is (at most 1).",
    NEAR: "Near-duplicates. The cosine says how alike two images are to the network (at most 1).",
    OUTLIER: "Outliers. Red: how much farther than usual the nearest images of the class are.",
}
"""In the first line of a page."""
_NUMBERS = "The numbers are those of the rows in clean.csv."
_SIDE, _GAP, _LETTER, _LINE, _LONGEST = 160, 8, 12, 16, 25  # pixels, and letters
_QUALITY = 88
_WHOLE = HostTransform(_SIDE, 1.0, "bilinear", scaled_jpeg=True, fit="pad", fill=(255, 255, 255))


def page(findings: Sequence[tuple[int, Finding]], pool: Pool) -> bytes:
    """A page of up to `COLUMNS` x `ROWS` findings of one kind, as JPEG.

    Of near-duplicates, both images stand side by side, and a row has half as many.

    Args:
        findings: Each with the number of its row in the table.
        pool: The images.
    """
    kind = findings[0][1].kind
    pairs = kind == NEAR
    across, width = (COLUMNS // 2, 2) if pairs else (COLUMNS, 1)
    down = -(-len(findings) // across)
    tile = (width * _SIDE + (width - 1) * _GAP + 2 * _GAP, _SIDE + 3 * _LINE + 2 * _GAP)
    head = 2 * _LINE + _GAP
    canvas = Image.new("RGB", (across * tile[0], head + down * tile[1]), "white")
    drawing = ImageDraw.Draw(canvas)
    for line, text in enumerate((HEADINGS[kind], _NUMBERS)):
        _write(drawing, (_GAP, _GAP + line * _LINE), text, "black", canvas.width - 2 * _GAP)
    for place, (number, finding) in enumerate(findings):
        left, top = place % across * tile[0] + _GAP, head + place // across * tile[1] + _GAP
        under = top + _SIDE + 2
        for at, row in enumerate(finding.rows):
            beside = left + at * (_SIDE + _GAP)
            canvas.paste(_image(pool, row), (beside, top))
            name = pool.names[row].rpartition("/")[2] or pool.names[row]
            told = name if at else f"{number}  {name}"
            _write(drawing, (beside, under), shortened(told, _LONGEST), "grey")
            told = shortened(f"{pool.splits[row]}: {pool.label(row)}", _LONGEST)
            _write(drawing, (beside, under + _LINE), told, "black")
        told, colour = f"{finding.score:.1f} times as far", "#b00000"
        if pairs:
            told, colour = f"cosine {finding.score:.3f}", "grey"
        elif kind == WRONG:
            told = f"-> {shortened(finding.suggested or 'none', 17)} ({finding.score:.2f})"
        _write(drawing, (left, under + 2 * _LINE), told, colour)
    content = io.BytesIO()
    canvas.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def pages_of(findings: Sequence[Finding], kind: str) -> list[list[tuple[int, Finding]]]:
    """The findings of one kind by page, as many as are shown, each with the number of its row.

    Args:
        findings: Of all kinds, as they stand in the table, below the row of its columns.
        kind: One of them.
    """
    found = [(row, finding) for row, finding in enumerate(findings, 2) if finding.kind == kind]
    if kind not in NAMES:
        return []
    size = COLUMNS * ROWS // (2 if kind == NEAR else 1)
    return [found[start : start + size] for start in range(0, len(found), size)[:MOST_PAGES]]


def _image(pool: Pool, row: int) -> Image.Image:
    try:
        return Image.fromarray(pool.read(row, _WHOLE))
    except UserError:  # Gone since.
        return Image.new("RGB", (_SIDE, _SIDE), "lightgrey")


def _write(
    drawing: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    colour: str,
    width: int = _SIDE,
) -> None:
    font = ImageFont.truetype(fonts.file_for(text), _LETTER)
    while text and drawing.textlength(text, font) > width:
        text = shortened(text, len(text) - 1) if len(text) > 8 else text[:-1]
    drawing.text(place, text, fill=colour, font=font)
