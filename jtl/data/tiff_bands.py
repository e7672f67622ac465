"""Bands of TIFF files that are neither colours nor transparency, as those of satellites are.

Pillow takes a fourth band that a file says nothing of for transparency, and drops one that the
file calls unspecified. Either may be near infrared.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import TiffImagePlugin

from jtl.data import deep_colour

_WHITE, _BLACK, _RGB = 0, 1, 2
_COLOURS = {_WHITE: 1, _BLACK: 1, _RGB: 3}
"""Bands of grey and of colours, by the number of the photometric interpretation (TIFF 6.0)."""
_ALPHA = (1, 2, 999)
"""Extra samples that are transparency: associated, unassociated, and Corel Draw's own number."""
_OPAQUE = 255


def fault(data: bytes) -> str | None:
    """Why an 8-bit or 16-bit TIFF is not what Pillow makes of it; None where it is.

    A band that is opaque everywhere, or unspecified and the same everywhere, says nothing.

    Args:
        data: The whole file, which Pillow can open.
    """
    file: Any = TiffImagePlugin.TiffImageFile(io.BytesIO(data))
    tags = file.tag_v2
    kind = tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, _BLACK)
    if kind == _WHITE and file.mode.startswith("I"):  # Of 8 bits Pillow makes 255 of 0.
        return "a 16-bit TIFF in which 0 is white: save it so that 0 is black"
    colours = _COLOURS.get(kind)
    count = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
    if colours is None or count <= colours:
        return None
    extra = tags.get(TiffImagePlugin.EXTRASAMPLES, ())
    if len(extra) == count - colours and all(kind in _ALPHA for kind in extra):
        return None
    if count == colours + 1 and {*tags.get(TiffImagePlugin.BITSPERSAMPLE, ())} == {8}:
        least, most = _extra_band(file)
        if least == most and (most == _OPAQUE or extra):
            return None
    last = "the last is" if count == colours + 1 else f"the last {count - colours} are"
    return (
        f"a TIFF of {count} bands that does not say what {last} (near infrared, say, or "
        "transparency): save the colours alone, or declare the last one as alpha"
    )


def fault_of_opened(image: Any) -> str | None:
    """As `fault`, of an image that Pillow has opened and not loaded yet; else None."""
    file = getattr(image, "fp", None)
    if image.format != "TIFF" or file is None or file.closed:
        return None
    place = file.tell()
    file.seek(0)
    data = file.read()
    file.seek(place)
    return fault(data)


def of_no_colours(data: bytes) -> str:
    """Why Pillow makes nothing of a TIFF with several bands; empty where that is not why."""
    try:
        directory = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(directory.next)
        directory.load(file)
        bands = int(directory[TiffImagePlugin.SAMPLESPERPIXEL])
    except Exception:  # Damaged: of many kinds.
        return ""
    if bands < 2:
        return ""
    if bands == 2:
        return "a TIFF of 2 bands that are no colours: save one of them as a grey image"
    return f"a TIFF of {bands} bands that are no colours: save three of them as a colour image"


def _extra_band(file: Any) -> tuple[int, int]:
    """The least and the largest value of the last band."""
    # Pillow unpacks `RGBX` without the X.
    file._mode = "LA" if file.mode.startswith("L") else "RGBA"
    file = deep_colour.with_modes(file, lambda mode: mode.replace("X", "A"))
    return file.getchannel("A").getextrema()
