"""Masks of images that lie beside them: `benign (1)_mask.png` beside `benign (1).png`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from jtl.common.text import counted, listed
from jtl.data.sources.names import (
    is_annotation,
    is_container,
    is_of_annotations,
    is_of_regions,
    split_in,
)
from jtl.data.sources.stores import Tree, stem_of

_SURE = "masks?|segmentations?|segmask|seg|gt|ground[ _-]?truth|trimaps?|superpixels|contours?"
_KINDS = f"{_SURE}|labels?|annotations?|anno"
_AFTER = re.compile(rf"(.+?)[ ._-]+(?:{_KINDS})(?:[ ._-]*\(?\d+\)?)?", re.IGNORECASE)
_WORD = re.compile(_KINDS, re.IGNORECASE)
_SURE_WORD = re.compile(_SURE, re.IGNORECASE)
_BEFORE = re.compile(rf"(?:{_KINDS})[ ._-]+(.+)", re.IGNORECASE)
_NUMBERED = re.compile(rf"(?:{_KINDS})[ ._-]+\d+", re.IGNORECASE)
"""`mask_0` beside `0`: it may be a mask, or the first image of masks."""
_SEVERAL = re.compile(
    r"(?:.*[ ._-])?(?:masks|segmentations|labels|annotations|contours|superpixels)"
)
"""The name of a folder that holds such files; `face_mask` may be a class."""
_LAST = re.compile(rf".+[ ._-](?:{_KINDS})")
_SURE_LAST = re.compile(r".*[ ._-](?:seg|segmask|segmentation|gt|ground[ _-]?truth|trimap)")
"""The name of a folder that hardly is a class beside one without the last word."""
_CUT_OUT = "rois?|crops?|cropped|patch|bbox|box"
_PART = re.compile(rf"(.+?)[ ._-]+(?:{_CUT_OUT})(?:[ ._-]*\(?\d+\)?)?|(?:{_CUT_OUT})[ ._-]+(.+)")
"""The name of a part of an image, in a folder of such."""
_ORIGINALS = ("original", "originals", "raw", "input", "inputs", "source", "sources", "rgb")
_ENOUGH = 0.5
"""The share of images with something like a mask from which it is not clear what that is."""

_Folder = tuple[str, ...]
_Folders = Mapping[_Folder, Mapping[str, Sequence[str]]]
"""The names of the images by folder and name without ending, in lower case."""


class Found(NamedTuple):
    """What looks like a mask.

    Attributes:
        masks: Images that belong to another, whose name they carry.
        kept: Images that only look so, and stay.
        doubtful: What may be either, in a sentence; empty if nothing is.
    """

    masks: list[str]
    kept: list[str]
    doubtful: str = ""


def without(tree: Tree, masks: Iterable[str]) -> Tree:
    """The tree without masks and without the folders that hold nothing else."""
    masks = set(masks)
    if not masks:
        return tree
    images = [image for image in tree.images if image.name not in masks]
    used = {i.parts[:n] for i in images for n in range(len(i.parts))}
    lost = {i.parts[:n] for i in tree.images for n in range(len(i.parts))} - used
    rest = {f for f in tree.folders if not any(f[:n] in lost for n in range(len(f) + 1))}
    return tree._replace(images=images, folders=rest)


def find(tree: Tree) -> Found:
    """The images that are masks of others.

    They are named like an image in the same folder, with a word such as `mask` behind or before;
    or they lie in a folder of such a name, and all images in it are named like images in the
    folder next to it or around it, or each like one image of the classes next to it. An image
    with a name like a mask's and none that it belongs to is an image.
    """
    by_folder: dict[_Folder, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image in tree.images:
        by_folder[image.parts[:-1]][stem_of(image.parts[-1]).casefold()].append(image.name)
    stems: dict[_Folder, set[str]] = defaultdict(set)
    for folder, images in by_folder.items():
        stems[_whatever_case(folder)] |= set(images)
    of_masks = {f for f, images in by_folder.items() if _belong(images, _images_around(f, stems))}
    beside = {f for f in by_folder if f and f not in of_masks and _beside_classes(f, by_folder)}
    of_masks |= beside
    found = [Found([], [], _doubtful_copies(of_masks, by_folder))]
    for folder, images in by_folder.items():
        if folder in beside:
            found.append(Found(_names(images), []))
        elif folder in of_masks:
            found.append(_of_masks(folder, by_folder, of_masks))
        elif not _WORD.search(folder[-1] if folder else ""):  # Of `with_mask` that says nothing.
            found.append(_among_images(images))
    return Found(
        sorted(name for each in found for name in each.masks),
        sorted(name for each in found for name in each.kept),
        next(filter(None, (each.doubtful for each in found)), ""),
    )


def _of_masks(folder: _Folder, folders: _Folders, of_masks: set[_Folder]) -> Found:
    """What the images in a folder of masks are, by what lies next to it."""
    names = _names(folders[folder])
    if not _would_leave_classes(folder, folders, of_masks):
        return Found([], names)
    others = _accidental(folder, folders, of_masks)
    may_be_class = _may_be_class(folder)
    if may_be_class and others:
        return Found([], names)
    doubtful = (
        f"{'/'.join(folder)} may hold masks of the images next to it, as its images have the same "
        "names"
    )
    if others:
        so_have = f"; but so have those in {listed(others, 3)}, so it may be a class."
        return Found(names, [], doubtful + so_have)
    if may_be_class and not _all_have_masks(folder, folders, of_masks):
        return Found(names, [], doubtful + ", or it may be a class.")
    return Found(names, [])


def _among_images(images: Mapping[str, Sequence[str]]) -> Found:
    """The masks in a folder of images, which lie beside these."""
    sure, unsure = _own(images)
    masks = [name for stem in sure for name in images[stem]]
    names = [name for stem in unsure for name in images[stem]]
    rest = {*images} - {*unsure} - {*sure}
    if rest <= set().union(*map(_bases, unsure)):
        return Found([*masks, *names], [])  # Each image has one.
    if len(unsure) < _ENOUGH * len(rest):
        return Found(masks, names)
    doubtful = (
        f"{listed(names, 3)} may be masks or annotations of other images, whose names they carry; "
        f"but {counted(len(rest), 'image')} next to them have "
        f"{counted(len(unsure), 'such file')}, so they may be images."
    )
    return Found([*masks, *names], [], doubtful)


def _names(images: Mapping[str, Sequence[str]]) -> list[str]:
    return [name for same in images.values() for name in same]


def _own(images: Mapping[str, Sequence[str]]) -> tuple[list[str], list[str]]:
    """The names in a folder that carry that of another image: surely masks, and perhaps."""
    own = [stem for stem in images if any(base in images for base in _bases(stem))]
    sure = [s for s in own if _SURE_WORD.search(s) and not _NUMBERED.fullmatch(s)]
    return sure, [stem for stem in own if stem not in {*sure}]


def _belong(images: Iterable[str], around: set[str]) -> bool:
    return bool(around) and all(stem in around or _bases(stem) & around for stem in images)


def _would_leave_classes(folder: _Folder, folders: _Folders, of_masks: set[_Folder]) -> bool:
    """Whether a folder next to that of a class is not needed to have two classes."""
    bases = _bases(folder[-1].casefold())
    if is_annotation(folder[-1]) or any(is_container(base) for base in bases):
        return True
    if folder[-2:-1] and folder[-2].casefold() in bases:  # `trout/trout`, `trout/trout GT`.
        return True
    return sum(f[:-1] == folder[:-1] for f in {*folders} - of_masks if f) > 1


def _beside_classes(folder: _Folder, folders: _Folders) -> bool:
    """Whether each image is named like one of those of the classes beside its folder."""
    if not is_of_annotations(folder[-1]):
        return False
    siblings = [f for f in folders if f[:-1] == folder[:-1] and f and f != folder]
    classes = [f for f in siblings if not is_of_annotations(f[-1])]
    if any(is_container(f[-1]) for f in classes):
        return False  # `images` beside `masks`.
    if len(classes) < 2 and not any(f[-1].casefold() in _ORIGINALS for f in classes):
        return False
    return None not in _origins(folder, classes, folders)


def _origins(folder: _Folder, others: Sequence[_Folder], folders: _Folders) -> set[_Folder | None]:
    """The folders that hold the images which others are named like; None for none, or several."""
    where: dict[str, list[_Folder]] = defaultdict(list)
    for other in others:
        for stem in folders[other]:
            where[stem].append(other)
    found: set[_Folder | None] = set()
    for stem in folders[folder]:
        part = _PART.fullmatch(stem)
        names = {stem, *_bases(stem), *filter(None, part.groups() if part else ())}
        places = [place for name in names for place in where[name]]
        found.add(places[0] if len(places) == 1 else None)
    return found


def _doubtful_copies(of_masks: set[_Folder], folders: _Folders) -> str:
    """A sentence about a folder that may hold what is made of the images in those next to it."""
    beside: dict[_Folder, list[_Folder]] = defaultdict(list)
    for folder in folders:
        if folder and folder not in of_masks:
            beside[folder[:-1]].append(folder)
    for siblings in beside.values():
        largest = max(siblings, key=lambda folder: len(folders[folder]))
        others = [folder for folder in siblings if folder != largest]
        if len(folders[largest]) < _ENOUGH * sum(len(folders[folder]) for folder in others):
            continue
        origins = _origins(largest, others, folders)
        if len(origins) < 2 or None in origins or any(split_in(f[-1]) for f in siblings):
            continue
        names = sorted(folder[-1] for folder in origins if folder)
        return (
            f"{'/'.join(largest)} may hold copies, parts or masks of the images next to it, as "
            f"each of its images has the name of one in {listed(names, 3)}; or it may be a class."
        )
    return ""


def _may_be_class(folder: _Folder) -> bool:
    """Whether a name such as `face_mask` may be that of a class beside `face`."""
    name = folder[-1].casefold()
    return not (is_annotation(name) or _SEVERAL.fullmatch(name) or _SURE_LAST.fullmatch(name))


def _all_have_masks(folder: _Folder, folders: _Folders, of_masks: set[_Folder]) -> bool:
    """Whether all classes next to a folder of masks have such folders, and not only one."""
    around = [f for f in folders if f and f[:-1] == folder[:-1]]
    with_masks = {base for f in around if f in of_masks for base in _bases(f[-1].casefold())}
    classes = {f[-1].casefold() for f in around if f not in of_masks}
    return len(classes) > 1 and classes <= with_masks


def _accidental(folder: _Folder, folders: _Folders, of_masks: set[_Folder]) -> list[str]:
    """The folders that have images of the same names though they have nothing to do with it."""
    if is_annotation(folder[-1]):
        return []
    bases = _bases(folder[-1].casefold())
    with_masks = {(*f[:-1], base) for f in of_masks if f for base in _bases(f[-1].casefold())}
    return [
        "/".join(other)
        for other, images in folders.items()
        if other[:-1] == folder[:-1] and other not in of_masks
        and other and other[-1].casefold() not in bases and _whatever_case(other) not in with_masks
        and len({*images} & {*folders[folder]}) >= _ENOUGH * len(folders[folder])
    ]  # fmt: skip


def _images_around(folder: tuple[str, ...], stems: Mapping[tuple[str, ...], set[str]]) -> set[str]:
    """The images whose masks a folder's name says that it holds, of the images in all folders."""
    if not folder:
        return set()
    *above, name = folder
    if is_annotation(name) or is_of_regions(name):
        return stems.get(_whatever_case(tuple(above)), set())
    if not (_SEVERAL.fullmatch(name.casefold()) or _LAST.fullmatch(name.casefold())):
        return set()
    bases = _bases(name.casefold())
    return set().union(*(stems.get((*above, base), ()) for base in bases))


def _whatever_case(folder: tuple[str, ...]) -> tuple[str, ...]:
    """A folder's path, its own name whatever its case."""
    return (*folder[:-1], folder[-1].casefold()) if folder else folder


def _bases(stem: str) -> set[str]:
    """What a name may be a mask of: `a` and `a_gt` of `a_gt_mask`."""
    found: set[str] = set()
    if not _WORD.search(stem):
        return found
    while (match := _AFTER.fullmatch(stem) or _BEFORE.fullmatch(stem)) is not None:
        stem = match[1]
        found.add(stem)
    return found
