"""How images that are no squares become squares without a crop (`--fit pad` and `squash`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from jtl.config.data import Fit

Box = tuple[float, float, float, float] | None
"""The part of an image that is meant, as of `Image.resize`."""


def fill_of(mean: Sequence[float]) -> tuple[int, ...]:
    """The colour beside a padded image, RGB from 0 to 255: what normalization makes nearly zero.

    Args:
        mean: Of the weights' preprocessing, RGB from 0 to 1.
    """
    return tuple(min(max(round(255 * value), 0), 255) for value in mean)


def padded_size(width: int, height: int, size: int) -> tuple[int, int]:
    """(width, height) of an image whose longer side becomes `size`, rounded down to 1 at least."""
    long = max(width, height)
    return max(size * width // long, 1), max(size * height // long, 1)


def fitted(
    image: Image.Image,
    whole: tuple[int, int],
    box: Box,
    fit: Fit,
    size: int,
    resampling: Image.Resampling,
    fill: Sequence[int],
) -> np.ndarray:
    """All of an image in a square, uint8 [size, size, 3].

    Args:
        image: RGB.
        whole: Its (width, height), from which it may have been scaled while it was decoded.
        box: The part of `image` that is `whole`; None for all.
        fit: `squash` resizes both sides to `size`; `pad` the longer one, and the image lies in the
            middle of a square of `fill`, half a pixel to the left or top where it must.
        size: In pixels.
        resampling: Antialiased, as of Pillow.
        fill: RGB.
    """
    new = (size, size) if fit == "squash" else padded_size(*whole, size)
    if new != image.size or box is not None:
        image = image.resize(new, resampling, box)
    if new == (size, size):
        return np.array(image)
    square = Image.new("RGB", (size, size), tuple(fill))
    square.paste(image, ((size - new[0]) // 2, (size - new[1]) // 2))
    return np.array(square)


def crop_loss(height: int, width: int) -> float:
    """The share of an image outside the largest square in its middle."""
    return 1 - min(height, width) / max(height, width)


MUCH, MANY = 0.4, 0.1
"""The share of an image that a crop may lose, and of images that lose as much, before a warning.

An image of 16 to 9 loses 0.44, one of 3 to 2 loses 0.33.
"""


def crop_warning(sizes: Sequence[tuple[int, int]], names: Sequence[str]) -> list[str]:
    """A sentence if the centre crop loses much of many images.

    Args:
        sizes: (height, width) in pixels.
        names: Of the same images.
    """
    lossy = [name for name, size in zip(names, sizes, strict=True) if crop_loss(*size) >= MUCH]
    if len(lossy) < max(MANY * len(names), 1):
        return []
    return [
        f"The centre crop loses {math.floor(100 * MUCH)} % or more of {len(lossy):,} of "
        f"{len(names):,} images ({len(lossy) / len(names):.0%}), for example {lossy[0]}. If what "
        "matters is near the ends, see all of each image with --fit pad or --fit squash."
    ]
