"""Folders of pictures, one folder per class, on disk or inside a zip archive."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jtl.data.batches import in_threads, read_batch, unreadable
from jtl.data.stores import PICTURE_EXTENSIONS, Picture, Store, Tree, open_store
from jtl.data.transforms import BadImage, HostTransform, decode, picture_size
from jtl.errors import UserError

SPLIT_FOLDERS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "eval", "dev"),
    "test": ("test", "testing"),
}
_LAYOUT = (
    "Expected train/CLASS/PICTURE with optional val/ and test/ beside train/, "
    "or CLASS/PICTURE without splits; one enclosing folder around either is fine."
)
# Enough for the header of nearly every picture; the others are read as a whole.
_HEAD_BYTES = 65536


class FileSplit:
    """Labelled picture files. See `jtl.data.sources.Split` for what its members mean.

    Args:
        where: What messages call the split, such as "flowers.zip (train)".
        store: What the pictures are read from.
        pictures: The files.
        labels: int32 [N], the class of every file.
    """

    def __init__(
        self, where: str, store: Store, pictures: Sequence[Picture], labels: np.ndarray
    ) -> None:
        self._where = where
        self._store = store
        self._pictures = tuple(pictures)
        self._names = tuple(picture.name for picture in pictures)
        self._labels = labels
        self._headers: _Headers | None = None

    @property
    def labels(self) -> np.ndarray:
        """The class index of every picture, int32 [N]."""
        return self._labels

    @property
    def names(self) -> Sequence[str]:
        """The path of every file below the data folder."""
        return self._names

    def __len__(self) -> int:
        return len(self._pictures)

    def native_size(self) -> tuple[int, int] | None:
        """The (height, width) that all pictures share, or None; read from the files' headers.

        Raises:
            UserError: If some header cannot be read while all others agree.
        """
        if self._headers is None:
            self._headers = self._read_headers(until_mixed=True)
        if len(self._headers.sizes) > 1:
            return None
        if self._headers.failures:
            raise unreadable(self._headers.failures, len(self), self._where)
        return next(iter(self._headers.sizes), None)

    def check(self) -> list[str]:
        """Read every file's header; a line for each file that is not a readable picture."""
        if self._headers is None or not self._headers.complete:
            self._headers = self._read_headers(until_mixed=False)
        return list(self._headers.failures)

    def read(self, indices: np.ndarray, transform: HostTransform | None) -> np.ndarray:
        """Decode pictures in threads. See `jtl.data.sources.Split.read`."""

        def load_one(index: int) -> np.ndarray:
            picture = self._pictures[index]
            image = decode(self._bytes(picture), picture.name)
            if transform is None:
                return np.asarray(image)
            try:
                return transform(image)
            except BadImage as error:
                raise BadImage(f"{picture.name}: {error}") from error

        size = None if transform is None else transform.size
        return read_batch(load_one, indices, names=self.names, size=size, where=self._where)

    def subset(self, indices: np.ndarray) -> FileSplit:
        """The split that has only these pictures, in this order."""
        pictures = [self._pictures[index] for index in indices]
        return FileSplit(self._where, self._store, pictures, self._labels[indices])

    def _bytes(self, picture: Picture, limit: int = -1) -> bytes:
        try:
            return self._store.read(picture, limit)
        except Exception as error:  # A damaged archive provokes many kinds.
            reason = error.strerror if isinstance(error, OSError) else None
            raise BadImage(f"{picture.name}: {reason or error or type(error).__name__}") from error

    def _header_size(self, picture: Picture) -> tuple[int, int]:
        head = self._bytes(picture, _HEAD_BYTES)
        if len(head) < _HEAD_BYTES:
            return picture_size(head, picture.name)
        try:
            return picture_size(head, picture.name, whole=False)
        except BadImage:
            return picture_size(self._bytes(picture), picture.name)

    def _read_headers(self, until_mixed: bool) -> _Headers:
        def measure(rows: range) -> _Headers:
            sizes, failures = set(), []
            for row in rows:
                try:
                    sizes.add(self._header_size(self._pictures[row]))
                except BadImage as error:
                    failures.append(str(error))
            return _Headers(sizes, failures, True)

        sizes: set[tuple[int, int]] = set()
        failures: list[str] = []
        parts = in_threads(measure, len(self))
        for part in parts:
            sizes |= part.sizes
            failures += part.failures
            if until_mixed and len(sizes) > 1:
                parts.close()
                return _Headers(sizes, failures, complete=False)
        return _Headers(sizes, failures, complete=True)


class _Headers(NamedTuple):
    """What the headers of a split's files say, so far as they were read."""

    sizes: set[tuple[int, int]]
    failures: list[str]
    complete: bool


