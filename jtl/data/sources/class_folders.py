"""Which folders are classes, where folders lie in one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.config.data import ClassLevel
from jtl.data.sources import views
from jtl.data.sources.names import (
    ends_in_annotation,
    is_annotation,
    is_container,
    is_no_class,
    is_of_lists,
    sure_split,
)
from jtl.data.sources.part_names import are_versions, numbered_parts
from jtl.data.sources.stores import ImageFile, Tree

Classes = dict[str, list[ImageFile]]
"""The images of every class."""

EMPTY = "folders without images"
STRAYS = "images outside the class folders"
"""What is left out."""
_STRAY = 0.1
"""Of a folder's images: so many outside its sub-folders do not make it a class."""
_SHOWN = 5


@dataclasses.dataclass
class Node:
    """A folder.

    Attributes:
        parts: Its path.
        images: That are directly in it.
        others: Files that are no images, directly in it or in a folder left out.
        children: The folders in it by name, sorted.
    """

    parts: tuple[str, ...]
    images: list[ImageFile]
    others: list[ImageFile]
    children: dict[str, Node]
    _count: int | None = None

    @classmethod
    def grown(cls, tree: Tree) -> Node:
        """The root of a tree."""
        nodes = {parts: cls(parts, [], [], {}) for parts in sorted({(), *tree.folders})}
        for parts, node in nodes.items():
            if parts:
                nodes[parts[:-1]].children[parts[-1]] = node
        for image in tree.images:
            nodes[image.parts[:-1]].images.append(image)
        for file in tree.others:
            above = file.parts[:-1]
            while above not in nodes:  # Of masks that are left out, with their folder.
                above = above[:-1]
            nodes[above].others.append(file)
        return nodes[()]

    @property
    def name(self) -> str:
        return self.parts[-1] if self.parts else ""

    @property
    def count(self) -> int:
        """Images in it and below."""
        if self._count is None:
            below = sum(child.count for child in self.children.values())
            self._count = len(self.images) + below
        return self._count

    @property
    def nested(self) -> bool:
        """Whether its images lie in sub-folders, but for a few strays."""
        folders = len(self.with_images())
        if not self.images:
            return folders > 0
        return folders > 1 and len(self.images) < _STRAY * self.count

    @property
    def holds_folders(self) -> bool:
        """Whether most of its images lie in sub-folders."""
        return bool(self.with_images()) and 2 * len(self.images) < self.count

    def with_images(self) -> list[str]:
        """The names of the sub-folders that hold images, at any depth."""
        return [name for name, child in self.children.items() if child.count]

    def all_images(self) -> list[ImageFile]:
        """Its images and those below, sorted by path."""
        return sorted(self._below(), key=lambda image: image.parts)

    def _below(self) -> Iterator[ImageFile]:
        yield from self.images
        for child in self.children.values():
            yield from child._below()

    def walk(self) -> Iterator[Node]:
        """The folder itself and all below."""
        yield self
        for child in self.children.values():
            yield from child.walk()

    def files(self) -> list[str]:
        """The names of all images in it."""
        return [image.name for image in self.all_images()]

    def leaves(self) -> Iterator[Node]:
        """The deepest folders that hold images, `ants/images` standing for `ants`."""
        inner = [self.children[name] for name in self.with_images()]
        if not inner or all(is_container(n.name) and not n.nested for n in inner):
            yield self
            return
        for node in inner:
            yield from node.leaves()


class ClassFolders(NamedTuple):
    """The classes in a folder.

    `classes` may have empty ones; `left_out` is {what it is: names}.
    """

    classes: Classes
    level: ClassLevel
    notes: list[str]
    left_out: dict[str, list[str]]


