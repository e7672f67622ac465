"""What a tree of folders means: its splits, its classes, and what is left out.

The one place that reads meaning into folders. What can be read in two ways is refused, with what
was seen and how to say which is meant; it is never chosen in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.config.data import ClassLevel, SplitLists
from jtl.data.sources import label_lists, segmentations, split_lists, unread_labels
from jtl.data.sources.class_folders import (
    STRAYS,
    Classes,
    Node,
    classes_in,
    enter,
    only_images,
)
from jtl.data.sources.names import SplitName, is_annotation, is_container, split_in
from jtl.data.sources.stores import ImageFile, Tree
from jtl.data.splits import LeftOut

LAYOUT = (
    "Expected train/CLASS/IMAGE with optional val/ and test/ next to train/, "
    "or CLASS/IMAGE without splits (both may be inside one extra folder)."
)
_AS_CLASSES = "If these are classes, put all class folders into one folder called train/."
_UNLABELLED = SplitName("unlabelled", True)


class Layout(NamedTuple):
    """How a tree is read.

    Attributes:
        splits: The images of every class, by split.
        places: Where each split lies, for messages.
        labels_from: What the labels come from, in words.
        left_out: What is not used.
        notes: What a user should know, in sentences.
        read: Files besides the images that labels came from.
    """

    splits: dict[str, Classes]
    places: dict[str, str]
    labels_from: str
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    read: tuple[ImageFile, ...]


def understand(
    tree: Tree,
    place: Path,
    level: ClassLevel,
    lists: SplitLists,
    read: Callable[[ImageFile], bytes],
) -> Layout:
    """Finds splits and classes in a tree.

    Args:
        tree: What there is.
        place: Where, for messages.
        level: Which folders are classes, where they lie in one another.
        lists: Whether lists of splits are read.
        read: What gives the contents of a file, for lists.

    Raises:
        UserError: There are no classes, or it is doubtful which they are.
    """
    tree, masks = segmentations.without(tree)
    reader = _Reader(tree, place, level, lists, read)
    reader.leave_out_masks(masks)
    base = enter(Node.grown(tree), reader.leave_out, in_split=False)
    splits = reader.by_class(base) or reader.split_folders(base)
    if splits is None:
        splits = {"train": reader.labelled(base)}
    elif base.images:
        reader.note_strays(base)
    return reader.layout(base, splits)


class _Reader:
    """Reads one tree, noting what it leaves out."""

    def __init__(
        self,
        tree: Tree,
        place: Path,
        level: ClassLevel,
        lists: SplitLists,
        read: Callable[[ImageFile], bytes],
    ) -> None:
        self._tree, self._place, self._read = tree, place, read
        self._lists: SplitLists = lists
        self._level: ClassLevel = level
        self._left: dict[str, list[str]] = {}
        self._notes: list[str] = []
        self._used: list[ImageFile] = []
        self._labels_told = unread_labels.told(tree.others)

    def leave_out(self, what: str, *names: str) -> None:
        """Notes files or folders that are not used, by what they are."""
        self._left.setdefault(what, []).extend(names)

    def leave_out_masks(self, masks: list[str]) -> None:
        """Notes images that are masks of others."""
        self.leave_out("masks beside their images", *masks)
        if masks:
            count = counted(len(masks), "image")
            self._notes.append(f"{count} left out as masks of others, for example {masks[0]}.")

    def note_strays(self, node: Node) -> None:
        """Notes images beside folders of classes or splits."""
        self._notes.append(
            f"{counted(len(node.images), 'image')} outside the class folders ignored, "
            f"for example {node.images[0].name}."
        )
        self.leave_out(STRAYS, *(image.name for image in node.images))

    def path(self, node: Node) -> str:
        """Where a folder lies."""
        return "/".join([str(self._place), *node.parts])

    def split_folders(self, base: Node) -> dict[str, Node] | None:
        """The folder of every split, or None where the folders are classes."""
        named = {name: found for name in base.children if (found := split_in(name))}
        for name, found in list(named.items()):
            if found.split == "unlabelled":
                del named[name]
        # Of folders without images only a name that says nothing else counts.
        named = {n: s for n, s in named.items() if s.sure or base.children[n].count}
        if not named:
            return None
        trains = [
            n for n, s in named.items() if s.split == "train" and base.children[n].holds_folders
        ]
        if not trains:
            if self._are_classes(base, named):
                self._notes.append(
                    f"{listed(named)} is taken for a class, as the folders beside it hold images "
                    "like it."
                )
                return None
            raise self._without_train(base, named)
        others = [n for n in base.with_images() if n not in named]
        plain = [n for n in others if not is_annotation(n) and not split_in(n)]
        if plain and all(s.split == "train" for s in named.values()) and not named[trains[0]].sure:
            return None  # `freight_train` among other classes that have sub-folders.
        if len(named) == 1 and plain:
            raise UserError(
                f"{self._place} has {trains[0]}/ and beside it {listed(plain)}, with images: it is "
                f"not clear whether {trains[0]} is a split or a class. {_AS_CLASSES} Else move "
                "what is not for training elsewhere."
            )
        return self._chosen(base, named, others)

    def labelled(self, base: Node) -> Node:
        """The folder without those that are named as having no labels."""
        unlabelled = [n for n in base.with_images() if (s := split_in(n)) and s == _UNLABELLED]
        if not unlabelled:
            return base
        self._notes.append(f"{listed(unlabelled)} is taken for images without labels, not a class.")
        for name in unlabelled:
            self.leave_out("images without labels", *base.children[name].files())
        kept = {name: child for name, child in base.children.items() if name not in unlabelled}
        return Node(base.parts, base.images, base.others, kept)

    def _chosen(
        self, base: Node, named: Mapping[str, SplitName], others: list[str]
    ) -> dict[str, Node]:
        by_split: dict[str, list[str]] = {}
        for name, found in named.items():
            # Such as `stress_test`, with images but no classes in it.
            flat = not base.children[name].holds_folders
            if not found.sure and flat and any(s.sure for s in named.values()):
                others.append(name)
                continue
            by_split.setdefault(found.split, []).append(name)
        for split, names in by_split.items():
            if len(names) > 1:
                raise UserError(
                    f"{self._place} has several folders for the {split} split: "
                    f"{', '.join(sorted(names))}. Keep or rename one of them."
                )
        if others:
            train = by_split["train"][0]
            self._notes.append(f"Folders beside {train} are ignored: {listed(sorted(others))}.")
            for name in sorted(others):
                self.leave_out("images in folders beside the splits", *base.children[name].files())
        order = [split for split in ("train", "val", "test") if split in by_split]
        return {split: base.children[by_split[split][0]] for split in order}

    def _are_classes(self, base: Node, named: Mapping[str, SplitName]) -> bool:
        """Whether folders named like a split are classes: alike the others around them."""
        held = base.with_images()
        others = [n for n in held if n not in named]
        if any(is_container(n) or is_annotation(n) or split_in(n) for n in others):
            return False
        alike = all(base.children[n].images for n in held) and set(named) <= set(held)
        splits = {s.split for s in named.values()}
        if not alike or not others or len(splits) > 1:
            return False
        if not any(s.sure for s in named.values()):
            return True
        return splits == {"val"} or (splits == {"train"} and len(others) > 1)

    def _without_train(self, base: Node, named: Mapping[str, SplitName]) -> UserError:
        train = [n for n, s in named.items() if s.split == "train"]
        ordered = sorted(named, key=lambda name: ("train", "val", "test").index(named[name].split))
        told = ", ".join(f"{name}/" for name in ordered)
        if not train:
            first = self.path(base.children[ordered[0]])
            return UserError(
                f"{self._place} has {told} but no train/. {LAYOUT} To score a model on one of "
                f"them: jtl.evaluate RUN --data folder:{first}. {_AS_CLASSES}"
            )
        node = base.children[train[0]]
        classes = f" {_AS_CLASSES}" if len(base.with_images()) > 1 else ""
        return UserError(
            f"{self.path(node)} has no class folders: its {counted(node.count, 'image')} lie side "
            f"by side. {self._labels_told}Put the images of each class into a folder named after "
            f"the class. {LAYOUT}{classes}"
        )

    def by_class(self, base: Node) -> dict[str, Node] | None:
        """The splits where they lie in the class folders: `ants/train/`, `ants/test/`, ..."""
        held = [base.children[n] for n in base.with_images()]
        if len(held) < 2 or any(not node.nested for node in held):
            return None
        names = sorted({name for node in held for name in node.with_images()})
        found = {name: split_in(name) for name in names}
        if not all(s is not None and s.sure for s in found.values()):
            return None
        splits = [s.split for s in found.values() if s is not None]
        if "train" not in splits or any(split_in(node.name) for node in held):
            return None
        if any(node.children[n].with_images() for node in held for n in node.with_images()):
            raise UserError(
                f"{self._place} has several data sets, each with splits of its own: "
                f"{listed(node.name for node in held)}. Give one of them: "
                f"folder:{self.path(held[0])}"
            )
        if len(set(splits)) < len(splits):
            raise UserError(
                f"{self._place} has several names for one split: {listed(sorted(names))}."
            )
        turned = {}
        for name, kind in found.items():
            if kind is None or kind.split == "unlabelled":
                files = (f for n in held if name in n.children for f in n.children[name].files())
                self.leave_out("images without labels", *files)
                continue
            parts = {n.name: n.children[name] for n in held if name in n.children}
            turned[kind.split] = Node(base.parts, [], [], parts)
        self._notes.append("The splits lie within the class folders.")
        return {split: turned[split] for split in ("train", "val", "test") if split in turned}

    def layout(self, base: Node, folders: Mapping[str, Node]) -> Layout:
        """The classes of every split."""
        splits: dict[str, Classes] = {}
        places: dict[str, str] = {}
        level, labels_from = self._level, "the names of the folders"
        for split, folder in folders.items():
            places[split] = self.path(folder)
            inside = folder.parts != base.parts
            node = enter(folder, self.leave_out, in_split=inside)
            node = only_images(node, self.leave_out)
            inner = node.with_images()
            alike = split_in(inner[0]) if len(inner) == 1 and node.parts != base.parts else None
            if (
                alike is not None
                and alike.split == split
                and inner[0] not in splits.get("train", ())
            ):
                node = node.children[inner[0]]  # Flat, as Kaggle's train/train/cat.0.jpg.
            if split == "train" and inside and node.images and not node.children:
                raise self._without_train(base, {folder.name: SplitName("train", True)})
            loose = node.images
            if split != "train" and loose and not node.with_images():
                labels = None
                if split == "val":
                    labels = label_lists.find(
                        [f for n in (node, folder, base) for f in n.others],
                        loose, sorted(splits["train"]), self._read,
                    )  # fmt: skip
                if labels is not None:
                    splits[split] = labels.classes
                    self._used.append(labels.file)
                    self._notes.append(f"The labels of {split} are read from {labels.file.name}.")
                    labels_from += f"; of {split}, {labels.file.name}"
                    continue
                if split == "test":
                    self._notes.append(
                        f"{'/'.join(folder.parts)} has no class folders: it is not used for "
                        "testing."
                    )
                    self.leave_out("images without labels", *(f.name for f in loose))
                    continue
                raise UserError(
                    f"{places[split]} has no class folders, and no list beside it names a class "
                    f"of train for every image. {label_lists.way_out(loose)}{self._labels_told}"
                )
            found = classes_in(node, level, self.path(node), splits.get("train"), self._labels_told)
            if not node.children or (split == "train" and not found.classes):
                raise UserError(
                    f"{places[split]} has no class folders. {self._labels_told}{LAYOUT}"
                )
            level = found.level
            self._notes += [note for note in found.notes if note not in self._notes]
            for what, names in found.left_out.items():
                self.leave_out(what, *names)
            if loose:
                self.note_strays(node)
            splits[split] = found.classes
        if set(splits) == {"train"} and self._lists == "read":
            alone = base.parts == folders["train"].parts
            if (divided := self._by_lists(splits["train"], expected=alone)) is not None:
                splits, places = divided, dict.fromkeys(divided, places["train"])
                labels_from += f"; splits from {listed(f.name for f in self._used)}"
        if self._tree.hidden:
            self.leave_out("hidden and system files", *self._tree.hidden)
        self._other_files()
        left = tuple(LeftOut(what, tuple(names)) for what, names in self._left.items() if names)
        return Layout(splits, places, labels_from, left, tuple(self._notes), tuple(self._used))

    def _by_lists(self, classes: Classes, *, expected: bool) -> dict[str, Classes] | None:
        """The splits as lists beside the folders have them."""
        images = [image for same in classes.values() for image in same]
        found = split_lists.find(
            self._tree.others, images, str(self._place), self._read, expected=expected
        )
        if found is None:
            return None
        self._used += found.files
        splits, lost = split_lists.divide(found, classes)
        self.leave_out("images in no list of a split", *lost)
        return splits

    def _other_files(self) -> None:
        used = {file.name for file in self._used}
        kinds = unread_labels.by_kind(f for f in self._tree.others if f.name not in used)
        if names := [name for same in kinds.values() for name in same]:
            self._notes.append(
                f"Labels come from the folders; {listed(names)} beside them "
                f"{'is' if len(names) == 1 else 'are'} not read."
            )
        for kind, same in kinds.items():
            self.leave_out(kind, *same)
        rest = {f.name: None for f in self._tree.others}.keys() - used - {*names}
        self.leave_out("files that are no images", *sorted(rest))
