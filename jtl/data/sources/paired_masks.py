"""Masks that only their pixels tell: `x.png` of two colours beside the photo `x.jpg`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from PIL import Image, ImageFilter

from jtl.data.image_file import open_image
from jtl.data.sources.stores import ImageFile, stem_of

_MOST_COLOURS = 4
"""Of masks: a trimap has three, and a border a fourth."""
_SIDE = 256
"""Pixels of the longer side that are looked at in search of soft masks."""
_WINDOW = 32
"""The part of that side by which an edge may be soft, on both sides of it."""
_NEAR, _APART = 20, 96
"""Of 255: what JPEG changes within an area, and the contrast of a mask."""
_NEARLY_ALL, _ENOUGH = 0.97, 0.1
"""The share of the pixels away from edges that have their area's value, and of these pixels."""
_SAMPLE = 5
"""The pairs of a folder that are opened."""
_PART = re.compile(r"[ ._-]+(?=[^ ._-]*[^\W\d_])")
"""What stands before the last words of a name."""

_Pairs = list[tuple[ImageFile, ImageFile]]


def find(images: Iterable[ImageFile], read: Callable[..., bytes]) -> list[str]:
    """The names of images that are masks of others in the same folder.

    They are called like another but for the ending (all of one ending, as `x.png` beside
    `x.jpg`), or they have one more word behind (`x_lesion.png`, and every image without the word
    has its partner); and all of a sample are masks by their pixels, and most partners are not.

    Args:
        images: All images.
        read: What gives a file's contents; of each folder with such names a few files.
    """
    by_folder: dict[tuple[str, ...], list[ImageFile]] = defaultdict(list)
    for image in images:
        by_folder[image.parts[:-1]].append(image)
    found: list[str] = []
    for folder in by_folder.values():
        for pairs in _pairs(folder):
            sample = pairs[:: max(1, len(pairs) // _SAMPLE)][:_SAMPLE]
            if _are_masks(sample, read):
                found += [mask.name for mask, _ in pairs]
                break
    return found


def _pairs(folder: Sequence[ImageFile]) -> Iterator[_Pairs]:
    """Files that may be masks, each with its image."""
    by_stem: dict[str, list[ImageFile]] = defaultdict(list)
    for image in folder:
        by_stem[stem_of(image.parts[-1]).casefold()].append(image)
    if len(by_stem) == len(folder):
        yield from _by_last_words({stem: image for stem, (image,) in by_stem.items()})
        return
    count: dict[str, int] = defaultdict(int)
    pairs: dict[str, _Pairs] = defaultdict(list)
    for image in folder:
        count[_ending(image)] += 1
    for same in by_stem.values():
        if len(same) == 2:
            for mask, image in (same, same[::-1]):
                if _ending(mask) != _ending(image):
                    pairs[_ending(mask)].append((mask, image))
    for ending, found in pairs.items():
        if len(found) == count[ending]:
            yield found


def _by_last_words(images: Mapping[str, ImageFile]) -> Iterator[_Pairs]:
    pairs: dict[str, _Pairs] = defaultdict(list)
    for stem, image in images.items():
        for match in _PART.finditer(stem):
            if (base := images.get(stem[: match.start()])) is not None:
                pairs[stem[match.start() :]].append((image, base))
    for same in pairs.values():
        if 2 * len(same) == len(images):
            yield same


def _are_masks(pairs: _Pairs, read: Callable[..., bytes]) -> bool:
    """Whether all of the first look like masks, and most of the second do not."""
    try:
        if not all(_is_mask(read(mask)) for mask, _ in pairs):
            return False
        return 2 * sum(_is_mask(read(image)) for _, image in pairs) < len(pairs)
    except Exception:  # Damaged files, of many kinds, are reported where they are used.
        return False


def _is_mask(data: bytes) -> bool:
    """Whether an image has few colours, or is black and white with soft edges or JPEG's noise."""
    image = open_image(data)
    if image.getcolors(_MOST_COLOURS) is not None:
        return True
    # Every so many pixels, as a mean of several would make new values.
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.NEAREST, reducing_gap=None)
    pixels = np.asarray(image.convert("RGB"), int)
    if (np.ptp(pixels, axis=-1) <= _NEAR).mean() < _NEARLY_ALL:
        return False  # Colour.
    grey = pixels[..., 1]
    if np.ptp(grey) < _APART:
        return False
    bright = Image.fromarray((grey > (grey.min() + grey.max()) / 2).astype(np.uint8))
    width = 2 * max(3, max(image.size) // _WINDOW) + 1
    inner = (
        np.asarray(bright.filter(ImageFilter.MaxFilter(width))) == 0,
        np.asarray(bright.filter(ImageFilter.MinFilter(width))) == 1,
    )
    near = sum((np.abs(grey[a] - np.median(grey[a])) <= _NEAR).sum() for a in inner if a.any())
    count = sum(area.sum() for area in inner)
    return bool(count >= _ENOUGH * grey.size and near >= _NEARLY_ALL * count)


def _ending(image: ImageFile) -> str:
    name = image.parts[-1]
    return name[len(stem_of(name)) :].lower()