def enter(node: Node, leave_out: Callable[..., None], *, in_split: bool) -> Node:
    """Goes down through folders that only enclose others, as most archives have one.

    Args:
        node: Where to begin.
        leave_out: Told what lies beside the way.
        in_split: Whether a split is entered; else a folder named like one is not.
    """
    while True:
        held = node.with_images()
        if len(held) != 1 or not node.holds_folders or not node.children[held[0]].holds_folders:
            return node
        split = None if in_split else sure_split(held[0])
        if split not in (None, "unlabelled") and not _holds_splits(node.children[held[0]]):
            return node
        leave_out(STRAYS, *(image.name for image in node.images))
        beside = (child for name, child in node.children.items() if name != held[0])
        leave_out(EMPTY, *("/".join(child.parts) for child in beside))
        node = node.children[held[0]]


def _holds_splits(node: Node) -> bool:
    """Whether all folders in one are splits, so that it only encloses them, whatever its name."""
    splits = {sure_split(name) for name in node.with_images()}
    return len(splits) > 1 and "train" in splits and None not in splits


def only_images(node: Node, leave_out: Callable[..., None]) -> Node:
    """Leaves out folders of masks and other annotations, where a folder of images is beside them.

    Goes down into that folder if it is the only one left.
    """
    held = node.with_images()
    if any(is_container(name) for name in held):
        beside = [name for name in held if not is_container(name)]
        # `white label` beside `photos` and `paintings` is a class.
        test = ends_in_annotation if all(map(ends_in_annotation, beside)) else is_annotation
        notes = [name for name in held if test(name)]
        if notes:
            for name in notes:
                leave_out("annotations", *node.children[name].files())
            kept = {n: c for n, c in node.children.items() if n not in notes}
            node = Node(node.parts, node.images, node.others, kept)
            held = node.with_images()
    if not node.images and len(held) == 1 and is_container(held[0]):
        return node.children[held[0]]
    return node


def classes_in(
    node: Node,
    level: ClassLevel,
    where: str,
    train: Classes | None = None,
    labels_told: str = "",
) -> ClassFolders:
    """The classes in a folder.

    Args:
        node: The folder.
        level: Which folders are classes.
        where: What the folder is called.
        train: The classes of the training split, where this is another one: its empty folders
            are no classes of their own.
        labels_told: What to say of files that labels may be in, where the folders give none.

    Raises:
        UserError: It is not clear which folders are classes.
    """
    left: dict[str, list[str]] = {}

    def leave_out(what: str, *names: str) -> None:
        left.setdefault(what, []).extend(names)

    kept = {}
    for name, child in node.children.items():
        strange = is_annotation(name) or is_of_lists(name)
        if child.count == 0 and (strange or (train is not None and name not in train)):
            leave_out(EMPTY, "/".join(child.parts))
        else:
            kept[name] = only_images(child, leave_out)
    if level != "top":
        images = {n: child.all_images() for n, child in kept.items()}
        if are_versions(n for n, same in images.items() if same):  # Which names of images tell.
            views.refuse(images, where, labels_told)
        _refuse_parts(kept, where, labels_told, level)
        views.refuse(images, where, labels_told)
    if level == "auto":
        for child in kept.values():
            for inside in child.walk():
                inner = {n: inside.children[n].all_images() for n in inside.with_images()}
                at = "/".join([where, *inside.parts[len(child.parts) - 1 :]])
                views.refuse_copies(inside.images, inner, at)
        level = _level(node.parts, kept, where, labels_told)
    if level == "leaf":
        classes = _by_leaf(node.parts, kept)
        used = {image.parts for images in classes.values() for image in images}
        lost = (i.name for c in kept.values() for i in c.all_images() if i.parts not in used)
        leave_out(STRAYS, *lost)
        return ClassFolders(classes, level, [], left)
    deep = [n for n, c in kept.items() if any(i.images and i.with_images() for i in c.walk())]
    notes = [f"Images in sub-folders belong to their class: {listed(deep)}."] if deep else []
    return ClassFolders({n: c.all_images() for n, c in kept.items()}, level, notes, left)


