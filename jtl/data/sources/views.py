"""Folders and names that say bands or views of one thing, and no classes.

A network that learns to tell `B02` from `B03` learns nothing of what the images show, and one that
trains on `x_B02` and is validated on `x_B03` has seen the same place.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence, Set

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources.names import words_of
from jtl.data.sources.stores import ImageFile, spread, stem_of

_FEWEST_VIEWED, _MOST_VIEWS = 3, 16
"""Folders with the same few names, and these names."""
_OF_BANDS = (
    r"b\d\d?a?|band[ _-]?\d\d?a?|v?nir\d?|[smlt]w?ir\d?|red[ _-]?edge\d?|rdeg|vv|vh|hh|hv|ndvi|"
    r"ndwi|pan|panchromatic|dapi|fitc|tritc|cy[35]|gfp|rfp|ch(annel)?[ _-]?\d\d?"
)
_BANDS = re.compile(_OF_BANDS, re.IGNORECASE)
"""Names of bands and of stains, which hardly are classes where the files' names are the same."""
_LETTER = re.compile(r"b\d", re.IGNORECASE)
"""A band of Landsat, or one of a few classes."""
_MODES = re.compile(
    r"rgb|ir|infrared|thermal|visible|vis|depth|disparity|flair|t1(w|c|ce|gd)?|t2w?|dwi|adc|pd",
    re.IGNORECASE,
)
_COLOURS = re.compile(r"r|g|b|red|green|blue|yellow|cyan|magenta|grey|gray", re.IGNORECASE)
_DEPTH = re.compile(r"depth\w*|mask\w*|thermal|infrared|disparity|normals|albedo")
_AT_END = re.compile(r"(.+)[ ._-]([a-z][a-z\d]*)")
"""Of names in lower case."""
_ALTERED = re.compile(
    r"(.+(?<![ ._-]))([ ._-]+(?:[hv]?[ _-]?flip\w*|rot\w*|mirror\w*|aug\w*|blur\w*|nois[ey]\w*|"
    r"bright\w*|dark\w*|thumb\w*|resized?|contrast\w*|zoom\w*|shear\w*|shift\w*|jitter\w*|"
    r"equali[sz]ed?|edit(?:ed)?|bearbeitet|editad[ao]|modifié|(?:copy|kopie|copia)(?: \(?\d+\)?)?)|"
    r"[ _]?\(\d+\))",
    re.IGNORECASE,
)
_COPY_OF = re.compile(
    r"((?:aug(?:mented)?|rot(?:ated)?|flip(?:ped)?|r)[\d_-]*[_-])(.+)", re.IGNORECASE
)
_EDITED = re.compile(r"(IMG_)E(\d+)")
"""What an iPhone calls the edited copy of `IMG_0007`."""
_DOWNLOADED = re.compile(r"[ _]?\(\d+\)")
"""Behind the name of a file that was saved twice, or of another one of the same name."""
_FEW_COPIES, _FEWEST_COPIES = 0.05, 2
_SMALL = {"thumb", "thumbs", "thumbnail", "thumbnails", "small", "preview", "previews", "resized"}
_CUT = {"crop", "crops", "cropped", "patch", "patches", "tile", "tiles", "cells", "rois", "roi",
        "cut", "cutouts", "chips", "segments"}  # fmt: skip
"""Words in the names of folders that hold parts of images."""
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
    places = {name: images[0].parts[:-1] for name, images in held.items()}
    if any(i.parts[:-1] != places[name] for name, images in held.items() for i in images):
        return
    told = _same_few(held, where) or _called_like_bands(held, where)
    if told:
        raise UserError(
            f"{told} If the folders are classes, {_KEEP}. If not, put one image of each "
            f"thing into a folder named after its class. {labels_told}".rstrip()
        )
    if shown := _ending_in_bands(held):
        raise UserError(
            f"The images in {where} are called like bands of one thing each ({listed(shown, 3)}), "
            "and each band would be an image of its own. Save the bands of each thing as one image "
            f"of three colours. If they are images of their own, {_KEEP}. {labels_told}".rstrip()
        )


