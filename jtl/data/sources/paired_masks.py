"""Masks that only their pixels tell: `x.png` of two colours beside the photo `x.jpg`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from jtl.data.image_file import open_image
from jtl.data.sources.stores import ImageFile

_LOSSLESS = (".png", ".bmp", ".gif", ".tif", ".tiff")
_MOST_COLOURS = 4
"""Of masks: a trimap has three, and a border a fourth."""
_SAMPLE = 5
"""The pairs of a folder that are opened."""
_PART = re.compile(r"[ ._-]+(?=[^ ._-]*[^\W\d_])")
"""What stands before the last words of a name."""

_Pairs = list[tuple[ImageFile, ImageFile]]


def find(images: Iterable[ImageFile], read: Callable[..., bytes]) -> list[str]:
    """The names of images that are masks of others in the same folder.

    They are called like another but for the ending (all of one ending, as `x.png` beside
    `x.jpg`), or they have one more word behind (`x_lesion.png`, and every image without the word
    has its partner); and they have few colours, unlike their partners.

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
            if all(_is_mask(mask, image, read) for mask, image in sample):
                found += [mask.name for mask, _ in pairs]
                break
    return found


def _pairs(folder: Sequence[ImageFile]) -> Iterator[_Pairs]:
    """Files that may be masks, each with its image."""
    by_stem: dict[str, list[ImageFile]] = defaultdict(list)
    for image in folder:
        by_stem[image.parts[-1].rpartition(".")[0].casefold()].append(image)
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
    for ending in _LOSSLESS:
        if count[ending] and len(pairs[ending]) == count[ending]:
            yield pairs[ending]


def _by_last_words(images: Mapping[str, ImageFile]) -> Iterator[_Pairs]:
    pairs: dict[str, _Pairs] = defaultdict(list)
    for stem, image in images.items():
        for match in _PART.finditer(stem):
            if (base := images.get(stem[: match.start()])) is not None:
                pairs[stem[match.start() :]].append((image, base))
    for same in pairs.values():
        if 2 * len(same) == len(images):
            yield same


def _is_mask(mask: ImageFile, image: ImageFile, read: Callable[..., bytes]) -> bool:
    try:
        return _has_few_colours(read(mask)) and not _has_few_colours(read(image))
    except Exception:  # Damaged files, of many kinds, are reported where they are used.
        return False


def _has_few_colours(data: bytes) -> bool:
    return open_image(data).getcolors(_MOST_COLOURS) is not None


def _ending(image: ImageFile) -> str:
    return "." + image.parts[-1].rpartition(".")[2].lower()
