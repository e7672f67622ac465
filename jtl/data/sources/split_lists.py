"""Lists of the images of each split beside class folders, as many public data sets have them.

Read are lists whose names say a split (`train.txt`, `test.csv`, `val.json`) and whose rows name
images, tables with a column of splits, JSON with splits as keys, and CUB's `images.txt` with
`train_test_split.txt`. What each row says beside the image is not read: labels come from folders.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from jtl.common.errors import UserError
from jtl.common.text import counted, listed
from jtl.data.sources import split_list_candidates, split_list_reader
from jtl.data.sources.class_folders import Classes
from jtl.data.sources.image_index import ImageIndex
from jtl.data.sources.names import splits_in, words_of
from jtl.data.sources.split_list_candidates import NEVER_READ, ListName
from jtl.data.sources.split_list_reader import CUB, WAY_OUT, Contents
from jtl.data.sources.stores import ImageFile, spread

_DIGITS = re.compile(r"[\d.]")
_ENOUGH = 0.5
"""The share of the images that lists must name."""
_NEARLY_ALL = 0.9
"""The share of images that are called after splits, from which on the others are odd."""
_Opened = list[tuple[ImageFile, ListName | None, Contents]]


class Listed(NamedTuple):
    """What lists say.

    Attributes:
        split_of: The split of every image that is in a list, by the image's name.
        files: Where that stands.
        rest: The split of the images in no list; None if they are not used.
        told: Which splits come from which files, in words.
        notes: What a user should know, in sentences.
    """

    split_of: dict[str, str]
    files: tuple[ImageFile, ...]
    rest: str | None
    told: str
    notes: tuple[str, ...] = ()


def find(
    files: Iterable[ImageFile],
    images: Sequence[ImageFile],
    where: str,
    read: Callable[..., bytes],
    *,
    expected: bool,
    elsewhere: Iterable[ImageFile] = (),
) -> Listed | None:
    """Reads the lists of splits among the files.

    Args:
        files: Where to look.
        images: All images in class folders.
        where: What the place is called.
        read: What gives a file's contents.
        expected: Whether files that look like lists and cannot be read are an error.
        elsewhere: Images in no class folder; lists of these say nothing of the others.

    Returns:
        None where there are none.

    Raises:
        UserError: There are lists that cannot be read, or that contradict one another.
    """
    candidates = split_list_candidates.candidates(list(files))
    if not candidates:
        return _by_names(images, where) if expected else None
    index = ImageIndex(images, elsewhere)
    opened: _Opened = [
        (file, name, split_list_reader.read(file, name, index, read, expected=expected))
        for file, name in candidates
    ]
    by_name = {file.parts[-1].lower(): file for file, _ in candidates}
    cub = split_list_reader.read_cub(by_name, index, read)
    if cub.splits:
        of_cub = [by_name[name] for name in CUB]
        opened = [each for each in opened if each[0] not in of_cub]
        opened.append((by_name[CUB[1]], split_list_candidates.name_of(by_name[CUB[1]]), cub))
    found: dict[str, list[tuple[ImageFile, frozenset[str]]]] = defaultdict(list)
    for file, _, contents in opened:
        for split, names in contents.splits.items():
            found[split].append((file, names))
    used = {file.name for same in found.values() for file, _ in same}
    rest = [each for each in opened if each[0].name not in used]
    _refuse_damaged(rest, where)
    if found or expected:
        has = f"{where} has {'no folders for splits, but ' if expected else ''}"
        _refuse_unused(rest, has, bool(found), index.folders)
        _refuse_doubtful(opened, has)
    listed = _combined(found, index.names, where) if found else None
    if listed is None and expected:
        listed = _by_names(images, where)
    notes = [*_notes(opened), *(() if "val" in found else _groups(opened))]
    if listed is None:
        return Listed({}, (), "train", "", tuple(notes)) if notes else None
    return listed._replace(notes=tuple(notes))


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


def _refuse_damaged(opened: _Opened, where: str) -> None:
    """Raises `UserError` if files by their names are lists of splits, and cannot be read."""
    unread = [
        (file, contents.unread)
        for file, name, contents in opened
        if contents.unread and name is not None and (name.certain or name.ends)
    ]
    if unread:
        told = "; ".join(f"{file.name} {reason}" for file, reason in unread[:5])
        raise UserError(
            f"{where} has {counted(len(unread), 'file')} that by the name "
            f"{'lists' if len(unread) == 1 else 'list'} the images of a split, and cannot be read: "
            f"{told}. Repair or remove {'it' if len(unread) == 1 else 'them'}. {WAY_OUT}"
        )


def _refuse_unused(opened: _Opened, has: str, others: bool, folders: Iterable[str]) -> None:
    """Raises `UserError` if files by their names are lists of splits, and say nothing of images.

    Args:
        opened: The files that are no list that jtl understands.
        has: How the message begins.
        others: Whether there are lists besides.
        folders: That hold images: `boots_test.txt` lists those of `boots`.
    """
    of_class = {
        " ".join(words) for f in folders for words in (["*", *words_of(f)], [*words_of(f), "*"])
    }
    by_pattern = _by_pattern(
        name for file, name, _ in opened if name and file.name.lower().endswith(NEVER_READ)
    )
    named = [
        (file.name, name, contents)
        for file, name, contents in opened
        if name is not None
        and not contents.of_data
        and (
            name.certain
            or contents.groups
            or name.pattern in of_class
            or ("train" in (same := by_pattern[name.pattern]) and len(same) > 1)
        )
    ]
    single = {split for _, name, _ in named if not name.of_several for split in name.splits}
    partners = ("train" in single and len(single) > 1) or others
    names = [name for name, told, held in named if told.of_several or partners or held.groups]
    if not names:
        return
    these = "this" if len(names) == 1 else "these"
    reads = "lists in which every row names an image by its path or file name"
    why = f"jtl reads {reads}, and finds no image by {these}."
    if groups := [group for name, _, held in named if name in names for group in held.groups]:
        why += f" {listed(groups, 3)} may be groups of images, in whose names they stand."
    if all(name.lower().endswith(NEVER_READ) for name in names):
        why = f"jtl does not read such files: it reads text, CSV and JSON, as {reads}."
    raise UserError(
        f"{has}{listed(names, 6)}, which by "
        f"{'its name lists' if len(names) == 1 else 'their names list'} the images of each split. "
        f"{why} {WAY_OUT}"
    )


def _refuse_doubtful(opened: _Opened, has: str) -> None:
    """Raises `UserError` if a file names images, and it is not clear of which split.

    Of `test_cars.csv` it is only clear where there is a `train_cars.csv`.
    """
    by_pattern = _by_pattern(name for _, name, contents in opened if contents.names_images)
    for file, name, contents in opened:
        if contents.unclear:
            raise UserError(
                f"{has}{file.name}, which {contents.unclear}. "
                "jtl reads tables in which every row names an image by its path or file name, and "
                f"says train, val or test. {WAY_OUT}"
            )
        if name is None or not contents.names_images:
            continue
        clear = name.certain or name.ends or len(by_pattern[name.pattern]) > 1
        if contents.splits and (clear or name.of_several or len(contents.splits) > 1):
            continue
        todo = "Save it as .csv. " if file.name.lower().endswith(".xlsx") else ""
        raise UserError(
            f"{has}{file.name}, which names images and may list "
            f"those of {'each' if name.of_several else 'a'} split, in a form that jtl does not "
            f"read. {todo}jtl reads train.csv, val.csv and test.csv, in which every row names an "
            f"image, and tables with a column split. {WAY_OUT}"
        )


def _by_pattern(names: Iterable[ListName | None]) -> Mapping[str, set[str]]:
    """The splits of all lists whose names are alike but for the split."""
    found: dict[str, set[str]] = defaultdict(set)
    for name in names:
        if name is not None and not name.of_several:
            found[name.pattern] |= name.splits
    return found


def _apart(sets: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    """Different lists, without one that only puts all others together."""
    different = list(dict.fromkeys(sets))
    whole = frozenset().union(*different)
    parts = [names for names in different if names != whole]
    return parts if frozenset().union(*parts) == whole else different


def _by_names(images: Sequence[ImageFile], where: str) -> Listed | None:
    """The splits where all images are called after theirs, as `train_00001.jpg` or `PublicTest_7`.

    Raises:
        UserError: A few are not.
    """
    sample = spread(images)  # Whose share may differ by chance.
    if sum(_begins_with(image) is not None for image in sample) < _NEARLY_ALL * len(sample) / 2:
        return None
    split_of: dict[str, str] = {}
    for image in images:
        if (split := _begins_with(image)) is not None:
            split_of[image.name] = split
    if len(split_of) < _NEARLY_ALL * len(images):
        return None
    named = [image for image in images if image.name in split_of]
    trained = {image.parts[:-1] for image in named if split_of[image.name] == "train"}
    # Else they are called after their classes, which are trains and test tubes.
    if len({*split_of.values()}) < 2 or trained != {image.parts[:-1] for image in named}:
        return None
    if odd := [image.name for image in images if image.name not in split_of]:
        these = "it" if len(odd) == 1 else "them"
        raise UserError(
            f"Nearly all images of {where} are called after splits, such as {named[0].name}, but "
            f"not {listed(odd, 3)}. Rename {these}, such as to train_7.jpg, or move {these} "
            f"elsewhere. {WAY_OUT}"
        )
    return Listed(split_of, (), None, "the names of the images, such as " + images[0].parts[-1])


def _begins_with(image: ImageFile) -> str | None:
    """The split that an image's name begins with."""
    splits = splits_in(_DIGITS.split(image.parts[-1], maxsplit=1)[0])
    return splits.pop() if len(splits) == 1 and splits <= {"train", "val", "test"} else None