def refuse_copies(
    direct: Sequence[ImageFile], inner: Mapping[str, Sequence[ImageFile]], where: str
) -> None:
    """Raises `UserError` if a class folder has its images again in a sub-folder, as thumbnails.

    Args:
        direct: The images in the folder itself.
        inner: Those in its sub-folders.
        where: What the folder is called.
    """
    names = {stem_of(image.parts[-1]).casefold() for image in direct}
    for folder, images in inner.items():
        stems = {stem_of(image.parts[-1]).casefold() for image in images}
        small = _SMALL & {*words_of(folder)}
        if _CUT & {*words_of(folder)} and stems and all(_behind(stem, names) for stem in stems):
            raise UserError(
                f"{where}/{folder} holds images named after those in {where}, as parts cut from "
                "them have: the same thing would be in training and in validation. Keep the whole "
                f"images or the parts, and move the others elsewhere; or, to use both, {_KEEP}."
            )
        if not stems or len(stems & names) < _NEARLY_ALL * len(stems):
            continue
        if small or (len(stems) > 1 and not _are_counted(sorted(stems))):
            raise UserError(
                f"{where}/{folder} holds images of the same names as those in {where}, as copies "
                f"such as thumbnails have. Move {folder} elsewhere; or, if they are further images "
                f"of the class, {_KEEP}."
            )


def _behind(name: str, names: Set[str]) -> bool:
    """Whether a name begins with one of `names`, and goes on behind a separator."""
    return any(name[: match.start()] in names for match in re.finditer(r"[ ._-]", name))


def _same_few(held: Mapping[str, Sequence[ImageFile]], where: str) -> str:
    """A sentence if each folder holds the same few names, as bands of one patch have."""
    if len(held) < _FEWEST_VIEWED or any(len(images) > _MOST_VIEWS for images in held.values()):
        return ""
    sets = {frozenset(_views(images)) for images in held.values()}
    if len(sets) > 1 or len(names := sorted(sets.pop())) < 2 or _are_counted(names):
        return ""
    return (
        f"Each of the {len(held):,} folders in {where} holds images called {listed(names, 4)}, as "
        "if they were bands or views of one thing in each folder."
    )


def _called_like_bands(held: Mapping[str, Sequence[ImageFile]], where: str) -> str:
    """A sentence if folders are called like bands, and hold images of the same names."""
    tests = (_BANDS, _MODES, _COLOURS)
    if len(held) < 2 or not all(any(t.fullmatch(name) for t in tests) for name in held):
        return ""
    views = {name: {*_views(images)} for name, images in held.items()}
    every, some = set.intersection(*views.values()), set.union(*views.values())
    if len(every) < max(2, _SAME * len(some)):
        return ""
    # Images of red things are counted, too.
    certain = any(_BANDS.fullmatch(name) and not _LETTER.fullmatch(name) for name in views)
    if not certain and _are_counted(sorted(some)):
        return ""
    return (
        f"In {where}, {listed(sorted(views))} are called like bands or channels, and hold images "
        f"of the same names ({listed(sorted(every), 3)}), as if they were those of one thing."
    )


def _ending_in_bands(held: Mapping[str, Sequence[ImageFile]]) -> list[str]:
    """Some names where nearly all end in words for bands, the same of each thing in a folder."""
    sample = spread([image for images in held.values() for image in images])
    if sum(bool(_AT_END.fullmatch(_stem(i))) for i in sample) < _NEARLY_ALL * len(sample):
        return []
    stems = {name: [_stem(image) for image in images] for name, images in held.items()}
    bands: dict[tuple[str, str], list[str]] = defaultdict(list)
    for folder, same in stems.items():
        for stem in same:
            if match := _AT_END.fullmatch(stem):
                bands[folder, match[1]].append(match[2])
    count = sum(map(len, stems.values()))
    if not bands or sum(map(len, bands.values())) < _NEARLY_ALL * count:
        return []
    (folder, base), usual = max(bands.items(), key=lambda item: len(item[1]))
    same = sum({*each} == {*usual} for each in bands.values())
    certain = [band for band in usual if _BANDS.fullmatch(band) or _DEPTH.fullmatch(band)]
    # `x_b1` and `x_b2` may be two shots, and `shirt_red` is a shirt.
    letters = all(re.fullmatch(r"b\d", band) for band in usual)
    if len(usual) < (3 if letters else 2) or same < _NEARLY_ALL * len(bands):
        return []
    if not certain and not {*usual} >= _RGB:
        return []
    return [stem for stem in stems[folder] if stem.startswith(base)]


