"""Folders and names that say bands or views of one thing, and no classes.

A network that learns to tell `B02` from `B03` learns nothing of what the images show, and one that
trains on `x_B02` and is validated on `x_B03` has seen the same place.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.sources.stores import ImageFile, stem_of

_FEWEST_VIEWED, _MOST_VIEWS = 3, 16
"""Folders with the same few names, and these names."""
_OF_BANDS = (
    r"b\d\d?a?|band[ _-]?\d\d?a?|v?nir\d?|[smlt]w?ir\d?|red[ _-]?edge\d?|rdeg|vv|vh|hh|hv|ndvi|"
    r"ndwi|pan|panchromatic|dapi|fitc|tritc|cy[35]|gfp|rfp|ch(annel)?[ _-]?\d\d?"
)
_BANDS = re.compile(_OF_BANDS, re.IGNORECASE)
"""Names of bands and of stains, which hardly are classes where the files' names are the same."""
_MODES = re.compile(
    r"rgb|ir|infrared|thermal|visible|vis|depth|disparity|flair|t1(w|c|ce|gd)?|t2w?|dwi|adc|pd",
    re.IGNORECASE,
)
_COLOURS = re.compile(r"r|g|b|red|green|blue|yellow|cyan|magenta|grey|gray", re.IGNORECASE)
_AT_END = re.compile(rf"(.+)[ ._-]({_OF_BANDS}|red|green|blue|yellow)", re.IGNORECASE)
_RGB = {"red", "green", "blue"}
_SAME, _NEARLY_ALL = 0.5, 0.9
"""The share of names that folders of bands have in common, and of images or things that tell."""
_KEEP = "add --classes top"


def refuse(folders: Mapping[str, Sequence[ImageFile]], where: str, labels_told: str) -> None:
    """Raises `UserError` if folders, or the images in them, are bands or views of things.

    Args:
        folders: The images by folder; folders without images do not count.
        where: What the place is called.
        labels_told: What to say of files that labels may be in.
    """
    held = {name: images for name, images in folders.items() if images}
    if any(len({image.parts[:-1] for image in images}) > 1 for images in held.values()):
        return
    stems = {
        name: [stem_of(i.parts[-1]).casefold() for i in images] for name, images in held.items()
    }
    own = {name: held[name][0].parts[-2].casefold() for name in held}
    views = {
        name: [stem.replace(own[name], "").strip(" ._-") for stem in same]
        for name, same in stems.items()
    }
    told = _same_few(views, where) or _called_like_bands(
        {name: {*same} for name, same in views.items()}, where
    )
    if told:
        raise UserError(
            f"{told} If the folders are classes, {_KEEP}. If not, put one image of each "
            f"thing into a folder named after its class. {labels_told}".rstrip()
        )
    if shown := _ending_in_bands([stem for same in stems.values() for stem in same]):
        raise UserError(
            f"The images in {where} are called like bands of one thing each ({listed(shown, 3)}), "
            "and each band would be an image of its own. Save the bands of each thing as one image "
            f"of three colours. If they are images of their own, {_KEEP}. {labels_told}".rstrip()
        )


def _same_few(views: Mapping[str, Sequence[str]], where: str) -> str:
    """A sentence if each folder holds the same few names, as bands of one patch have."""
    if len(views) < _FEWEST_VIEWED:
        return ""
    sets = {frozenset(v) if len(v) <= _MOST_VIEWS else frozenset() for v in views.values()}
    if len(sets) > 1 or len(names := sorted(sets.pop())) < 2 or _are_counted(names):
        return ""
    return (
        f"Each of the {len(views):,} folders in {where} holds images called {listed(names, 4)}, as "
        "if they were bands or views of one thing in each folder."
    )


def _called_like_bands(views: Mapping[str, set[str]], where: str) -> str:
    """A sentence if folders are called like bands, and hold images of the same names."""
    tests = (_BANDS, _MODES, _COLOURS)
    if len(views) < 2 or not all(any(t.fullmatch(name) for t in tests) for name in views):
        return ""
    every, some = set.intersection(*views.values()), set.union(*views.values())
    if len(every) < max(2, _SAME * len(some)):
        return ""
    # Images of red things are counted, too.
    certain = any(_BANDS.fullmatch(name) for name in views)
    if not certain and _are_counted(sorted(some)):
        return ""
    return (
        f"In {where}, {listed(sorted(views))} are called like bands or channels, and hold images "
        f"of the same names ({listed(sorted(every), 3)}), as if they were those of one thing."
    )


def _ending_in_bands(stems: Sequence[str]) -> list[str]:
    """Some names where nearly all are those of bands, the same of each thing."""
    bands: dict[str, list[str]] = defaultdict(list)
    for stem in stems:
        if match := _AT_END.fullmatch(stem):
            bands[match[1]].append(match[2])
    if sum(map(len, bands.values())) < _NEARLY_ALL * len(stems) or not bands:
        return []
    base, usual = max(bands.items(), key=lambda item: len(item[1]))
    same = sum({*each} == {*usual} for each in bands.values())
    # `x_b1` and `x_b2` may be two shots, and `shirt_red` is a shirt.
    letters = all(re.fullmatch(r"b\d", band) for band in usual)
    if len(usual) < (3 if letters else 2) or same < _NEARLY_ALL * len(bands):
        return []
    if {*usual} <= {*_RGB, "yellow"} and not {*usual} >= _RGB:
        return []
    return [stem for stem in stems if stem.startswith(base)]


def _are_counted(names: Sequence[str]) -> bool:
    """Whether names differ in a number that counts, and so say nothing."""
    numbers = [re.fullmatch(r"(\D*)(\d+)(\D*)", name) for name in names]
    found = [match.groups() for match in numbers if match]
    same = len({(before, after) for before, _, after in found}) == 1
    counts = sorted(int(number) for _, number, _ in found)
    return same and len(found) == len(names) and counts[-1] - counts[0] < 2 * len(counts)
