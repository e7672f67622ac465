"""Images that a file holds after its first: frames of animations, pages of TIFFs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from jtl.common.text import counted
from jtl.data.image_file import open_image
from jtl.data.kinds import HEAD_BYTES, kind_of

_KINDS = ("GIF", "TIFF", "WEBP", "PNG", "AVIF")
"""Formats that may hold several images; those of a JPEG (MPO) are one photograph, taken twice."""


def may_have_more(head: bytes) -> bool:
    """Whether a file is of a format that may hold several images, by its first bytes."""
    return kind_of(head[:HEAD_BYTES]) in _KINDS


def has_more(data: bytes) -> bool:
    """Whether a file holds more images than the first; opens it, and decodes none of them."""
    if not may_have_more(data):
        return False
    try:
        with open_image(data) as image:
            return is_first_of_several(image)
    except Exception:  # Damaged files, of many kinds, are reported where they are decoded.
        return False


def is_first_of_several(image: Image.Image) -> bool:
    """Whether Pillow has opened the first of several images."""
    return image.format in _KINDS and bool(getattr(image, "is_animated", False))


def note(splits: Mapping[str, Any]) -> str | None:
    """What is to be said of the images of splits that were looked at, or None."""
    names = [
        name
        for split in splits.values()
        if (several := getattr(split, "several", None)) is not None
        for name, more in zip(split.names, several, strict=True)
        if more
    ]
    return told(names) if names else None


def told(names: Sequence[str]) -> str:
    """A sentence about images with several frames, by their names."""
    have = "has" if len(names) == 1 else "have"
    return (
        f"{counted(len(names), 'image')} {have} several frames or pages (animations, TIFF stacks), "
        f"for example {names[0]}: jtl reads only the first of each. To use the others, save them "
        "as images of their own."
    )
