"""Images of 16 bits; of colour, Pillow alone gives the higher eight."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import Image

_SWAPPED = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}
"""The byte order by which Pillow's unpackers give the lower byte of each value."""
# What Pillow unpacks in either byte order. Others, such as BGR;16, are not 16 bits a colour.
_READABLE = re.compile(r"RGB[AXa]?;16[LBN]")


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image, not loaded yet, is colour of 16 bits."""
    tiles = getattr(image, "tile", ())
    return (
        image.mode in ("RGB", "RGBA")
        and bool(tiles)
        and all(_READABLE.fullmatch(_raw_mode(tile)) for tile in tiles)
    )


def values(image: Image.Image, again: Any) -> np.ndarray:
    """All bits, uint16 [H, W, 3 or 4].

    Args:
        image: Opened, not loaded yet.
        again: The same file, opened once more.
    """
    again.tile = [_of_lower_byte(tile) for tile in again.tile]
    higher, lower = np.asarray(image, np.uint16), np.asarray(again, np.uint16)
    return higher << 8 | lower


def scaled(pixels: np.ndarray, bit_depth: int) -> Image.Image:
    """An image of 8 bits, where the largest value of `bit_depth` bits is 255."""
    top = 2**bit_depth - 1
    wide = pixels.astype(np.int64)
    eight = ((510 * wide + top) // (2 * top)).clip(0, 255)
    if pixels.ndim == 3 and pixels.shape[-1] == 4 and (pixels[..., 3] > top).any():
        eight[..., 3] = pixels[..., 3] >> 8  # Opaque by all 16 bits.
    return Image.fromarray(eight.astype(np.uint8))


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    mode = arguments if isinstance(arguments, str) else next(iter(arguments or ()), "")
    return mode if isinstance(mode, str) else ""


def _of_lower_byte(tile: Any) -> Any:
    mode = _raw_mode(tile)
    swapped = mode[:-1] + _SWAPPED[mode[-1]]
    arguments = swapped if isinstance(tile[3], str) else (swapped, *tile[3][1:])
    return type(tile)(*tile[:3], arguments) if hasattr(tile, "_fields") else (*tile[:3], arguments)
