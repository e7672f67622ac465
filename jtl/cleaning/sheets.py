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
_SIDE, _GAP, _LETTER, _LINE, _LONGEST = 160, 8, 12, 16, 25  # pixels, and letters
_QUALITY = 88
_WHOLE = HostTransform(_SIDE, 1.0, "bilinear", scaled_jpeg=True, fit="pad", fill=(255, 255, 255))


def page(findings: Sequence[Finding], pool: Pool) -> bytes:
    """A page of up to `COLUMNS` x `ROWS` findings of one kind, as JPEG.

    Of near-duplicates, both images stand side by side, and a row has half as many.
    """
    pairs = findings[0].kind == NEAR
    across, width = (COLUMNS // 2, 2) if pairs else (COLUMNS, 1)
    down = -(-len(findings) // across)
    tile = (width * _SIDE + (width - 1) * _GAP + 2 * _GAP, _SIDE + 3 * _LINE + 2 * _GAP)
    canvas = Image.new("RGB", (across * tile[0], down * tile[1]), "white")
    drawing = ImageDraw.Draw(canvas)
    for number, finding in enumerate(findings):
        left, top = number % across * tile[0] + _GAP, number // across * tile[1] + _GAP
        for at, row in enumerate(finding.rows):
            canvas.paste(_image(pool, row), (left + at * (_SIDE + _GAP), top))
            name = shortened(pool.names[row], _LONGEST)
            place = (left + at * (_SIDE + _GAP), top + _SIDE + 2)
            _write(drawing, place, name, "grey")
            if pairs:
                _write(drawing, (place[0], place[1] + _LINE), f"{pool.splits[row]}: "
                       f"{shortened(pool.label(row), _LONGEST - 7)}", "black")  # fmt: skip
        under = top + _SIDE + 2 + _LINE
        if pairs:
            _write(drawing, (left, under + _LINE), f"cosine {finding.score:.3f}", "grey")
        elif finding.kind == WRONG:
            _write(drawing, (left, under), shortened(finding.label, _LONGEST), "black")
            told = f"-> {shortened(finding.suggested or 'none', 17)} ({finding.score:.2f})"
            _write(drawing, (left, under + _LINE), told, "#b00000")
        else:
            _write(drawing, (left, under), shortened(finding.label, _LONGEST), "black")
            _write(drawing, (left, under + _LINE), f"{finding.score:.1f} times as far", "#b00000")
    content = io.BytesIO()
    canvas.save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def pages_of(findings: Sequence[Finding]) -> list[list[Finding]]:
    """The findings of one kind by page, as many as are shown."""
    if not findings or findings[0].kind not in NAMES:
        return []
    size = COLUMNS * ROWS // (2 if findings[0].kind == NEAR else 1)
    starts = range(0, len(findings), size)[:MOST_PAGES]
    return [list(findings[start : start + size]) for start in starts]


def _image(pool: Pool, row: int) -> Image.Image:
    try:
        return Image.fromarray(pool.read(row, _WHOLE))
    except UserError:  # Gone since.
        return Image.new("RGB", (_SIDE, _SIDE), "lightgrey")


def _write(drawing: ImageDraw.ImageDraw, place: tuple[int, int], text: str, colour: str) -> None:
    font = ImageFont.truetype(fonts.file_for(text), _LETTER)
    while text and drawing.textlength(text, font) > _SIDE:
        text = shortened(text, len(text) - 1) if len(text) > 8 else text[:-1]
    drawing.text(place, text, fill=colour, font=font)
