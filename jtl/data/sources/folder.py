"""Folders of images, one folder per class, on disk or inside an archive."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.decoding import BadImage
from jtl.data.sources.archives import open_store
from jtl.data.sources.encoded import EncodedSplit
from jtl.data.sources.stores import IMAGE_EXTENSIONS, ImageFile, ImageStore, Tree
from jtl.data.splits import SPLIT_NAMES, OpenedSource

_LAYOUT = (
    "Expected train/CLASS/IMAGE with optional val/ and test/ beside train/, "
    "or CLASS/IMAGE without splits; one enclosing folder around either is fine."
)
_LARGEST_FILE = 2**30  # bytes; no image that can be decoded needs them


def load_folder(path: str) -> OpenedSource:
    """Find the class folders of a directory or an archive; opens no image.

    Folders named like a split (`SPLIT_NAMES`, in any case) are splits as soon as there is a
    train folder; otherwise every folder is a class. Images further down in a class folder
    belong to the class.

    Args:
        path: The directory, or the zip or tar archive.

    Returns:
        What there is. The classes are the sorted class folders of train, then those of val and
        test that train does not have (a problem). Too few classes and classes without images
        are problems as well.

    Raises:
        UserError: If the path cannot be read, or does not hold class folders.
    """
    place = Path(os.path.expanduser(path))
    store = open_store(place)
    tree = store.tree()
    folders, notes = _find_splits(tree, place)
    grouped: dict[str, dict[str, list[ImageFile]]] = {}
    for split, folder in folders.items():
        classes, loose = _group_by_class(tree, folder)
        if split == "test" and loose and not classes:
            notes.append(f"{'/'.join(folder)} has no class folders: it is not used for testing.")
            continue
        if not classes:
            raise UserError(f"{'/'.join([str(place), *folder])} has no class folders. {_LAYOUT}")
        if loose:
            notes.append(
                f"{len(loose)} image(s) outside the class folders are ignored, "
                f"for example {loose[0].name}."
            )
        grouped[split] = classes
    class_names = sorted(grouped["train"])
    class_names += sorted(
        {name for classes in grouped.values() for name in classes} - set(class_names)
    )
    splits = {
        split: _split(f"{place} ({split})", store, class_names, classes)
        for split, classes in grouped.items()
    }
    used = [p for classes in grouped.values() for images in classes.values() for p in images]
    problems = _class_problems(grouped, folders, place)
    return OpenedSource(
        tuple(class_names), splits, tuple(notes), tuple(problems), _fingerprint(used)
    )


def _split(
    where: str,
    store: ImageStore,
    class_names: Sequence[str],
    classes: Mapping[str, Sequence[ImageFile]],
) -> EncodedSplit:
    images = [image for name in class_names for image in classes.get(name, ())]
    counts = [len(classes.get(name, ())) for name in class_names]

    def fetch(row: int, limit: int) -> bytes:
        image = images[row]
        if image.size > _LARGEST_FILE:
            raise BadImage(f"a file of {image.size:,} bytes is too large for an image")
        return store.read(image, limit)

    return EncodedSplit(
        where,
        [image.name for image in images],
        np.repeat(np.arange(len(class_names), dtype=np.int32), counts),
        fetch,
        stored_bytes=sum(max(image.size, 0) for image in images),
    )


def _find_splits(tree: Tree, path: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The folder of every split; without splits, "train" is where the class folders lie."""
    base: tuple[str, ...] = ()
    children = tree.children(base)
    if len(children) == 1 and not _split_folders(children)["train"]:
        inner = tree.children((children[0],))
        if inner:
            base, children = (children[0],), inner
    by_split = _split_folders(children)
    found = {split: names[0] for split, names in by_split.items() if names}
    for split, names in by_split.items():
        if len(names) > 1:
            raise UserError(
                f"{path} has several folders for the {split} split: {', '.join(names)}. "
                "Keep or rename one of them."
            )
    if not found:
        return {"train": base}, []
    if "train" not in found:
        raise UserError(
            f"{path} has {', '.join(f'{name}/' for name in found.values())} but no train/. "
            f"{_LAYOUT}"
        )
    beside = [name for name in children if name not in found.values()]
    notes = [f"Folders beside {found['train']} are ignored: {listed(beside)}."] if beside else []
    return {split: (*base, name) for split, name in found.items()}, notes


def _split_folders(children: Iterable[str]) -> dict[str, list[str]]:
    """For every split, the folders that are named like it."""
    children = list(children)
    return {
        split: [name for name in children if name.lower() in words]
        for split, words in SPLIT_NAMES.items()
    }


def _group_by_class(
    tree: Tree, folder: tuple[str, ...]
) -> tuple[dict[str, list[ImageFile]], list[ImageFile]]:
    """The images of every class folder in `folder`, and those that lie outside of any."""
    depth = len(folder)
    classes: dict[str, list[ImageFile]] = {name: [] for name in tree.children(folder)}
    loose = []
    for image in tree.images:
        if image.parts[:depth] == folder:
            if len(image.parts) > depth + 1:
                classes[image.parts[depth]].append(image)
            else:
                loose.append(image)
    return classes, loose


def _class_problems(
    grouped: Mapping[str, Mapping[str, Sequence[ImageFile]]],
    folders: Mapping[str, tuple[str, ...]],
    path: Path,
) -> list[str]:
    """What is wrong with the classes, in sentences."""
    problems = []
    train = sorted(grouped["train"])
    for split, classes in grouped.items():
        place = "/".join([str(path), *folders[split]])
        empty = sorted(name for name, images in classes.items() if not images)
        if empty:
            problems.append(
                f"{place} has class folders without images: {listed(empty)}. Fill or remove "
                f"them. Files that count as images end in {', '.join(IMAGE_EXTENSIONS)}."
            )
        unknown = sorted(set(classes) - set(train))
        if unknown:
            problems.append(
                f"{place} has classes that train does not have: {listed(unknown)}. "
                f"The classes of train are {listed(train)}. Rename or remove these folders."
            )
    if len(train) < 2:
        problems.append(
            f"{path} has only one class, {train[0]!r}; a classifier needs at least two. {_LAYOUT}"
        )
    return problems


def _fingerprint(images: Iterable[ImageFile]) -> str:
    digest = hashlib.sha256()
    for image in sorted(images, key=lambda image: image.parts):
        digest.update(f"{image.name}\0{image.size}\0{image.stamp}\n".encode())
    return digest.hexdigest()
