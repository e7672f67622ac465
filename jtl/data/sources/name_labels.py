"""Labels in the names of image files, such as `cat.0.jpg`, or in those of their folders."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.config.data import SplitLists
from jtl.data.sources import segmentations, split_lists
from jtl.data.sources.name_rules import REGEX, rule_of
from jtl.data.sources.names import is_annotation, sure_split
from jtl.data.sources.path_splits import folder_splits, named
from jtl.data.sources.stores import ImageFile, ImageStore, Tree
from jtl.data.sources.table_rows import Rows
from jtl.data.sources.tables import open_rows
from jtl.data.splits import UNLABELLED, LeftOut, OpenedSource

_NAMED = 5
_LIKE_IDS, _NEARLY_ALL = 0.5, 0.95
"""From which share of labels among images names look like identifiers, and how many must match."""


def open_by_names(
    tree: Tree, place: Path, store: ImageStore, text: str, lists: SplitLists
) -> OpenedSource:
    """Opens images whose labels are in their names.

    Args:
        tree: What there is; folders called like splits are splits, all others do not count.
        place: Where, for messages.
        store: What reads it.
        text: As of `rule_of`.
        lists: Whether lists of splits are read.

    Raises:
        UserError: The rule cannot be used, or names do not follow it.
    """
    rule = rule_of(text)
    notes: list[str] = []
    left: dict[str, list[str]] = {"hidden and system files": list(tree.hidden)}
    images = _without_annotations(tree, left)
    if not images:
        raise UserError(f"{place} holds no images.")
    folders = folder_splits(image.parts for image in images)
    folders.refuse_several(place)
    if beside := [image for image in images if folders.is_beside(image.parts)]:
        left["images in folders next to the splits"] = [image.name for image in beside]
        others = f": {named(folders.beside)}" if folders.beside else ""
        notes.append(
            f"{counted(len(beside), 'image')} next to the folders of splits ignored{others}."
        )
        images = [image for image in images if not folders.is_beside(image.parts)]
    splits = {image.name: folders.split_of(image.parts) or "train" for image in images}
    found = None
    if {*splits.values()} == {"train"} and lists == "read":
        found = split_lists.find(
            [*tree.others, *tree.special], images, str(place), store.read, expected=True
        )
    if found is not None:
        notes += found.notes
        splits = {name: found.split_of.get(name, found.rest) for name in splits}
        left["images in no list of a split"] = [n for n, split in splits.items() if split is None]
    left[UNLABELLED] = [n for n, split in splits.items() if split == "unlabelled"]
    images = [image for image in images if splits[image.name] in ("train", "val", "test")]
    labels = [rule.label_of(image) for image in images]
    tests = [label for label, i in zip(labels, images, strict=True) if splits[i.name] == "test"]
    if tests and not any(tests):
        notes.append(f"No test image has a label in its name by --label-from {text}: not used.")
        left[UNLABELLED] += [i.name for i in images if splits[i.name] == "test"]
        images = [image for image in images if splits[image.name] != "test"]
        labels = [rule.label_of(image) for image in images]
    found_labels = _all_labels(images, labels, text, place)
    rows = Rows(
        images,
        found_labels,
        [splits[image.name] or "" for image in images],
        [],
        place.name,
        range(1, len(images) + 1),
        rule.told,
        "" if found is None else found.told,
        store,
        (),
    )
    opened = open_rows(str(place), {"": rows}, notes)
    left_out = tuple(LeftOut(what, tuple(names)) for what, names in left.items() if names)
    return dataclasses.replace(opened, left_out=left_out)


def _without_annotations(tree: Tree, left: dict[str, list[str]]) -> list[ImageFile]:
    masks = {*segmentations.find(tree).masks}
    images = []
    for image in tree.images:
        if image.name in masks or any(map(is_annotation, image.parts[:-1])):
            left.setdefault("masks and annotations", []).append(image.name)
        else:
            images.append(image)
    return images


def _all_labels(
    images: Sequence[ImageFile], labels: Sequence[str | None], text: str, place: Path
) -> list[str]:
    pairs = list(zip(images, labels, strict=True))
    lost = [image.name for image, label in pairs if label is None]
    empty = [image.name for image, label in pairs if label is not None and not label.strip()]
    good = [f"{image.name} = {label}" for image, label in pairs if label and label.strip()]
    for names, why in ((lost, "have no label in their names"), (empty, "have an empty label")):
        if names:
            others = f" Others have one, such as {listed(good[:3])}." if good else ""
            raise UserError(
                f"{len(names):,} of {counted(len(images), 'image')} of {place} {why} by "
                f"--label-from {text}: {listed(names, _NAMED)}.{others} Change the rule, or move "
                "these images elsewhere."
            )
    named = [label.strip() for label in labels if label]
    if not text.startswith(REGEX) and len(named) > 20 and len({*named}) > _LIKE_IDS * len(named):
        raise UserError(
            f"--label-from {text} gives {len({*named}):,} labels for {len(named):,} images of "
            f"{place}, such as {listed(good[:3])}: these may be no classes. Say with a regular "
            "expression what is the label: --label-from 'regex:^(?P<label>[a-z]+)_'"
        )
    return named


def way_out(images: Iterable[ImageFile], place: Path) -> str:
    """A sentence for who has no class folders, where images are called after classes."""
    images = list(images)
    folders = folder_splits(image.parts for image in images)
    trained = [i for i in images if (folders.split_of(i.parts) or "train") == "train"]
    rule = rule_of("name")
    labels = {image.name: label for image in trained if (label := rule.label_of(image))}
    classes = {*labels.values()}
    if len(labels) < _NEARLY_ALL * len(trained) or not 1 < len(classes) <= _LIKE_IDS * len(labels):
        return ""
    if all(map(sure_split, classes)):
        return ""  # `train0.jpg` and `test0.jpg`.
    shown = [f"{Path(name).name} = {label}" for name, label in labels.items()]
    step = max(1, len(shown) // _NAMED)
    return (
        f"If the images are called after their classes ({listed(shown[::step][:_NAMED])}; "
        f"{len(classes):,} classes): jtl train --data {place} --label-from name"
    )