def _refuse_parts(
    folders: Mapping[str, Node], where: str, labels_told: str, level: ClassLevel
) -> None:
    """Raises `UserError` if folders look like parts of one data set, such as `images_001`."""
    held = {name: node for name, node in folders.items() if node.count}
    parts = numbered_parts(held) if len(held) > 1 else []
    inner = [name for part in parts for name in held[part].with_images()]
    if not parts or (level == "leaf" and len(set(inner)) == len(inner)):
        return
    nested = any(held[part].nested for part in parts)
    if nested and are_versions(held):  # Which `_level` asks about, to use one of them.
        return
    if nested:
        todo = f"merge them into one folder with one folder for each class in it. {labels_told}"
    else:
        todo = f"put the images of each class into a folder named after the class. {labels_told}"
    raise UserError(
        f"{where} has {_counts({name: held[name].count for name in parts})}. By their names they "
        "may be classes, or parts of one data set. If they are classes, add --classes top. If they "
        f"are parts, {todo.rstrip()}"
    )


def _level(
    base: tuple[str, ...], folders: Mapping[str, Node], where: str, labels_told: str
) -> ClassLevel:
    """Which folders are classes, where that is clear.

    Raises:
        UserError: It is not.
    """
    held = {name: node for name, node in folders.items() if node.count}
    strange = [name for name in held if is_no_class(name)]
    if strange and len(held) > 1:
        raise UserError(
            f"{where} has {listed(held)} side by side, and {listed(strange)} hardly is a class. "
            "Keep only class folders there, or say --classes top if it is one."
        )
    nested = [name for name, node in held.items() if node.nested]
    inner = {name: list(held[name].leaves()) for name in nested}
    if all([leaf] == [held[name]] for name, found in inner.items() for leaf in found):
        return "top"  # Nothing is nested, but for `ants/images`.
    leaves = [(name, leaf.name.casefold()) for name, found in inner.items() for leaf in found]
    alike = len({leaf for _, leaf in leaves}) == 1
    if len(leaves) == len(held) == len(nested) and (
        alike or all(name.casefold() == leaf for name, leaf in leaves)
    ):
        return "top"  # `polyp/original`, `trout/trout`: each has one.
    letters = len(nested) == len(held) and all(len(name) == 1 for name in held)
    if letters and all(leaf.startswith(name.casefold()) for name, leaf in leaves):
        return "leaf"
    if len(nested) == 1 and {*held[nested[0]].with_images()} == {*held} - {*nested}:
        raise UserError(
            f"{where} has {listed(held)}, and {nested[0]} holds folders of the same names as those "
            f"next to it, as if it were a copy of them. Move {nested[0]} elsewhere; or, to use "
            f"only what is in it: folder:{where}/{nested[0]}"
        )
    tops = {name: node.count for name, node in held.items()}
    below = {name: len(images) for name, images in _by_leaf(base, held).items()}
    lines = [
        f"{where} has folders within folders, and it is not clear which of them are the classes. "
        "Say so with one of:",
        f"  --classes top   {len(tops)} classes, with the number of their images: {_counts(tops)}",
        f"  --classes leaf  {len(below)} classes: {_counts(below)}",
    ]
    if len({leaf for _, leaf in leaves}) < len(leaves):
        lines.append(
            f"The folders {listed(nested)} hold folders of the same names, as if each were a data "
            f"set of its own. To use one of them: folder:{where}/{nested[0]}"
        )
    if labels_told:
        lines.append(
            f"If the folders are no classes: {labels_told[0].lower()}{labels_told[1:]}".rstrip()
        )
    raise UserError("\n".join(lines))


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} ({count})" for name, count in counts.items()]
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def _by_leaf(base: tuple[str, ...], folders: Mapping[str, Node]) -> Classes:
    """The images of every deepest folder; equal names are told apart by their paths."""
    found = {}
    for node in folders.values():
        for leaf in node.leaves():
            parts = leaf.parts[len(base) :]
            while len(parts) > 1 and is_container(parts[-1]):
                parts = parts[:-1]
            found[parts] = leaf
    twice = len({parts[-1] for parts in found}) < len(found)
    by_name = {"/".join(parts) if twice else parts[-1]: leaf for parts, leaf in found.items()}
    return {name: leaf.all_images() for name, leaf in sorted(by_name.items())}
