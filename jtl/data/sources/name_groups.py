"""Images whose names say that they belong together: patients, frames of a video, pairs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence

from jtl.common.text import counted, listed
from jtl.data.sources import views
from jtl.data.sources.stores import ImageFile, spread

_NUMBERED_ANEW = r"^(?:NORMAL2?-)?(?P<group>person\d+|IM-\d+)(?=[_-])"
"""Chest X-rays of children, whose classes and splits each count from 1 on."""
_PUBLISHED = (
    r"(?P<group>TCGA-\w\w-\w{4})",
    r"^(?P<group>sub-[0-9A-Za-z]+)(?=[_.])",  # BIDS.
    r"^(?P<group>OAS\d_\d{4}|OAS[23]\d{4})",  # OASIS.
    r"(?P<group>\d{3}_S_\d{4})",  # ADNI.
    r"(?P<group>LIDC-IDRI-\d{4})",
    r"^(?P<group>SOB_[BM]_[A-Z]+-\d\d-[0-9A-Z]+)",  # BreaKHis.
    r"(?i)^(?P<group>C\d+_?P\d+)(?=_?thin)",  # Smears of malaria.
    _NUMBERED_ANEW,
    r"^(?P<group>.+?)\.rf\.[0-9a-f]{8,}",  # Several versions of an image, by Roboflow.
)
_WORDS = (
    r"(?i)(?P<group>(?<![a-z])(?:patient|subject|pat|subj|case|donor|video|slide|participant|"
    r"volunteer|person|specimen|mouse)[ _-]?\d+)",
    r"(?i)(?P<group>(?<![a-z0-9])(?:(?:pt|sub|vid)[ _-]?\d+|p\d{2,}|p[ _-]\d{3,}))",
    r"(?i)^(?P<group>.+?)[ ._-]*(?:frame|slice|tile|patch)[ ._-]?\d+",
    r"(?i)^(?P<group>.+?)[ ._-]+x[ ._-]?\d+[ ._-]*y[ ._-]?\d+",  # Tiles by their places.
)
_SIDES = (
    r"(?i)^(?P<group>.+?)(?:[ ._-]*(?:left|right)|[ ._-](?:[lr]|o[ds]))(?:[ ._-](?:cc|mlo))?"
    r"\.[^.]+$"
)
"""Both eyes, both breasts, or the two images of a stereo camera."""
_COUNTED = r"^(?P<group>.*\d.*?)[ ._-]+[a-zA-Z]{0,2}\d{1,8}\.[^.]+$"
"""A number that counts the images of what the name before it says, such as `CNV-1016042-1.jpeg`,
`B02_s1.tif` or the frame in `S010_004_00000017.png`."""
_FEWEST_FRAMES = 3
_RULES: Mapping[str, float] = {
    **dict.fromkeys((*_PUBLISHED, *_WORDS), 0.5),
    _SIDES: 0.75,  # Of some, one image is missing.
    _COUNTED: 0.5,
}
"""From expressions to the most groups that there may be, as a share of the images."""
_NEARLY_ALL = 0.9
_FEWEST_SHARED, _SHARED = 2, 0.05
"""Groups that lie in two splits, and their share of those outside train."""


Labelled = Sequence[tuple[ImageFile, Hashable]]
"""Images and their classes."""


def note(splits: Mapping[str, Labelled]) -> str:
    """A note where names say which images belong together; else empty.

    If validation images are held out, it has the rule that keeps these on one side. Of the data's
    own splits it tells which hold images of the same thing.

    Args:
        splits: The images by split.
    """
    if len(splits) > 1 and (told := views.altered_across(splits) or _across(splits)):
        return told
    if "val" in splits:
        return ""
    pairs = [pair for each in splits.values() for pair in each]
    images, labels = [image for image, _ in pairs], [label for _, label in pairs]
    return views.altered(images) or _of_groups(images, labels)


def _across(splits: Mapping[str, Labelled]) -> str:
    """A note where images of one thing lie in train and in another split; else empty."""
    train, rest = splits["train"], [p for s, each in splits.items() if s != "train" for p in each]
    images = ([image for image, _ in pairs] for pairs in (train, rest))
    sample = [image.parts[-1] for same in images for image in spread(same)]
    for rule in (*_PUBLISHED, *_WORDS):
        search = re.compile(rule).search
        if rule == _NUMBERED_ANEW or not all(map(search, sample)):
            continue
        first, second = (
            {m["group"]: i for i, _ in images if (m := search(i.parts[-1])) and _says_one(m)}
            for images in (train, rest)
        )
        both = sorted({*first} & {*second})
        if len(both) >= max(_FEWEST_SHARED, _SHARED * len(second)):
            group = both[0]
            return (
                f"The images' names may say which belong together, and images of {len(both):,} of "
                f"{counted(len(second), 'group')} outside train lie in train as well, such as "
                f"{first[group].name} and {second[group].name} of {group}. If so, their accuracy "
                "says little about new ones: put all images of each into one split."
            )
    return ""


def _says_one(match: re.Match[str]) -> bool:
    """Whether a group has a number, as things that are told apart have."""
    return any(c.isdigit() for c in match["group"])


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
    """Whether the last numbers of names count the images of nearly every group.

    They do from 0 or 1 on, or, as those of frames, from anywhere without a gap.
    """
    numbers: dict[str, list[int]] = defaultdict(list)
    for name, group in zip(names, groups, strict=True):
        numbers[group].append(int(re.findall(r"\d+", name.rpartition(".")[0][len(group) :])[-1]))
    in_order = sum(
        max(n) - min(n) < 2 * len(n)
        if min(n) <= 1
        else len(n) >= _FEWEST_FRAMES and max(n) - min(n) == len(n) - 1
        for n in numbers.values()
    )
    return in_order >= _NEARLY_ALL * len(numbers)
