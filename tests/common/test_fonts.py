"""Names in scripts that matplotlib's own font does not have."""

from __future__ import annotations

import io

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from jtl.common import fonts

HAVE, LACK = "犬猫", "\U0001f9ff"
"""Characters of the font that `installed` makes, and one that no font of the tests has."""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A font whose two characters are filled squares; the path of its file."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square, names = pen.glyph(), [".notdef", "one", "two"]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap(dict(zip(map(ord, HAVE), names[1:], strict=True)))
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    path = tmp_path / "squares.ttf"
    builder.save(path)
    known = font_manager.fontManager.ttflist
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(known))
    # As a font that was installed after matplotlib's list was made.
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(path)])
    fonts.fallbacks.cache_clear()
    yield str(path)
    fonts.fallbacks.cache_clear()


def ink(text: str) -> float:
    """How dark a figure is that holds nothing but a text."""
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.5, text)
    pixels = np.asarray(Image.open(io.BytesIO(fonts.png(figure))).convert("L"), dtype=float)
    return float((255 - pixels).sum() / 255)


def test_characters_come_from_a_font_that_has_them(installed):
    # Filled squares of 10 points at 120 dots an inch; outlines of boxes have half of that.
    assert ink(HAVE) == pytest.approx(2 * (10 * 120 / 72) ** 2, rel=0.05)


def test_a_montage_takes_the_font_that_has_the_name(installed):
    assert fonts.file_for("ant").endswith("DejaVuSans.ttf")
    assert fonts.file_for(HAVE) == installed
    assert fonts.file_for(f"ants and a {HAVE[0]}").endswith("DejaVuSans.ttf")


def test_only_what_no_font_has_is_told(installed):
    assert fonts.note(["ant", "Käfer", "жук", HAVE]) is None
    told = fonts.note(["ant", HAVE + LACK])
    assert told is not None
    assert LACK in told
    assert HAVE[0] not in told


def test_without_a_font_boxes_are_told(monkeypatch):
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [])
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    fonts.fallbacks.cache_clear()
    told = fonts.note(["ant", HAVE])
    fonts.fallbacks.cache_clear()
    assert told is not None
    assert HAVE in told
