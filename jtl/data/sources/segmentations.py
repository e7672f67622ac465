"""Masks of images that lie beside them: `benign (1)_mask.png` beside `benign (1).png`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from jtl.data.sources.names import is_annotation
from jtl.data.sources.stores import Tree

_KINDS = (
    "masks?|segmentations?|segmask|seg|labels?|gt|ground[ _-]?truth|annotations?|anno|trimaps?"
    "|superpixels|contours?"
)
_AFTER = re.compile(rf"(.+?)[ ._-]+(?:{_KINDS})(?:[ ._-]*\(?\d+\)?)?", re.IGNORECASE)
_WORD = re.compile(_KINDS, re.IGNORECASE)
_BEFORE = re.compile(rf"(?:{_KINDS})[ ._-]+(.+)", re.IGNORECASE)
_SEVERAL = re.compile(
    r"(?:.*[ ._-])?(?:masks|segmentations|labels|annotations|contours|superpixels)"
)
"""The name of a folder that holds such files; `face_mask` may be a class."""


def without(tree: Tree) -> tuple[Tree, list[str]]:
    """The tree without masks and without the folders that hold nothing else, and their names."""
    masks = set(_find(tree))
    if not masks:
        return tree, []
    images = [image for image in tree.images if image.name not in masks]
    used = {i.parts[:n] for i in images for n in range(len(i.parts))}
    held = {i.parts[:n] for i in tree.images for n in range(len(i.parts))}
    return tree._replace(images=images, folders=tree.folders - (held - used)), sorted(masks)


def _find(tree: Tree) -> list[str]:
    """The names of the images that are masks of others.

    They are named like an image in the same folder, with a word such as `mask` behind or before;
    or they lie in a folder of such a name, and all images in it are named like images in the
    folder next to it or around it. An image with a name like a mask's and none that it belongs to
    is an image.
    """
    by_folder: dict[tuple[str, ...], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for image in tree.images:
        by_folder[image.parts[:-1]][_stem(image.parts[-1])].append(image.name)
    stems: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for folder, images in by_folder.items():
        stems[_whatever_case(folder)] |= set(images)
    found: list[str] = []
    for folder, images in by_folder.items():
        name = folder[-1] if folder else ""
        around = _images_around(folder, stems)
        if around and all(stem in around or _bases(stem) & around for stem in images):
            found += [image for same in images.values() for image in same]
        elif not _WORD.search(name):  # Of `with_mask` that says nothing.
            own = [stem for stem in images if any(base in images for base in _bases(stem))]
            # Else they are few among many images: names of some other meaning.
            if 2 * len(own) >= len(images) - len(own):
                found += [name for stem in own for name in images[stem]]
    return found


def _images_around(folder: tuple[str, ...], stems: Mapping[tuple[str, ...], set[str]]) -> set[str]:
    """The images whose masks a folder's name says that it holds, of the images in all folders."""
    if not folder:
        return set()
    *above, name = folder
    if is_annotation(name):
        return stems.get(_whatever_case(tuple(above)), set())
    if not _SEVERAL.fullmatch(name.casefold()):
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


def _stem(name: str) -> str:
    return (name.rpartition(".")[0] or name).casefold()