def _notes(opened: _Opened) -> Iterable[str]:
    for file, _, contents in opened:
        if contents.splits and contents.missing:
            count = counted(len(contents.missing), "row")
            verb = "names" if len(contents.missing) == 1 else "name"
            yield (
                f"{count} of {file.name} {verb} no image that is there, for example "
                f"{listed(contents.missing, 3)}."
            )


def _groups(opened: _Opened) -> Iterable[str]:
    """What to know where validation images are held out, of files that group images."""
    for file, _, contents in opened:
        if contents.grouped_by:
            yield (
                f"{file.name} says the {contents.grouped_by} of images, which jtl does not use. If "
                "jtl holds out validation images, training images may be of the same groups, so "
                "that accuracy will look better than on new groups. Make a val/ folder with all "
                "images of some groups."
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
        sets = _apart(names for _, names in lists)
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
    told = {
        split: listed(dict.fromkeys(file.name for file, _ in found[split]), 3)
        for split in ("train", "val", "test")
        if split in found
    }
    rest = None if "train" in found else "train"
    if rest is None and len(split_of) < _ENOUGH * len(images):
        missing = next(name for name in images if name not in split_of)
        raise UserError(
            f"The lists {listed(files)} of {where} name only {len(split_of):,} of "
            f"{counted(len(images), 'image')}, and not {missing}, for example. {WAY_OUT}"
        )
    if {*split_of.values()} == {"train"} and len(split_of) == len(images):
        told = {}  # Nothing is divided.
    if len(set(told.values())) > 1:
        told = {split: f"{split} from {names}" for split, names in told.items()}
    words = ", ".join(dict.fromkeys(told.values())) + (", the rest is train" if rest else "")
    return Listed(split_of, tuple(files.values()), rest, words)
