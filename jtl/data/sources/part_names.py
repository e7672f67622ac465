"""Names of folders that look like parts or versions of one data set rather than classes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from jtl.data.sources.names import CONTAINERS, words_of

_PARTS = (
    *CONTAINERS, "picture", "photo", "pic", "frame", "file", "part", "parts", "fold", "folds",
    "batch", "batches", "chunk", "shard", "partition", "subset", "set", "split", "folder", "dir",
    "ds", "archive", "zip", "disk", "disc",
)  # fmt: skip
"""What stands before the number in the name of a part of one data set, such as `images_001`."""
_GROUPS = (
    "patient", "pat", "subject", "participant", "donor", "sequence", "seq", "video", "clip", "case",
    "study", "session", "plate", "slide", "scan", "volume", "tracklet", "camera", "cam", "site",
    "hospital", "center", "centre", "week", "patch", "tile", "base", "user", "plot", "annotator",
    "rater", "reader", "grader", "observer", "labeler", "labeller", "expert", "reviewer", "loc",
    "location", "station", "farm", "transect", "quadrat", "trip", "visit", "flight", "dive", "day",
    "experiment", "exp", "replicate", "rep", "trial", "scanner", "device", "phone", "fov", "mouse",
    "version",
)  # fmt: skip
"""What stands before the number in the name of a group of images, such as `patient00042`."""
_READERS = ("annotator", "rater", "reader", "grader", "observer", "labeler", "labeller", "expert",
            "reviewer", "scanner", "device", "phone", "site", "camera", "cam")  # fmt: skip
"""Those that letters count as well as numbers, as `expert_A`."""
_PERSONS = (
    "patient", "pat", "subject", "participant", "donor", "video", "clip", "case", "session",
    "slide", "scan", "volume", "tracklet",
)  # fmt: skip
"""Those of which the name may say more, unlike `week 3 seedlings`."""
_NO_CLASSES = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        r"(Photos from )?(19[6-9]|20[0-3])\d([-_.]?(0[1-9]|1[0-2])([-_.]?[0-3]\d"
        r"([T_ -]?\d{4,6})?)?)?",
        r"(19[6-9]|20[0-3])\d[-_ ]?(W|KW|Q)\d\d?",
        r"[0-3]?\d[-_.][01]?\d[-_.](19|20)\d\d",
        r"(?=\d*[a-z_])\d{3}[a-z0-9_]{5}",  # `100CANON`, as cameras call folders.
        r"(VID|IMG|DJI|PXL|GOPR?|MVI)[_-]?\d{4,}.*",
        r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}",
        r"TCGA[-_]\w\w[-_]\w{4}.*|LIDC-IDRI-\d+|sub-[0-9a-z]+|S[12][A-D]_[A-Z0-9]{6,}_.*",
        r"(GSM|SRR|ERR|DRR|SAMN|SAMEA)\d{3,}",
        r"x_?\d+[_-]?y_?\d+",
        r"-?\d{1,3}\.\d+[_, -]+-?\d{1,3}\.\d+",  # Latitude and longitude.
        r"r\d\d?_?c\d\d?(f\d+)?",  # Wells, as row and column.
        r"\d{2,4}x(\d{2,4})?",  # Magnifications and sizes.
        r"jpe?g|png|tiff?|bmp|webp",
        r"v(er)?[ ._-]?\d+(\.\d+)*",
        r"0*1-[1-9]\d\d+|0\d+-\d{3,}|[1-9]\d*01-\d+00",  # `1-500`, `501-1000`.
    )
)
"""What folders are called that hardly are classes: dates, cameras' and published names, tiles."""
_WELL = re.compile(r"([A-P])(0[1-9]|1\d|2[0-4])")
_OF_CLASSES = ("c", "n", "p")
"""Letters that may count classes or patients; wells have other letters, too."""
_RANGE = re.compile(r"([A-Z])\s*(?:[-_]|to|bis)\s*([A-Z])", re.IGNORECASE)
_VERSIONS = (
    "original", "originals", "orig", "raw", "processed", "unprocessed", "preprocessed", "filtered",
    "segmented", "denoised", "aug", "augmented", "augmentation", "augmentations", "flipped",
    "rotated", "mirrored", "cropped", "resized", "rescaled", "normalized", "normalised", "enhanced",
    "edited", "copy", "copies", "backup", "duplicates",
)  # fmt: skip
_MODES = (
    "rgb", "nir", "swir", "lwir", "mwir", "ir", "thermal", "infrared", "visible", "vis", "depth",
    "disparity", "ndvi", "hsv", "lab", "color", "colour", "gray", "grey", "grayscale",
    "greyscale", "sar", "optical", "panchromatic", "multispectral", "hyperspectral", "flair", "t1",
    "t1w", "t1c", "t1ce", "t1gd", "t2", "t2w", "dwi", "adc", "swi",
)  # fmt: skip
_PAIRS = ("lr", "hr", "input", "inputs", "output", "outputs", "target", "targets")
_MONTHS = (
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
    "january", "february", "march", "april", "june", "july", "august", "september", "october",
    "november", "december",
)  # fmt: skip
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
             "mon", "tue", "wed", "thu", "fri", "sat", "sun")  # fmt: skip