def altered(images: Sequence[ImageFile]) -> str:
    """A note where images are called like altered copies of others; else empty.

    Args:
        images: All images of which some are held out.
    """
    tests = (_ALTERED, _COPY_OF, _EDITED)
    names = [stem_of(image.parts[-1]) for image in spread(images)]
    if not any(test.fullmatch(name) for name in names for test in tests):
        return ""
    stems: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for image in images:
        stems[image.parts[:-1]][stem_of(image.parts[-1])] = image.name
    ends: dict[str, list[tuple[str, str]]] = defaultdict(list)
    starts: dict[str, str] = {}
    edited: list[str] = []
    copies = 0
    for same in stems.values():
        for stem, name in same.items():
            end, start, edit = (test.fullmatch(stem) for test in tests)
            if end and end[1] in same:
                ends[re.sub(r"\d+", "0", end[2])].append((end[1], name))
            elif start and start[2] in same:
                starts.setdefault(start[1].rstrip("0123456789_-"), name)
                copies += 1
            elif edit and edit[1] + edit[2] in same:
                edited.append(name)
    for end, found in [*ends.items()]:
        # `download (1).jpg`, ..., `download (57).jpg` are other images, not copies of one.
        if _DOWNLOADED.fullmatch(end) and 2 * len({base for base, _ in found}) < len(found):
            del ends[end]
    copies += len(edited) + sum(map(len, ends.values()))
    if copies < max(_FEWEST_COPIES, _FEW_COPIES * sum(map(len, stems.values()))):
        return ""
    before = rf"((?:{'|'.join(map(re.escape, starts))})[\d_-]*)?" if starts else ""
    before += "(?:IMG_E?)?" if edited else ""
    numbered = (re.escape(end).replace("0", r"\d+") for end in sorted(ends))
    behind = f"({'|'.join(numbered)})*" if ends else ""
    rule = rf"regex:(?:^|/){before}(?P<group>[^/]+?){behind}\.[^./]+$"
    shown = [*(found[0][1] for found in ends.values()), *starts.values(), *edited[:1]]
    return (
        f"{counted(copies, 'image')} may be altered copies of others by their names, such as "
        f"{listed(shown, 3)}. Of validation images that are held out, "
        "copies would be trained on. To keep each image and its copies on one side: "
        f"--group-from '{rule}'"
    )


def altered_across(splits: Mapping[str, Sequence[tuple[ImageFile, Hashable]]]) -> str:
    """A note where images are called like altered copies of those of another split; else empty.

    Args:
        splits: The images and their classes by split.
    """
    some = (image for each in splits.values() for image in spread([i for i, _ in each]))
    if not any(_original(stem_of(image.parts[-1])) for image in some):
        return ""
    stems = {
        split: {(label, stem_of(image.parts[-1])): image.name for image, label in images}
        for split, images in splits.items()
    }
    pairs = []
    for split, own in stems.items():
        for (label, stem), name in own.items():
            base = _original(stem)
            if base is None or (label, base) in own:
                continue  # Numbers may begin anew in each split.
            found = (o[label, base] for s, o in stems.items() if s != split and (label, base) in o)
            pairs += [(name, other) for other in found]
    if len(pairs) < _FEWEST_COPIES:
        return ""
    copy, other = pairs[0]
    return (
        f"{counted(len(pairs), 'image')} may be altered copies of images in another split by their "
        f"names, such as {copy} of {other}. If so, the accuracy says little about new images: put "
        "each image and its copies into one split."
    )


def _original(stem: str) -> str | None:
    """The name of the image that one is called an altered copy of; None where there is none."""
    if (end := _ALTERED.fullmatch(stem)) and not _DOWNLOADED.fullmatch(end[2]):
        return end[1]
    if start := _COPY_OF.fullmatch(stem):
        return start[2]
    return edit[1] + edit[2] if (edit := _EDITED.fullmatch(stem)) else None


def _stem(image: ImageFile) -> str:
    return stem_of(image.parts[-1]).casefold()


def _views(images: Sequence[ImageFile]) -> list[str]:
    """The images' names without endings and without the name of their folder."""
    own = images[0].parts[-2].casefold()
    return [_stem(image).replace(own, "").strip(" ._-") for image in images]


def _are_counted(names: Sequence[str]) -> bool:
    """Whether names differ in a number that counts, and so say nothing."""
    numbers = [re.fullmatch(r"(\D*)(\d+)(\D*)", name) for name in names]
    found = [match.groups() for match in numbers if match]
    same = len({(before, after) for before, _, after in found}) == 1
    counts = sorted(int(number) for _, number, _ in found)
    return same and len(found) == len(names) and counts[-1] - counts[0] < 2 * len(counts)
