"""Folders of images, one folder per class, on disk or inside an archive."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from jtl.common.errors import UserError
from jtl.common.paths import cache_dir
from jtl.common.text import listed
from jtl.config.data import ClassLevel, SplitLists
from jtl.data.class_names import alike_classes, copied_classes
from jtl.data.sources import class_titles, unread_labels
from jtl.data.sources.archives import open_store
from jtl.data.sources.class_folders import Classes
from jtl.data.sources.encoded import EncodedSplit, split_of_files
from jtl.data.sources.in_memory import FOLDER
from jtl.data.sources.layout import SPECIAL, Layout, understand
from jtl.data.sources.metadata_tables import by_metadata
from jtl.data.sources.name_labels import open_by_names, way_out
from jtl.data.sources.split_folders import LAYOUT
from jtl.data.sources.stores import ImageFile, ImageStore, Tree
from jtl.data.splits import LeftOut, OpenedSource, TrainingProblem


def load_folder(
    path: str,
    classes: ClassLevel = "auto",
    split_lists: SplitLists = "read",
    label_from: str | None = None,
) -> OpenedSource:
    """Find the class folders of a directory or an archive; opens no image.

    Args:
        path: The directory, or the zip or tar archive.
        classes: Which folders are classes, where they lie in one another.
        split_lists: Whether lists of splits beside the class folders are read.
        label_from: Where labels come from instead; see `jtl.data.sources.name_rules.rule_of`.

    Returns:
        What there is. The classes are the sorted class folders of train, then those of val and
        test that train does not have (a problem). Too few classes and classes without training
        images are problems as well.

    Raises:
        UserError: If the path cannot be read, does not hold class folders, or could be read in
            several ways.
    """
    place = Path(os.path.expanduser(path))
    store = open_store(place)
    tree = store.tree()
    if label_from is not None:
        if classes != "auto":
            raise UserError("--classes and --label-from both say the labels: leave one out.")
        return open_by_names(tree, place, store, label_from, split_lists)
    parquet = [file.name for file in tree.others if file.name.lower().endswith(".parquet")]
    if parquet and not tree.images:
        raise UserError(
            f"{place} holds no images, but {listed(parquet, 3)}. To read the Parquet files: "
            f"parquet:{place}"
        )
    archives = unread_labels.archives(tree.others)
    if archives and not tree.images:
        raise UserError(
            f"{place} holds no images, but archives: {listed(archives, 3)}. Unpack them, and put "
            f"the images of each class into a folder named after the class. {LAYOUT}"
        )
    given, by_names = place.parent == cache_dir() / FOLDER, ""
    if given:
        layout = _as_given(tree, place)
    else:
        try:
            layout = understand(tree, place, classes, split_lists, store.read)
        except UserError as error:
            if (found := by_metadata(tree, place, store)) is not None:
                return found
            if "has no class folders" in str(error) and (told := way_out(tree.images, place)):
                raise UserError(f"{error} {told}") from error
            raise
        if len(layout.splits["train"]) < 2:
            if (found := by_metadata(tree, place, store)) is not None:
                return found
            by_names = way_out(tree.images, place)
    problems = _class_problems(layout, place, by_names)
    if classes != "top" and not given:
        copies = copied_classes(layout.places["train"], sorted(layout.splits["train"]))
        problems += map(TrainingProblem, copies)
    grouped = layout.splits
    class_names = sorted(grouped["train"])
    class_names += sorted(
        {name for classes in grouped.values() for name in classes} - set(class_names)
    )
    splits = {
        split: _split(f"{place} ({split})", store, class_names, classes)
        for split, classes in grouped.items()
    }
    titles = class_titles.find(class_names, tree.others, store.read, place)
    used = [p for classes in grouped.values() for images in classes.values() for p in images]
    return OpenedSource(
        tuple(class_names),
        splits,
        layout.notes,
        tuple(problems),
        _fingerprint([*used, *layout.read]),
        layout.labels_from + titles.told,
        titles.without_file(layout.left_out),
        layout.splits_from,
        titles=titles.names,
    )


def _as_given(tree: Tree, place: Path) -> Layout:
    """The images that a program gave, [SPLIT/]CLASS/IMAGE: no name means more than it says.

    Raises:
        UserError: None of them is for training.
    """
    splits: dict[str, Classes] = {}
    for image in sorted(tree.images, key=lambda image: image.parts):
        *split, name, _ = image.parts
        splits.setdefault(split[0] if split else "train", {}).setdefault(name, []).append(image)
    if "train" not in splits:
        raise UserError("data has no images for training: give some with the split train.")
    splits = {split: splits[split] for split in ("train", "val", "test") if split in splits}
    rest = {
        "hidden and system files": tree.hidden,
        "files that are no images": [file.name for file in tree.others],
        SPECIAL: [file.name for file in tree.special],
    }
    left = tuple(LeftOut(what, tuple(names)) for what, names in rest.items() if names)
    places = dict.fromkeys(splits, str(place))
    return Layout(splits, places, "the names of the folders", "", left, (), ())


def _split(
    where: str,
    store: ImageStore,
    class_names: Sequence[str],
    classes: Mapping[str, Sequence[ImageFile]],
) -> EncodedSplit:
    images = [image for name in class_names for image in classes.get(name, ())]
    counts = [len(classes.get(name, ())) for name in class_names]
    labels = np.repeat(np.arange(len(class_names), dtype=np.int32), counts)
    return split_of_files(where, images, labels, store)


def _class_problems(layout: Layout, path: Path, by_names: str) -> list[str]:
    """What is wrong with the classes, in sentences; `by_names` is that names may say them."""
    train = sorted(layout.splits["train"])
    problems = alike_classes(layout.places["train"], train)
    empty = sorted(name for name, images in layout.splits["train"].items() if not images)
    if empty:
        problems.append(
            TrainingProblem(
                f"{layout.places['train']} has class folders without images: {listed(empty)}. "
                f"{_held_instead(layout, empty)}Fill or remove them."
            )
        )
    for split, classes in layout.splits.items():
        unknown = sorted(set(classes) - set(train))
        if unknown:
            todo = "Rename or remove these folders."
            if len(train) > 1 and len(unknown) == len(classes) > 1:
                todo = (
                    f"None of its classes is one of train, as in data for re-identification or for "
                    f"few-shot learning; a classifier knows no others. To train on the classes of "
                    f"train alone, and hold out some of their images: "
                    f"--data folder:{layout.places['train']}"
                )
            if len(train) < 2:
                todo = "With one class to train on, as for finding anomalies, jtl trains nothing."
            problems.append(
                f"{layout.places[split]} has classes that train does not have: {listed(unknown)}. "
                f"The classes of train are {listed(train)}. {todo}"
            )
    if len(train) < 2:
        problems.append(
            TrainingProblem(
                f"{path} has only one class, {train[0]!r}; a classifier needs at least two. "
                f"{LAYOUT} {by_names}".rstrip()
            )
        )
    return problems


def _held_instead(layout: Layout, empty: Sequence[str]) -> str:
    """A sentence about what class folders without images hold."""
    names = [
        name
        for left in layout.left_out
        for name in left.names
        if {*name.split("/")[:-1]} & {*empty}
    ]
    if not names:
        return ""
    return f"They hold other files, such as {listed(names, 2)}: jtl reads images. "


def _fingerprint(images: Iterable[ImageFile]) -> str:
    digest = hashlib.sha256()
    for image in sorted(images, key=lambda image: image.parts):
        digest.update(f"{image.name}\0{image.size}\0{image.stamp}\n".encode())
    return digest.hexdigest()
