"""Images whose names say that they belong together: patients, frames of a video, pairs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from jtl.common.text import listed
from jtl.data.sources import views
from jtl.data.sources.stores import ImageFile, spread

_PUBLISHED = (
    r"(?P<group>TCGA-\w\w-\w{4})",
    r"^(?P<group>sub-[0-9A-Za-z]+)(?=[_.])",  # BIDS.
    r"^(?P<group>OAS\d_\d{4}|OAS[23]\d{4})",  # OASIS.
    r"(?P<group>\d{3}_S_\d{4})",  # ADNI.
    r"(?P<group>LIDC-IDRI-\d{4})",
    r"^(?P<group>SOB_[BM]_[A-Z]+-\d\d-[0-9A-Z]+)",  # BreaKHis.
    r"(?i)^(?P<group>C\d+_?P\d+)(?=_?thin)",  # Smears of malaria.
    r"^(?:NORMAL2?-)?(?P<group>person\d+|IM-\d+)(?=[_-])",  # Chest X-rays of children.
    r"^(?P<group>.+?)\.rf\.[0-9a-f]{8,}",  # Several versions of an image, by Roboflow.
)
_WORDS = (
    r"(?i)(?P<group>(?<![a-z])(?:patient|subject|pat|subj|case|donor|video|slide|participant|"
    r"volunteer|person|specimen|mouse)[ _-]?\d+)",
    r"(?i)(?P<group>(?<![a-z0-9])(?:(?:pt|sub|vid)[ _-]?\d+|p\d{2,}|p[ _-]\d{3,}))",
    r"(?i)^(?P<group>.+?)[ ._-]*(?:frame|slice|tile|patch)[ ._-]?\d+",
)
_SIDES = (
    r"(?i)^(?P<group>.+?)(?:[ ._-]*(?:left|right)|[ ._-](?:[lr]|o[ds]))(?:[ ._-](?:cc|mlo))?"
    r"\.[^.]+$"
)
"""Both eyes, both breasts, or the two images of a stereo camera."""
_COUNTED = r"^(?P<group>.*\d.*?)[ ._-]+\d{1,5}\.[^.]+$"
"""A number that counts the images of what the name before it says, such as `CNV-1016042-1.jpeg`."""
_RULES: Mapping[str, float] = {
    **dict.fromkeys((*_PUBLISHED, *_WORDS), 0.5),
    _SIDES: 0.75,  # Of some, one image is missing.
    _COUNTED: 0.5,
}
"""From expressions to the most groups that there may be, as a share of the images."""
_NEARLY_ALL = 0.9


def note(images: Sequence[ImageFile], labels: Sequence[Hashable]) -> str:
    """A note where names say which images belong together, with the rule; else empty.

    Args:
        images: All images of which some are held out for validation.
        labels: Their classes.
    """
    return views.altered(images) or _of_groups(images, labels)


def _of_groups(images: Sequence[ImageFile], labels: Sequence[Hashable]) -> str:
    names = [image.parts[-1] for image in images]
    sample = [image.parts[-1] for image in spread(images)]
    for rule, most in _RULES.items():
        search = re.compile(rule).search
        if not all(map(search, sample)):
            continue
        found = [match["group"] for name in names if (match := search(name))]
        if len(found) < len(names) or not 1 < len({*found}) <= most * len(names):
            continue
        of_class = {*zip(labels, found, strict=True)}
        # Where each class has one, they are the classes; where none has two images, the sides are.
        if not len({*labels}) < len(of_class) < len(names):
            continue
        if rule != _COUNTED or _are_counted(names, found):
            return (
                f"The images' names may say which belong together ({listed(sorted({*found}), 3)}); "
                "to keep these on one side of a validation split that is held out: "
                f"--group-from 'regex:{rule}'"
            )
    return ""


def _are_counted(names: Sequence[str], groups: Sequence[str]) -> bool:
    """Whether the last numbers of names count the images of nearly every group, from 0 or 1 on."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for name, group in zip(names, groups, strict=True):
        numbers[group].append(int(re.findall(r"\d+", name[len(group) :])[0]))
    counted = sum(min(n) <= 1 and max(n) - min(n) < 2 * len(n) for n in numbers.values())
    return counted >= _NEARLY_ALL * len(numbers)
