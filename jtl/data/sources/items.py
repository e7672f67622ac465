"""Class folders that look like single things: a patient, a part, a video."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

from jtl.common.text import counted, listed
from jtl.data.sources.stores import ImageFile, stem_of

_FEWEST = 8
_MOST_IMAGES = 30
"""In each folder."""
_NEARLY_ALL = 0.9
_NUMBERED = re.compile(r"(\D*)(\d+)")
_OF_CLASSES = re.compile(
    r"n|c|(class|cls|category|cat|label|type|grade|level|stage|group|cluster|character|letter|"
    r"digit|char|sign|species|breed)e?s?[ _-]*", re.IGNORECASE
)  # fmt: skip
"""What stands before the numbers of classes."""
_OF_ITEMS = re.compile(
    r"(p|pt|sub|subj|vid|item|sample|specimen|obj|object|product|sku|mouse|rat|animal|individual)"
    r"[ _-]*", re.IGNORECASE
)  # fmt: skip
"""What stands before the numbers of single things."""


def note(classes: Mapping[str, Sequence[ImageFile]], where: str) -> str:
    """A note if folders look like single things, each with a few images; else empty.

    Their names only count (`kos01`, `kos02`; `000`, `001`), there are more of them than images in
    each, and all hold images of the same names. Names that count patients or things (`P01`, `P02`)
    are enough, as they are where one more class is called otherwise.

    Args:
        classes: The images of every class, where no folder is a split.
        where: What the place is called.
    """
    held = {name: images for name, images in classes.items() if images}
    numbers = {name: match for name in held if (match := _NUMBERED.fullmatch(name))}
    stems = {match[1].casefold() for match in numbers.values()}
    if len(held) < 3 or len(numbers) < len(held) or len(stems) > 1:
        return ""
    stem, padded = stems.pop(), all(m[2][0] == "0" or len(m[2]) > 1 for m in numbers.values())
    if _OF_CLASSES.fullmatch(stem) or all(len(name) == 1 for name in held):
        return ""
    named = bool(_OF_ITEMS.fullmatch(stem)) and padded
    same = _same_names(held)
    if not named and not same:
        return ""
    also = f", and nearly all hold images of the same names ({listed(same, 3)})" if same else ""
    return (
        f"The {counted(len(held), 'folder')} in {where} may be single things (patients, parts, "
        f"videos) and no classes: their names only count ({listed(sorted(held), 3)}){also}. "
        "If so, a network would learn to tell these things apart, and nothing else: put the images "
        "of each class into one folder, or write a table of images and labels (csv:FILE). If they "
        "are the classes, --classes top hides this note."
    )


def _same_names(held: Mapping[str, Sequence[ImageFile]]) -> list[str]:
    """The names of the images, where nearly all of many small folders hold the same."""
    size = statistics.median(map(len, held.values()))
    if len(held) < _FEWEST or size > _MOST_IMAGES or size >= len(held):
        return []
    sets = Counter(frozenset(_names(name, images)) for name, images in held.items())
    longest = max(sets, key=len)  # Some folders lack a few.
    alike = sum(count for names, count in sets.items() if names <= longest)
    return sorted(longest) if alike >= _NEARLY_ALL * len(held) else []


def _names(folder: str, images: Sequence[ImageFile]) -> list[str]:
    return [
        stem_of(image.parts[-1]).casefold().replace(folder.casefold(), "").strip(" ._-") or "image"
        for image in images
    ]
