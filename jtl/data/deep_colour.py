"""Images of 16 bits; of colour, Pillow alone gives the higher eight."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

_SWAPPED = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}
"""The byte order by which Pillow's unpackers give the lower byte of each value."""
# What Pillow unpacks in either byte order. Others, such as BGR;16, are not 16 bits a colour.
_READABLE = re.compile(r"RGB[AXa]?;16[LBN]")

_TOPS = tuple(2**bits - 1 for bits in (8, 10, 12, 14, 16))
"""The largest values of the bits that cameras use."""


def is_deep(image: Image.Image) -> bool:
    """Whether an opened image, not loaded yet, is colour of 16 bits."""
    tiles = getattr(image, "tile", ())
    return (
        image.mode in ("RGB", "RGBA")
        and bool(tiles)
        and all(_READABLE.fullmatch(_raw_mode(tile)) for tile in tiles)
    )


def values(image: Image.Image, again: Callable[[], Any]) -> np.ndarray:
    """All bits, uint16 [H, W, 3 or 4], colours not multiplied by alpha.

    Args:
        image: Opened, not loaded yet.
        again: Opens the same file once more.
    """
    premultiplied = any(_raw_mode(tile).startswith("RGBa") for tile in getattr(image, "tile", ()))
    if premultiplied:  # Pillow divides each byte by a byte.
        image = with_modes(again(), lambda mode: mode.replace("a", "A"))
    lower = with_modes(again(), lambda mode: f"{mode[:-1]}{_SWAPPED[mode[-1]]}".replace("a", "A"))
    found = np.asarray(image, np.uint16) << 8 | np.asarray(lower, np.uint16)
    return _divided(found) if premultiplied else found


def _divided(pixels: np.ndarray) -> np.ndarray:
    """Colours that were multiplied by alpha, as they were before."""
    colours, alpha = pixels[..., :3].astype(np.int64), pixels[..., 3:].astype(np.int64)
    opaque = next((top for top in _TOPS if alpha.max() == top), _TOPS[-1])
    divided = np.where(alpha > 0, (2 * colours * opaque + alpha) // np.maximum(2 * alpha, 1), 0)
    # Rounding makes more than there was, the more so of nearly transparent pixels.
    least = (2 * colours - (alpha < opaque)) * opaque // np.maximum(2 * alpha, 1)
    most = least[(2 * alpha >= opaque)[..., 0]].max(initial=0) or _TOPS[-1]
    top = next((top for top in _TOPS if most <= top), _TOPS[-1])
    return np.concatenate([divided.clip(0, top), alpha], -1).astype(np.uint16)


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


def with_modes(image: Any, change: Callable[[str], str]) -> Any:
    """An opened image that Pillow unpacks by other modes, such as RGBA in place of RGBX."""

    def changed(tile: Any) -> Any:
        mode = change(_raw_mode(tile))
        arguments = mode if isinstance(tile[3], str) else (mode, *tile[3][1:])
        named = hasattr(tile, "_fields")
        return type(tile)(*tile[:3], arguments) if named else (*tile[:3], arguments)

    image.tile = [changed(tile) for tile in image.tile]
    return image
