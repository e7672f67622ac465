"""A contact sheet of a data set: some training images of every class, beside its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from jtl.common import fonts
from jtl.common.errors import UserError
from jtl.common.text import counted, shortened_apart
from jtl.data.decoding import HostTransform
from jtl.data.multilabel import members as members_of
from jtl.data.splits import OpenedSource

ACROSS = 8
"""Images of every class."""
MOST_CLASSES = 40
"""More are left out, evenly spread over the list."""
_SIDE, _GAP, _NAMES, _LETTER, _LINE = 96, 4, 200, 15, 20  # pixels
_LONGEST_NAME = 54
"""Letters, in three lines at most."""
_ROOM = _NAMES - 3 * _GAP


def draw(found: OpenedSource, path: Path) -> None:
    """Writes a PNG with a row of training images for every class.

    Images are cut to squares; an unreadable one is a crossed-out box.

    Raises:
        UserError: The file cannot be written.
    """
    split = found.splits["train"]
    count = len(found.class_names)
    spread = np.linspace(0, count - 1, min(count, MOST_CLASSES))
    shown = np.unique(spread.round().astype(int)).tolist()
    step = _SIDE + _GAP
    names = shortened_apart(found.class_names, _LONGEST_NAME)
    size = (_NAMES + ACROSS * step + _GAP, len(shown) * step + _GAP)
    canvas = Image.new("RGB", size, "white")
    drawing = ImageDraw.Draw(canvas)
    for row, label in enumerate(shown):
        top = _GAP + row * step
        members = members_of(split.labels, label)
        _write(drawing, (_GAP, top), names[label], len(members))
        places = np.linspace(0, len(members) - 1, min(len(members), ACROSS)).round().astype(int)
        for column, index in enumerate(members[places] if len(members) else ()):
            left = _NAMES + column * step
            image = _square(split, int(index))
            if image is None:
                box = (left, top, left + _SIDE - 1, top + _SIDE - 1)
                drawing.rectangle(box, outline="red")
                drawing.line(box, fill="red")
                drawing.line((left, top + _SIDE - 1, left + _SIDE - 1, top), fill="red")
            else:
                canvas.paste(image, (left, top))
    try:
        canvas.save(path, "PNG")
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror or error}.") from error


def _square(split: Any, index: int) -> Image.Image | None:
    try:
        pixels = split.read(np.array([index]), HostTransform(_SIDE, 1.0, "bilinear"))[0]
    except UserError:
        return None
    return ImageOps.fit(Image.fromarray(pixels), (_SIDE, _SIDE))


def _write(drawing: ImageDraw.ImageDraw, place: tuple[int, int], name: str, count: int) -> None:
    """A class's name, in up to three lines, and how many train images it has."""
    font = ImageFont.truetype(fonts.file_for(name), _LETTER)
    left, top = place
    lines = [""]
    for part in re.findall(r"[^\s_-]*.", name):  # Lines end after a space or the like.
        for letters in [part] if drawing.textlength(part, font) <= _ROOM else part:
            if drawing.textlength(lines[-1] + letters, font) > _ROOM:
                lines.append("")
            lines[-1] += letters
    for number, line in enumerate(lines[:3]):
        drawing.text((left, top + number * _LINE), line.strip(), fill="black", font=font)
    under = top + len(lines[:3]) * _LINE
    drawing.text((left, under), counted(count, "image"), fill="grey", font=font)