_ALBUMS = ("camera", "cameraroll", "screenshots", "download", "downloads", "whatsappimages",
           "telegram", "instagram", "dcim", "bluetooth", "pictures")  # fmt: skip
_TOGETHER = tuple(map(frozenset, (_VERSIONS, _MODES, _PAIRS, _MONTHS, _WEEKDAYS, _ALBUMS)))
"""Names that are hardly classes where folders are called by them alone: copies, bands, times."""
_HEX = "0123456789abcdef"


def numbered_parts(names: Iterable[str]) -> list[str]:
    """The names that look like parts of one data set, such as `batch1` and `batch2`.

    Parts have one stem, which ends in a word for images or parts, and differ in what follows it:
    a number, a single letter or nothing. A single name counts where it is only such a word and a
    number. Numbered classes (`class_0`, `s12`, `n01440764`, `001.frame`) have other stems or none.
    Of groups of images (`patient00042`) the number may have any length. Dates and the like are
    parts, too, if all names are of one such kind.
    """
    names = list(names)
    if len(names) > 1 and _hardly_classes(names):
        return sorted(names)
    by_stem: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        words = [word for word in words_of(name) if not word.isdigit() and word != "of"]
        letters = len(words) > 1 and len(words[-1]) == 1 and words[-1].isalpha()
        stem = tuple(words[:-1] if letters else words)
        if stem and (stem[-1] in (*_PARTS, *_GROUPS) or _says_group(name)):
            by_stem.setdefault(stem, []).append(name)
    found = []
    for stem, siblings in by_stem.items():
        if stem[-1] in _GROUPS or _says_group(siblings[0]):
            lettered = stem[-1] in _READERS and all(words_of(n) != [*stem] for n in siblings)
            counting = lettered or all(re.search(r"\d", name) for name in siblings)
            if len(siblings) > 1 and counting:
                found += siblings
            continue
        numbered = [name for name in siblings if re.search(r"(?<!\d)\d{1,3}(?!\d)", name)]
        if len(siblings) == 1:
            apart = len(stem) == 1 and any(name[0].isalpha() for name in numbered)
        else:
            # `disc` and `disc_a` may be classes, and parts in a shop (`Part 3001`).
            others = any(words_of(n) == list(stem) or re.search(r"\d{4}", n) for n in siblings)
            apart = bool(numbered) or not others
        if apart:
            found += siblings
    return sorted(found)


def are_versions(names: Iterable[str]) -> bool:
    """Whether folders are called after versions, bands, wells or times of images alone."""
    plain = _plain(names)
    letters = {name[0] for name in plain if _WELL.fullmatch(name.upper())}
    wells = all(_WELL.fullmatch(name.upper()) for name in plain)
    if wells and (len(letters) > 1 or not letters <= {*_OF_CLASSES}):
        return True
    return any(plain <= known for known in _TOGETHER)


def _plain(names: Iterable[str]) -> set[str]:
    return {re.sub(r"[\W_]+", "", name.casefold()) for name in names}


def _hardly_classes(names: Sequence[str]) -> bool:
    """Whether all names are of one kind that is none of classes."""
    if any(all(map(pattern.fullmatch, names)) for pattern in _NO_CLASSES):
        return True
    ranges = [match for name in names if (match := _RANGE.fullmatch(name))]
    if len(ranges) == len(names):
        ends = sorted((m[1].casefold(), m[2].casefold()) for m in ranges)
        follow = all(a[1] < b[0] for a, b in itertools.pairwise(ends))
        return follow and all(a < b for a, b in ends)
    if are_versions(names):
        return True
    plain = _plain(names)
    # The first digits of hashes, by which programs spread files over folders.
    return plain == {*_HEX} or (len(plain) > 200 and plain <= {a + b for a in _HEX for b in _HEX})


def _says_group(name: str) -> bool:
    """Whether a word for persons or recordings has a number behind it, as `patient_004_node_4`."""
    words = words_of(name)
    return any(a in _PERSONS and b.isdigit() for a, b in itertools.pairwise(words))
