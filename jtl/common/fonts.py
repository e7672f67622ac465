"""Letters of class and file names in plots: of any script that an installed font has."""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from jtl.common.text import for_terminal


def png(figure: Any) -> bytes:
    """A matplotlib figure as the content of a PNG file, 120 pixels an inch."""
    use_for_names(figure)
    content = io.BytesIO()
    with boxes_allowed():
        figure.savefig(content, format="png", dpi=120)
    return content.getvalue()


@contextlib.contextmanager
def boxes_allowed() -> Iterator[None]:
    """Draws and measures characters that no font has without a warning: `note` tells of them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def use_for_names(figure: Any) -> None:
    """Makes a figure's texts fall back to fonts that have the characters the default one lacks.

    Matplotlib's own font has no Chinese, Japanese, Korean or Indic characters, among others.
    Characters that no installed font has are drawn as boxes.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        more = [family for family, _ in fallbacks(text.get_text())]
        if more:  # Once each, also of a figure that was seen before, to measure its title.
            text.set_fontfamily(list(dict.fromkeys([*text.get_fontfamily(), *more])))


def file_for(text: str) -> str:
    """The path of the one font to write a text in: the first that has most of its characters."""
    from matplotlib.font_manager import FontProperties, findfont

    default = findfont(FontProperties())
    wanted = set(map(ord, text))
    files = [default, *(file for _, file in fallbacks(text))]
    return max(files, key=lambda file: len(wanted & _characters(file)))


def note(names: Iterable[str]) -> str | None:
    """What to tell about names with characters that are drawn as boxes; None if there are none."""
    text = "".join(names)
    missing = _lacked_by_default(text)
    for _, file in fallbacks(text):
        missing -= _characters(file)
    if not missing:
        return None
    some = "".join(letter for letter in dict.fromkeys(text) if ord(letter) in missing)[:5]
    return (
        f"No installed font has characters such as {for_terminal(some)}, so plots show boxes "
        "instead. Install a font that has them, such as Noto Sans, and draw again"
    )


@functools.lru_cache
def fallbacks(text: str) -> tuple[tuple[str, str], ...]:
    """Families and files of the installed fonts that have what the default font lacks of a text."""
    missing = _lacked_by_default(text)
    if not missing:
        return ()
    from matplotlib.font_manager import findSystemFonts, fontManager

    # Matplotlib keeps a list of fonts, which lacks those that were installed since.
    for file in set(findSystemFonts()) - {font.fname for font in fontManager.ttflist}:
        with contextlib.suppress(Exception):  # Damaged, or of a kind that it does not read.
            fontManager.addfont(file)
    plain = [
        font
        for font in fontManager.ttflist
        if font.style == font.variant == "normal"
        # It has a box for every character there is.
        and not font.name.lstrip(".").replace(" ", "").startswith("LastResort")
    ]
    # A text in one script is best written in one font, so the one that has most comes first.
    found = {}
    for font in sorted(plain, key=lambda font: (abs(int(font.weight) - 400), font.name)):
        found.setdefault(font.name, font.fname)
    chosen = []
    while missing:
        having = {name: len(missing & _characters(file)) for name, file in found.items()}
        best = max(having, key=lambda name: having[name], default=None)
        if best is None or not having[best]:
            break
        chosen.append((best, found[best]))
        missing -= _characters(found[best])
    return tuple(chosen)


def _lacked_by_default(text: str) -> set[int]:
    if text.isascii():  # Nearly always; nothing is imported or opened for it.
        return set()
    from matplotlib.font_manager import FontProperties, findfont

    printable = {ord(letter) for letter in text if letter.isprintable()}
    return printable - _characters(findfont(FontProperties()))


@functools.cache
def _characters(file: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of odd tables in fonts that are not even used.
        try:
            return frozenset(FT2Font(file).get_charmap())
        except (OSError, RuntimeError):  # Damaged, or of a kind that FreeType does not read.
            return frozenset()
