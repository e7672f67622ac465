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
from jtl.data.sources import (
    items,
    label_lists,
    name_groups,
    other_labels,
    paired_masks,
    segmentations,
    split_lists,
    unread_labels,
)
from jtl.data.sources.class_folders import (
    Classes,
    Node,
    classes_in,
    enter,
    only_images,
)
from jtl.data.sources.names import SplitName, split_in
from jtl.data.sources.split_folders import (
    LAYOUT,
    Findings,
    by_class,
    labelled,
    split_folders,
    without_train,
)
from jtl.data.sources.stores import ImageFile, Tree
from jtl.data.splits import UNLABELLED, LeftOut

SPECIAL = "pipes, sockets and devices"
"""What is left out."""


class Layout(NamedTuple):
    """How a tree is read.

    Attributes:
        splits: The images of every class, by split.
        places: Where each split lies, for messages.
        labels_from: What the labels come from, in words.
        splits_from: The lists that divide the images, in words; empty where folders do.
        left_out: What is not used.
        notes: What a user should know, in sentences.
        read: Files besides the images that labels came from.
    """

    splits: dict[str, Classes]
    places: dict[str, str]
    labels_from: str
    splits_from: str
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]
    read: tuple[ImageFile, ...]


def understand(
    tree: Tree,
    place: Path,
    level: ClassLevel,
    lists: SplitLists,
    read: Callable[..., bytes],
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
    found = segmentations.find(tree)
    rest = segmentations.without(tree, found.masks)
    paired = paired_masks.find(rest.images, read)
    found = found._replace(masks=sorted([*found.masks, *paired]))
    if level != "top":
        if found.doubtful:
            raise UserError(
                f"{place}: {found.doubtful} If they are masks, move them elsewhere. If not, add "
                "--classes top, which takes all images in a class folder for images."
            )
        tree = segmentations.without(rest, paired)
    reader = _Reader(tree, place, level, lists, read)
    reader.note_masks(found)
    base = enter(Node.grown(tree), reader.findings.leave_out, in_split=False)
    splits = by_class(base, reader.findings) or split_folders(base, reader.findings)
    if splits is None:
        splits = {"train": labelled(base, reader.findings)}
    elif base.images:
        reader.findings.note_strays(base)
    return reader.layout(base, splits)


class _Reader:
    """Reads one tree, noting what it leaves out."""

    def __init__(
        self,
        tree: Tree,
        place: Path,
        level: ClassLevel,
        lists: SplitLists,
        read: Callable[..., bytes],
    ) -> None:
        self._tree, self._place, self._read = tree, place, read
        self._lists: SplitLists = lists
        self._level: ClassLevel = level
        self.findings = Findings(place, unread_labels.told(tree.others, place, read))
        self._used: list[ImageFile] = []
        self._splits_told = ""

    def note_masks(self, found: segmentations.Found) -> None:
        """Notes images that are masks of others, or look so."""
        masks, kept = found.masks, found.kept
        if self._level == "top":
            masks, kept = [], sorted([*masks, *kept])
        self.findings.leave_out("masks next to their images", *masks)
        if masks:
            self.findings.notes.append(
                f"{counted(len(masks), 'image')} left out as masks or parts of others, for example "
                f"{masks[0]}. To keep them: --classes top."
            )
        if kept:
            self.findings.notes.append(
                f"{counted(len(kept), 'image')} may be masks of others by their names, and are "
                f"kept as images, for example {kept[0]}. If they are masks, move them elsewhere."
            )

    def layout(self, base: Node, folders: Mapping[str, Node]) -> Layout:
        """The classes of every split."""
        findings = self.findings
        splits: dict[str, Classes] = {}
        places: dict[str, str] = {}
        level, labels_from = self._level, "the names of the folders"
        for split, folder in folders.items():
            places[split] = findings.path(folder)
            inside = folder.parts != base.parts
            node = enter(folder, findings.leave_out, in_split=inside)
            node = only_images(node, findings.leave_out)
            inner = node.with_images()
            alike = split_in(inner[0]) if len(inner) == 1 and node.parts != base.parts else None
            if (
                alike is not None
                and alike.split == split
                and inner[0] not in splits.get("train", ())
            ):
                node = node.children[inner[0]]  # Flat, as Kaggle's train/train/cat.0.jpg.
            if split == "train" and inside and node.images and not node.children:
                raise without_train(base, {folder.name: SplitName("train", True)}, findings)
            loose = node.images
            if split != "train" and loose and not node.with_images():
                labels = None
                if split == "val":
                    labels = label_lists.find(
                        self._lists_around(node, base),
                        loose, sorted(splits["train"]), self._read,
                    )  # fmt: skip
                if labels is not None:
                    splits[split] = labels.classes
                    self._used.append(labels.file)
                    findings.notes.append(
                        f"The labels of {split} are read from {labels.file.name}."
                    )
                    labels_from += f"; of {split}, {labels.file.name}"
                    continue
                if split == "test":
                    findings.notes.append(
                        f"{'/'.join(folder.parts)} has no class folders: it is not used for "
                        "testing."
                    )
                    findings.leave_out(UNLABELLED, *(f.name for f in loose))
                    continue
                raise UserError(
                    f"{places[split]} has no class folders, and no list next to it names a class "
                    f"of train for every image. {label_lists.way_out(loose)}{findings.labels_told}"
                )
            node = labelled(node, findings)
            found = classes_in(
                node,
                level,
                findings.path(node),
                splits.get("train"),
                findings.labels_told,
            )
            if not node.children or (split == "train" and not found.classes):
                raise UserError(
                    unread_labels.side_by_side(places[split], node.count, findings.labels_told)
                    + LAYOUT
                )
            level = found.level
            findings.notes += [note for note in found.notes if note not in findings.notes]
            for what, names in found.left_out.items():
                findings.leave_out(what, *names)
            if loose:
                findings.note_strays(node)
            splits[split] = found.classes
        if self._level == "auto":
            other_labels.refuse(
                self._tree.others, splits["train"], places["train"], self._read,
                findings.labels_told,
            )  # fmt: skip
        if set(splits) == {"train"} and self._lists == "read":
            alone = base.parts == folders["train"].parts
            if (divided := self._by_lists(splits["train"], expected=alone)) is not None:
                splits, places = divided, dict.fromkeys(divided, places["train"])
        pairs = {
            split: [(i, name) for name, images in classes.items() for i in images]
            for split, classes in splits.items()
        }
        findings.notes += filter(None, [name_groups.note(pairs)])
        if set(splits) == {"train"} and self._level == "auto":
            findings.notes += filter(None, [items.note(splits["train"], places["train"])])
        if self._tree.hidden:
            findings.leave_out("hidden and system files", *self._tree.hidden)
        findings.leave_out(SPECIAL, *(file.name for file in self._tree.special))
        self._other_files()
        left = tuple(LeftOut(what, tuple(names)) for what, names in findings.left.items() if names)
        notes, used = tuple(findings.notes), tuple(self._used)
        return Layout(splits, places, labels_from, self._splits_told, left, notes, used)

    def _lists_around(self, node: Node, base: Node) -> list[ImageFile]:
        """Files in a folder and in those around it, and beside the whole."""
        around = {node.parts[:depth] for depth in range(len(node.parts) + 1)} | {base.parts}
        return [file for file in self._tree.others if file.parts[:-1] in around]

    def _by_lists(self, classes: Classes, *, expected: bool) -> dict[str, Classes] | None:
        """The splits as lists beside the folders have them."""
        images = [image for same in classes.values() for image in same]
        known = {image.parts for image in images}
        found = split_lists.find(
            [*self._tree.others, *self._tree.special], images, str(self._place), self._read,
            expected=expected, elsewhere=(i for i in self._tree.images if i.parts not in known),
        )  # fmt: skip
        if found is None:
            return None
        self._used += found.files
        self.findings.notes += found.notes
        self._splits_told = found.told
        splits, lost = split_lists.divide(found, classes)
        self.findings.leave_out("images in no list of a split", *lost)
        return splits

    def _other_files(self) -> None:
        used = {file.name for file in self._used}
        others = (file for file in self._tree.others if file.name not in used)
        kinds = unread_labels.by_kind(others, self._read)
        if names := [name for same in kinds.values() for name in same]:
            told = (
                f"{listed(same, 3)} ({kind})" if " of " in kind else listed(same)
                for kind, same in kinds.items()
            )
            self.findings.notes.append(
                f"Labels come from the folders; {'; '.join(told)} next to them "
                f"{'is' if len(names) == 1 else 'are'} not read."
            )
        if any(name.lower().endswith((".xls", ".xlsx")) for name in names):
            self.findings.notes.append(
                "jtl does not read Excel workbooks. If they give the images other labels, the "
                "folders may be places or patients: save them as CSV, and jtl compares."
            )
        if packed := unread_labels.archives(self._tree.others):
            self.findings.notes.append(
                f"Archives are not read: {listed(packed)}. Unpack them if they hold images of a "
                "class."
            )
        for kind, same in kinds.items():
            self.findings.leave_out(kind, *same)
        rest = {f.name: None for f in self._tree.others}.keys() - used - {*names}
        self.findings.leave_out("files that are no images", *sorted(rest))
