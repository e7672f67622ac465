"""The splits that the folders of images say, where the folders say no classes.

Labels are in names or in a table then. The rule is that of folders with classes: a name counts that
says nothing else (`training_set`), and where folders side by side say train and another split also
one that says more (`testA`, `dogs_vs_cats_train`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.data.sources.names import split_in

_SPLITS = ("train", "val", "test")

Folder = tuple[str, ...]


class FolderSplits(NamedTuple):
    """What folders say.

    Attributes:
        of: The split of a folder and of all in it; "unlabelled" where images have no labels.
        beside: Folders beside those of train and another split, which are of none.
        within: Folders that hold those of train and another split.
        several: (folder, split, names of the folders in it that all say this split).
    """

    of: dict[Folder, str]
    beside: set[Folder]
    within: set[Folder]
    several: list[tuple[Folder, str, list[str]]]

    def split_of(self, parts: Folder) -> str | None:
        """The split of an image by its path; None where no folder says one."""
        above = (parts[:depth] for depth in range(1, len(parts)))
        return next((self.of[folder] for folder in above if folder in self.of), None)

    def is_beside(self, parts: Folder) -> bool:
        """Whether an image lies beside the folders of train and another split."""
        above = (parts[:depth] for depth in range(1, len(parts)))
        return parts[:-1] in self.within or any(folder in self.beside for folder in above)

    def refuse_several(self, where: object) -> None:
        """Raises `UserError` if several folders side by side say the same split.

        Args:
            where: What messages call the images' place.
        """
        for parent, split, names in self.several:
            folder = "/".join([str(where), *parent])
            raise UserError(
                f"{folder} has several folders for the {split} split: {', '.join(names)}. Keep or "
                "rename one of them."
            )


def folder_splits(images: Iterable[Folder]) -> FolderSplits:
    """The splits that folders of images are called after.

    Args:
        images: The parts of the images' paths.
    """
    children: dict[Folder, set[str]] = {}
    for folder in {parts[:-1] for parts in images}:
        for depth in range(len(folder)):
            children.setdefault(folder[:depth], set()).add(folder[depth])
    found = FolderSplits({}, set(), set(), [])
    for parent in sorted(children, key=len):
        if not any(parent[:depth] in found.of for depth in range(1, len(parent) + 1)):
            _add(found, parent, sorted(children[parent]))
    return found


def _add(found: FolderSplits, parent: Folder, names: list[str]) -> None:
    said = {name: split for name in names if (split := split_in(name)) is not None}
    splits = {split.split for split in said.values()} & {*_SPLITS}
    plain = any(split.sure and split.split in _SPLITS for split in said.values())
    together = "train" in splits and len(splits) > 1 and (plain or len(said) == len(names))
    counted = {n: split.split for n, split in said.items() if split.sure or together}
    found.of.update({(*parent, name): split for name, split in counted.items()})
    if together:
        for split in _SPLITS:
            same = [name for name, one in counted.items() if one == split]
            if len(same) > 1:
                found.several.append((parent, split, same))
        found.within.add(parent)
        found.beside.update((*parent, name) for name in names if name not in counted)


def named(folders: Iterable[Folder]) -> str:
    """Folders, for people."""
    return listed(sorted("/".join(folder) for folder in folders))
