"""The image files that a table names: by path, with or without extension, or by name alone."""

from __future__ import annotations

import contextlib
import itertools
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from jtl.common.errors import UserError, suggest
from jtl.common.text import counted, listed
from jtl.data.kinds import by_ending
from jtl.data.sources.archives import is_archive, open_store
from jtl.data.sources.stores import ImageFile, ImageStore, Tree, printable, stem_of

_SAMPLE = 200
"""Rows that decide how a table names images."""
_ENOUGH = 0.5
"""The share of them that must be found for no other way to be tried."""
_MOST_BESIDE = 200
"""Folders beside the root that are looked into, for where paths start."""
_OTHER_EXTENSIONS = 3
"""Of files with one stem, as many as a message names."""


class Several(NamedTuple):
    """What a name without extension may mean."""

    names: tuple[str, ...]


Found = ImageFile | Several | None
_Find = Callable[[str], Found]


class Way(NamedTuple):
    """How a table names images.

    Attributes:
        find: From a cell to the image.
        told: What to say of it; empty where cells are plain paths below the folder.
    """

    find: _Find
    told: str = ""


class Packed(NamedTuple):
    """A folder in an archive that is open.

    Attributes:
        store: The archive.
        tree: What it holds.
        folder: The folder's path in it.
    """

    store: ImageStore
    tree: Tree
    folder: tuple[str, ...]


