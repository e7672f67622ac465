"""Lists of the images of each split beside class folders, as many public data sets have them.

Read are lists whose names say a split (`train.txt`, `test.csv`, `val.json`) and whose rows name
images, tables with a column of splits, JSON with splits as keys, and CUB's `images.txt` with
`train_test_split.txt`. What each row says beside the image is not read: labels come from folders.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources import split_list_files
from jtl.data.sources.class_folders import Classes
from jtl.data.sources.names import splits_in, words_of
from jtl.data.sources.split_list_files import CUB, WAY_OUT, ImageIndex
from jtl.data.sources.stores import ImageFile

_TEXTS = (".txt", ".csv", ".tsv", ".lst")
_READ = (*_TEXTS, ".json")
_NAMED = (*_READ, ".mat", ".pkl", ".xlsx")
_OTHERS = {
    "submission",
    "requirements",
    "readme",
    "log",
    "loss",
    "history",
    "results",
    "predictions",
}
_MOST_BYTES = 2**26
_MOST_FILES = 60
"""In a folder: of more, each belongs to one image."""
_ENOUGH = 0.5
"""The share of the images that lists must name."""


class Listed(NamedTuple):
    """What lists say.

    Attributes:
        split_of: The split of every image that is in a list, by the image's name.
        files: Where that stands.
        rest: The split of the images in no list; None if they are not used.
    """

    split_of: dict[str, str]
    files: tuple[ImageFile, ...]
    rest: str | None


def find(
    files: Iterable[ImageFile],
    images: Sequence[ImageFile],
    where: str,
    read: Callable[[ImageFile], bytes],
    *,
    expected: bool,
) -> Listed | None:
    """Reads the lists of splits among the files.

    Args:
        files: Where to look.
        images: All images in class folders.
        where: What the place is called.
        read: What gives a file's contents.
        expected: Whether files that look like lists and cannot be read are an error.

    Returns:
        None where there are none.

    Raises:
        UserError: There are lists that cannot be read, or that contradict one another.
    """
    candidates = _candidates(files)
    if not candidates:
        return None
    index = ImageIndex(images)
    found: dict[str, list[tuple[ImageFile, frozenset[str]]]] = defaultdict(list)
    named: dict[str, set[str]] = {}
    for file in candidates:
        splits = _splits_of(file)
        if splits is not None:
            named[file.name] = splits
        if file.size > _MOST_BYTES or not file.name.lower().endswith(_READ):
            continue
        for split, names in split_list_files.read(file, splits, index, read).items():
            found[split].append((file, names))
    by_name = {file.parts[-1].lower(): file for file in candidates}
    for split, names in split_list_files.read_cub(by_name, index, read).items():
        found[split].append((by_name[CUB[1]], names))
    if not found:
        if expected:
            _refuse_unread(named, where)
        return None
    return _combined(found, index.names, where)


def divide(listed: Listed, classes: Classes) -> tuple[dict[str, Classes], list[str]]:
    """The classes of every split, and the names of the images in none."""
    found: dict[str, Classes] = {split: {} for split in ("train", "val", "test")}
    lost = []
    for label, images in classes.items():
        for image in images:
            split = listed.split_of.get(image.name, listed.rest)
            if split is None:
                lost.append(image.name)
            else:
                found[split].setdefault(label, []).append(image)
    return {split: by_class for split, by_class in found.items() if by_class}, lost


def _candidates(files: Iterable[ImageFile]) -> list[ImageFile]:
    by_folder = defaultdict(list)
    for file in files:
        name = file.parts[-1].lower()
        if name.endswith(_NAMED) and not _OTHERS & {*words_of(name)}:
            by_folder[file.parts[:-1]].append(file)
    return [file for same in by_folder.values() if len(same) <= _MOST_FILES for file in same]


def _splits_of(file: ImageFile) -> set[str] | None:
    """The splits in a file's name; None where it does not look like a list of splits."""
    stem = file.parts[-1].rpartition(".")[0]
    splits = splits_in(stem) & {"train", "val", "test"}
    named = {"split", "splits", "setid"} & {*words_of(stem)}
    return splits if named or len(splits) == 1 else None


def _refuse_unread(named: Mapping[str, set[str]], where: str) -> None:
    """Raises `UserError` if files by their names are lists of splits: {name: its splits}."""
    several = any(len(splits) != 1 for splits in named.values())
    single: set[str] = set().union(*(splits for splits in named.values() if len(splits) == 1))
    if not several and not ("train" in single and len(single) > 1):
        return
    names = list(named)
    raise UserError(
        f"{where} has no folders for splits, but {listed(names, 6)}, which by "
        f"{'its name lists' if len(names) == 1 else 'their names list'} the images of each split. "
        "jtl reads lists in which every row names an image by its path or file name, and finds no "
        f"image by {'this' if len(names) == 1 else 'these'}. {WAY_OUT}"
    )


def _combined(
    found: Mapping[str, list[tuple[ImageFile, frozenset[str]]]], images: Sequence[str], where: str
) -> Listed:
    """One split for every image in a list.

    Raises:
        UserError: The lists contradict one another, or name too few images.
    """
    if "trainval" in found:
        rest = {split: lists for split, lists in found.items() if split != "trainval"}
        val = frozenset().union(*(names for _, names in rest.get("val", [])))
        train = [(file, names - val or names) for file, names in found["trainval"]]
        found = rest if "train" in rest else {"train": train, **rest}
    split_of: dict[str, str] = {}
    files: dict[str, ImageFile] = {}
    for split, lists in found.items():
        sets = list(dict.fromkeys(names for _, names in lists))
        if max(Counter(name for names in sets for name in names).values(), default=0) > 1:
            raise UserError(
                f"{where} has several lists for the {split} split: "
                f"{listed((file.name for file, _ in lists), 5)}. Keep one for each split, and move "
                f"the others elsewhere. {WAY_OUT}"
            )
        for name in (name for names in sets for name in names):
            if split_of.setdefault(name, split) != split:
                lists = [*found[split_of[name]], *found[split]]
                both = " and ".join(sorted({f.name for f, names in lists if name in names}))
                raise UserError(
                    f"The lists of {where} contradict one another: {name} is in {both}. Correct "
                    f"them, or move them elsewhere. {WAY_OUT}"
                )
        files |= {file.name: file for file, _ in lists}
    rest = None if "train" in found else "train"
    if rest is None and len(split_of) < _ENOUGH * len(images):
        missing = next(name for name in images if name not in split_of)
        raise UserError(
            f"The lists {listed(files)} of {where} name only {len(split_of):,} of "
            f"{counted(len(images), 'image')}, and not {missing}, for example. {WAY_OUT}"
        )
    return Listed(split_of, tuple(files.values()), rest)
