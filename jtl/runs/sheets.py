"""Sheets of labelled images."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jtl.common import fonts
from jtl.common.files import replace_bytes


def draw(
    images: np.ndarray,
    labels: Sequence[str],
    *,
    columns: int = 8,
    width: float = 1.5,
    size: int = 8,
) -> bytes:
    """A labelled sheet of images [N, H, W, 3] from 0 to 1: the content of a PNG file.

    Args:
        images: The images.
        labels: What is written above each; all have as many lines.
        columns: Images beside each other.
        width: Of an image, in inches.
        size: Of the letters, in points.
    """
    # The object interface needs no display and leaves no global state behind.
    from matplotlib.figure import Figure

    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    lines = max(label.count("\n") for label in labels)
    height = width + 0.3 + 0.13 * lines
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.axis("off")
    for cell, image, text in zip(cells, images, labels, strict=False):
        cell.imshow(image, interpolation="nearest")
        cell.set_title(text, fontsize=size, parse_math=False)
    return fonts.png(figure)


def draw_sheet(
    path: str | Path, *, images: Sequence[str], labels: Sequence[str], **layout: Any
) -> None:
    """Writes a labelled sheet of images, a PNG.

    Args:
        path: The file.
        images: As `packed` gives them.
        labels: What is written above each; all have as many lines.
        layout: As of `draw`.
    """
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in images]
    replace_bytes(Path(path), draw(np.stack(pixels) / 255.0, labels, **layout))


def packed(pixels: np.ndarray, form: str = "PNG", **how: Any) -> str:
    """An image, uint8 [H, W, 3], as text: its file in Base64.

    Args:
        pixels: The image.
        form: `PNG`, or `JPEG`, which loses something.
        how: As Pillow's writer of the form takes it, such as `quality`.
    """
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, form, **how)
    return base64.b64encode(content.getvalue()).decode("ascii")