class ImageFinder:
    """Finds the images that a table names; each folder is listed once.

    Args:
        root: The folder that paths start at, or a zip or tar archive.
        base: The folder that the images' names start at, such as the one around `train/`;
            default `root`.
        packed: The folder in the archive `root` that paths start at; default all of it.

    Attributes:
        store: What reads them.
    """

    def __init__(self, root: Path, base: Path | None = None, packed: Packed | None = None) -> None:
        self.root = root
        self._tree: _TreeIndex | None = None
        self._archive = packed is not None or is_archive(root)
        if packed is not None:
            self.store, self._tree = packed.store, _TreeIndex(packed.tree, packed.folder)
            return
        if not self._archive and not root.is_dir():
            raise UserError(f"There is no folder {root} in which the images of a table could lie.")
        self.store: ImageStore = open_store(root)
        self._base = os.path.abspath(base or root)
        self._listings: dict[str, _Listing] = {}

    def way(self, texts: Sequence[str], *, plain: bool = False) -> tuple[Way, list[Found]]:
        """How cells name images, and what some of them, spread over all, name by it.

        Args:
            texts: The cells.
            plain: Whether only plain paths are tried.

        Plain paths come first. If these lead to less than half of the images, the beginning
        of the paths may be that of another computer, or only the names may count.
        """
        step = max(1, len(texts) // _SAMPLE)
        sample = [text for text in texts[::step] if text]
        way = Way(self._in_tree().of_path if self._archive else self._on_disk)
        best = (way, [way.find(text) for text in sample])
        if plain or count(best[1]) >= _ENOUGH * len(sample):
            return best
        depth = max((len(_cleaned(text).split("/")) for text in sample), default=1)
        index = self._in_tree()
        ways = [
            Way(
                _without_start(index.of_path, cut),
                f"The paths in the table are those of another place: {counted(cut, 'folder')} at "
                "their beginning are left out."
                if cut
                else f"The paths in the table start at {self.root}.",
            )
            for cut in range(depth)
        ]
        told = f"Images are found by their names alone, in any folder below {self.root}."
        for way in (*ways, Way(index.of_name, told)):
            found = [way.find(text) for text in sample]
            if _hits(found) > _hits(best[1]):
                best = (way, found)
        return best

    def near(self, text: str) -> str:
        """A phrase that names a file like one that is missing; empty where there is none."""
        if self._archive:
            return ""
        folder, _, name = _cleaned(text).rpartition("/")
        return suggest(name, self._listing(folder).entries, 0.8)

    def root_for(self, text: str) -> str:
        """A folder beside the root, or beside the one around it, that a path starts at; or ""."""
        text = _cleaned(text)
        if self._archive or os.path.isabs(text) or "/" not in text:
            return ""
        for above in (self.root, self.root.parent):
            with contextlib.suppress(OSError), os.scandir(above) as entries:
                for entry in itertools.islice(entries, _MOST_BESIDE):
                    if entry.is_dir() and os.path.exists(os.path.join(entry.path, text)):
                        return os.path.normpath(entry.path)
        return ""

    def _in_tree(self) -> _TreeIndex:
        if self._tree is None:
            self._tree = _TreeIndex(self.store.tree())
        return self._tree

    def _listing(self, folder: str) -> _Listing:
        if (listing := self._listings.get(folder)) is None:
            path = os.path.normpath(os.path.join(os.path.abspath(self.root), folder))
            inside = path == self._base or path.startswith(os.path.join(self._base, ""))
            shown = os.path.relpath(path, self._base) if inside else path
            parts = () if shown == "." else tuple(map(printable, shown.split(os.sep)))
            listing = self._listings[folder] = _Listing(path, parts)
        return listing

    def _on_disk(self, text: str) -> Found:
        folder, _, name = text.rpartition("/")
        listing = self._listings.get(folder)
        # As in nearly all of a million rows.
        if listing and (entry := listing.entries.get(name)) and (file := listing.file(name, entry)):
            return file
        text = _cleaned(text)
        folder, slash, name = text.rpartition("/")
        return self._listing(folder or slash).find(name)


class _Listing:
    """The files in a folder."""

    def __init__(self, path: str, parts: tuple[str, ...]) -> None:
        self._parts = parts
        self._stems: dict[str, list[str]] | None = None
        try:
            with os.scandir(path) as entries:
                self.entries = {printable(entry.name): entry for entry in entries}
        except (OSError, ValueError):  # A path with a NUL, say.
            self.entries = {}

    def find(self, name: str) -> Found:
        """A file by its name or, where there is none, the image whose name is this and a dot."""
        entry = self.entries.get(name)
        if entry is None or not (found := self.file(name, entry)):
            stems = self._by_stem().get(name, ())
            if len(stems) > 1:
                return Several(tuple(stems))
            return self.file(stems[0], self.entries[stems[0]]) if stems else None
        return found

    def file(self, name: str, entry: os.DirEntry[str]) -> ImageFile | None:
        """A file of the folder; None where it is a folder."""
        parts = (*self._parts, name)
        try:
            status = entry.stat()
        except OSError:  # A broken link: reading says so.
            return ImageFile(parts, entry.path, -1, 0)
        if stat.S_ISDIR(status.st_mode):
            return None
        return ImageFile(parts, entry.path, status.st_size, status.st_mtime_ns)

    def _by_stem(self) -> dict[str, list[str]]:
        if self._stems is None:
            self._stems = _stems(name for name in self.entries if by_ending(name))
        return self._stems


class _TreeIndex:
    """The images of a whole tree, by path and by name."""

    def __init__(self, tree: Tree, folder: tuple[str, ...] = ()) -> None:
        depth = len(folder)
        images = [image for image in tree.images if image.parts[:depth] == folder]
        self._by_path = {"/".join(image.parts[depth:]): image for image in images}
        self._by_stem = _stems(self._by_path)
        self._names: dict[str, list[ImageFile]] = {}
        for image in images:
            name = image.parts[-1]
            for key in {name, stem_of(name)}:
                self._names.setdefault(key, []).append(image)

    def of_path(self, text: str) -> Found:
        text = _cleaned(text).removeprefix("/")
        if (image := self._by_path.get(text)) is not None:
            return image
        names = self._by_stem.get(text, ())
        if len(names) > 1:
            return Several(tuple(names))
        return self._by_path[names[0]] if names else None

    def of_name(self, text: str) -> Found:
        images = self._names.get(_cleaned(text).rpartition("/")[2], ())
        if len(images) > 1:
            return Several(tuple(image.name for image in images))
        return images[0] if images else None


def count(found: Iterable[Found]) -> int:
    """How many are images."""
    return sum(isinstance(each, ImageFile) for each in found)


def _hits(found: Sequence[Found]) -> tuple[int, int]:
    """How many are images, and how many may be one of several."""
    return count(found), sum(isinstance(each, Several) for each in found)


def _stems(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        folder, slash, last = name.rpartition("/")
        found.setdefault(f"{folder}{slash}{stem_of(last)}", []).append(name)
    return found


def _without_start(find: _Find, cut: int) -> _Find:
    def find_rest(text: str) -> Found:
        parts = [part for part in _cleaned(text).split("/") if part]
        return find("/".join(parts[cut:])) if len(parts) > cut else None

    return find_rest


def _cleaned(text: str) -> str:
    """A path with slashes alone, and without what leads nowhere."""
    if "\\" in text:
        text = text.replace("\\", "/")
    if "//" in text or "./" in text:
        text = posixpath.normpath(text)
    return text if text.isascii() else printable(text)


def doubtful(several: Several) -> str:
    """What a name without extension may mean, in words."""
    return listed(several.names, _OTHER_EXTENSIONS)
