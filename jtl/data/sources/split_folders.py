"""Which folders are splits, by their names and what lies beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources import unread_labels
from jtl.data.sources.class_folders import STRAYS, Node
from jtl.data.sources.names import (
    SplitName,
    is_annotation,
    is_container,
    is_of_queries,
    split_in,
    sure_split,
)
from jtl.data.splits import UNLABELLED

LAYOUT = (
    "Expected train/CLASS/IMAGE with optional val/ and test/ next to train/, "
    "or CLASS/IMAGE without splits (both may be inside one extra folder)."
)
_AS_CLASSES = "If these are classes, put all class folders into one folder called train/."
_UNLABELLED = SplitName("unlabelled", True)


class Findings:
    """What is to be said of a tree: what is left out, and notes.

    Attributes:
        place: Where the tree lies.
        labels_told: What to say of files that labels may be in.
        left: {what is left out: names}.
        notes: Sentences.
    """

    def __init__(self, place: Path, labels_told: str) -> None:
        self.place = place
        self.labels_told = labels_told
        self.left: dict[str, list[str]] = {}
        self.notes: list[str] = []

    def leave_out(self, what: str, *names: str) -> None:
        """Notes files or folders that are not used, by what they are."""
        self.left.setdefault(what, []).extend(names)

    def note_strays(self, node: Node) -> None:
        """Notes images beside folders of classes or splits."""
        self.notes.append(
            f"{counted(len(node.images), 'image')} outside the class folders ignored, "
            f"for example {node.images[0].name}."
        )
        self.leave_out(STRAYS, *(image.name for image in node.images))

    def path(self, node: Node) -> str:
        """Where a folder lies."""
        return "/".join([str(self.place), *node.parts])


def split_folders(base: Node, findings: Findings) -> dict[str, Node] | None:
    """The folder of every split, or None where the folders are classes."""
    named = {name: found for name in base.children if (found := split_in(name))}
    for name, found in list(named.items()):
        if found.split == "unlabelled":
            del named[name]
    # Of folders without images only a name that says nothing else counts.
    named = {n: s for n, s in named.items() if s.sure or base.children[n].count}
    if not named:
        return None
    trains = [n for n, s in named.items() if s.split == "train" and base.children[n].holds_folders]
    queries = [name for name in base.with_images() if is_of_queries(name)]
    if queries and "train" in {s.split for s in named.values()} and not trains:
        raise _for_retrieval(base, named, queries, findings)
    if not trains:
        if _are_classes(base, named):
            findings.notes.append(
                f"{listed(named)} is taken for a class, as the folders next to it hold images "
                "like it."
            )
            return None
        raise without_train(base, named, findings)
    others = [n for n in base.with_images() if n not in named]
    plain = [n for n in others if not is_annotation(n) and not split_in(n)]
    if plain and all(s.split == "train" for s in named.values()) and not named[trains[0]].sure:
        return None  # `freight_train` among other classes that have sub-folders.
    if len(named) == 1 and plain and {*plain} == {*queries}:
        raise UserError(
            f"{findings.place} has {listed([*named, *queries])}, as data for re-identification or "
            "retrieval have, whose queries show other classes than their training images. jtl "
            f"trains classifiers. To classify what is in {trains[0]}: "
            f"--data folder:{findings.path(base.children[trains[0]])}"
        )
    if len(named) == 1 and plain:
        raise UserError(
            f"{findings.place} has {trains[0]}/ and next to it {listed(plain)}, with images: it is "
            f"not clear whether {trains[0]} is a split or a class. {_AS_CLASSES} Else move "
            "what is not for training elsewhere."
        )
    return _chosen(base, named, others, findings)


def _chosen(
    base: Node, named: Mapping[str, SplitName], others: list[str], findings: Findings
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
                f"{findings.place} has several folders for the {split} split: "
                f"{', '.join(sorted(names))}. Keep or rename one of them."
            )
    if others:
        train = by_split["train"][0]
        findings.notes.append(f"Folders next to {train} are ignored: {listed(sorted(others))}.")
        for name in sorted(others):
            findings.leave_out("images in folders next to the splits", *base.children[name].files())
    order = [split for split in ("train", "val", "test") if split in by_split]
    return {split: base.children[by_split[split][0]] for split in order}


def _are_classes(base: Node, named: Mapping[str, SplitName]) -> bool:
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


def without_train(base: Node, named: Mapping[str, SplitName], findings: Findings) -> UserError:
    train = [n for n, s in named.items() if s.split == "train"]
    ordered = sorted(named, key=lambda name: ("train", "val", "test").index(named[name].split))
    told = ", ".join(f"{name}/" for name in ordered)
    if not train:
        first = findings.path(base.children[ordered[0]])
        return UserError(
            f"{findings.place} has {told} but no train/. {LAYOUT}{_others(base, named, findings)} "
            f"To score a model on one of them: jtl evaluate RUN --data {first}. {_AS_CLASSES}"
        )
    node = base.children[train[0]]
    classes = f" {_AS_CLASSES}" if len(base.with_images()) > 1 else ""
    told = unread_labels.side_by_side(findings.path(node), node.count, findings.labels_told)
    if not named[train[0]].sure:
        told += (
            f"If the name {train[0]} says a split and a class, put its images into a folder named "
            "after the class in train/, and those of the other folders likewise. "
        )
    return UserError(f"{told}{LAYOUT}{classes}")


def _others(base: Node, named: Mapping[str, SplitName], findings: Findings) -> str:
    """What to do if the only other folder holds the training images."""
    others = [name for name in base.with_images() if name not in named]
    if len(others) != 1 or not base.children[others[0]].with_images():
        return ""
    return (
        f" If {others[0]} holds the training images, call it train, or give it alone "
        f"({findings.path(base.children[others[0]])})."
    )


def _for_retrieval(
    base: Node, named: Mapping[str, SplitName], queries: list[str], findings: Findings
) -> UserError:
    train = next(name for name, found in named.items() if found.split == "train")
    node = base.children[train]
    return UserError(
        f"{findings.place} has {listed([*named, *queries])}, as data for re-identification or "
        f"retrieval have: images in {train} lie side by side, the first part of a name such as "
        f"{node.all_images()[0].parts[-1]} may be the identity, and the others show other "
        "identities. jtl trains classifiers. To classify the identities in training, put the "
        f"images of each into a folder of its own below {train}, and give that folder: "
        f"--data folder:{findings.path(node)}. {findings.labels_told}".rstrip()
    )


def by_class(base: Node, findings: Findings) -> dict[str, Node] | None:
    """The splits where they lie in the class folders: `ants/train/`, `ants/test/`, ..."""
    held = [base.children[n] for n in base.with_images()]
    if len(held) < 2 or any(not node.nested for node in held):
        return None
    names = sorted({name for node in held for name in node.with_images()})
    found = {name: sure_split(name) for name in names}
    splits = [split for split in found.values() if split is not None]
    if len(splits) < len(found):
        return None
    if "train" not in splits or any(split_in(node.name) for node in held):
        return None
    if any(node.children[n].with_images() for node in held for n in node.with_images()):
        raise UserError(
            f"{findings.place} has several data sets, each with splits of its own: "
            f"{listed(node.name for node in held)}. Give one of them: "
            f"folder:{findings.path(held[0])}"
        )
    if len(set(splits)) < len(splits):
        raise UserError(
            f"{findings.place} has several names for one split: {listed(sorted(names))}."
        )
    turned = {}
    for name, split in found.items():
        if split is None or split == "unlabelled":
            files = (f for n in held if name in n.children for f in n.children[name].files())
            findings.leave_out(UNLABELLED, *files)
            continue
        parts = {n.name: n.children[name] for n in held if name in n.children}
        turned[split] = Node(base.parts, [], [], parts)
    findings.notes.append("The splits lie within the class folders.")
    return {split: turned[split] for split in ("train", "val", "test") if split in turned}


def labelled(base: Node, findings: Findings) -> Node:
    """The folder without those that are named as having no labels."""
    unlabelled = [n for n in base.with_images() if (s := split_in(n)) and s == _UNLABELLED]
    if not unlabelled:
        return base
    findings.notes.append(f"{listed(unlabelled)} is taken for images without labels, not a class.")
    for name in unlabelled:
        findings.leave_out(UNLABELLED, *base.children[name].files())
    kept = {name: child for name, child in base.children.items() if name not in unlabelled}
    return Node(base.parts, base.images, base.others, kept)