@dataclasses.dataclass(frozen=True)
class ClassFolders:
    """What a folder or an archive of class folders holds.

    Attributes:
        class_names: The sorted class folders of train.
        splits: Those of "train", "val" and "test" that were found; "train" always is.
        notes: What was left out, in sentences.
        fingerprint: SHA-256 (hex) over the pictures' names, sizes and modification times or,
            in an archive, checksums.
    """

    class_names: tuple[str, ...]
    splits: dict[str, FileSplit]
    notes: tuple[str, ...]
    fingerprint: str


def read_class_folders(path: Path) -> ClassFolders:
    """Find the class folders of a directory or a zip archive; opens no picture.

    Folders named like a split (`SPLIT_FOLDERS`, in any case) are splits as soon as there is a
    train folder; otherwise every folder is a class. Pictures further down in a class folder
    belong to the class.

    Args:
        path: The directory, or the archive.

    Raises:
        UserError: If the path cannot be read, or does not hold at least two class folders, all
            with pictures, or if val or test hold classes that train does not have.
    """
    store = open_store(path)
    tree = store.tree()
    folders, notes = _find_splits(tree, path)
    grouped: dict[str, dict[str, list[Picture]]] = {}
    for split, folder in folders.items():
        classes, loose = _group_by_class(tree, folder)
        if split == "test" and loose and not classes:
            notes.append(f"{'/'.join(folder)} has no class folders: it is not used for testing.")
            continue
        if loose and classes:
            notes.append(
                f"{len(loose)} picture(s) outside the class folders are ignored, "
                f"for example {loose[0].name}."
            )
        grouped[split] = classes
    class_names = _checked_classes(grouped, folders, path)
    splits = {}
    for split, classes in grouped.items():
        pictures = [picture for name in class_names for picture in classes.get(name, ())]
        counts = [len(classes.get(name, ())) for name in class_names]
        labels = np.repeat(np.arange(len(class_names), dtype=np.int32), counts)
        splits[split] = FileSplit(f"{path} ({split})", store, pictures, labels)
    used = [p for classes in grouped.values() for pictures in classes.values() for p in pictures]
    return ClassFolders(class_names, splits, tuple(notes), _fingerprint(used))


def _find_splits(tree: Tree, path: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The folder of every split; without splits, "train" is where the class folders lie."""
    base: tuple[str, ...] = ()
    children = tree.children(base)
    if len(children) == 1 and not _roles(children)["train"]:
        inner = tree.children((children[0],))
        if inner:
            base, children = (children[0],), inner
    roles = _roles(children)
    found = {split: names[0] for split, names in roles.items() if names}
    for split, names in roles.items():
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
    notes = [f"Folders beside {found['train']} are ignored: {_some(beside)}."] if beside else []
    return {split: (*base, name) for split, name in found.items()}, notes


def _roles(children: Iterable[str]) -> dict[str, list[str]]:
    """For every split, the folders that are named like it."""
    children = list(children)
    return {
        split: [name for name in children if name.lower() in words]
        for split, words in SPLIT_FOLDERS.items()
    }


def _group_by_class(
    tree: Tree, folder: tuple[str, ...]
) -> tuple[dict[str, list[Picture]], list[Picture]]:
    """The pictures of every class folder in `folder`, and those that lie outside of any."""
    depth = len(folder)
    classes: dict[str, list[Picture]] = {name: [] for name in tree.children(folder)}
    loose = []
    for picture in tree.pictures:
        if picture.parts[:depth] == folder:
            if len(picture.parts) > depth + 1:
                classes[picture.parts[depth]].append(picture)
            else:
                loose.append(picture)
    return classes, loose


def _checked_classes(
    grouped: Mapping[str, Mapping[str, Sequence[Picture]]],
    folders: Mapping[str, tuple[str, ...]],
    path: Path,
) -> tuple[str, ...]:
    """The sorted classes of train, once all splits fit them."""
    for split, classes in grouped.items():
        place = "/".join([str(path), *folders[split]])
        if not classes:
            raise UserError(f"{place} has no class folders. {_LAYOUT}")
        empty = [name for name, pictures in classes.items() if not pictures]
        if empty:
            raise UserError(
                f"{place} has class folders without pictures: {_some(empty)}. Fill or remove "
                f"them. Files that count as pictures end in {', '.join(PICTURE_EXTENSIONS)}."
            )
        unknown = sorted(set(classes) - set(grouped["train"]))
        if unknown:
            raise UserError(
                f"{place} has classes that train does not have: {_some(unknown)}. "
                f"The classes of train are {_some(sorted(grouped['train']))}. "
                "Rename or remove these folders."
            )
    class_names = sorted(grouped["train"])
    if len(class_names) < 2:
        raise UserError(
            f"{path} has only one class, {class_names[0]!r}; a classifier needs at least two. "
            f"{_LAYOUT}"
        )
    return tuple(class_names)


def _some(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _fingerprint(pictures: Iterable[Picture]) -> str:
    digest = hashlib.sha256()
    for picture in sorted(pictures, key=lambda picture: picture.parts):
        digest.update(f"{picture.name}\0{picture.size}\0{picture.stamp}\n".encode())
    return digest.hexdigest()
