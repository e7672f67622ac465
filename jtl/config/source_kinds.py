"""What kind of source a path is, by what lies there; few folders and first bytes are looked at."""

from __future__ import annotations

import itertools
import os
import re
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from jtl.common.extensions import IMAGE_EXTENSIONS, OTHER_IMAGE_EXTENSIONS

DATASET_DICT, DATASET_STATE, DATASET_INFO = "dataset_dict.json", "state.json", "dataset_info.json"
"""What `datasets` writes beside its Arrow files."""
CIFAR = re.compile(r"cifar-?10(-batches-py|-python)|cifar-?100-python", re.IGNORECASE)
"""The names of CIFAR's folders and archives."""
SVHN = re.compile(r"(train|test|extra)_32x32\.mat")
"""The names of SVHN's cropped digits."""
IDX = re.compile(
    r"(|.+[-_.])(train|t10k|test)[-_.](images|labels)[-_.]idx[13][-_.]ubyte(?:\.gz)?", re.IGNORECASE
)
"""The names of MNIST's files: the data set's, the split, and what they hold."""
IDX_FOLDER = "raw"
"""Where torchvision puts them."""

_IMAGES = IMAGE_EXTENSIONS + OTHER_IMAGE_EXTENSIONS
_MOST_ENTRIES, _MOST_FOLDERS = 1000, 50
_MOST_MEMBERS = 40
"""Of a tar, that tell whether it is one of WebDataset's."""
TAR = (".tar", ".tgz", ".tar.gz")


def kind_of_place(place: Path) -> str:
    """The scheme of an existing file or folder that has none of its own by its name's ending."""
    try:
        if place.is_dir():
            return _of_folder(place)
        if _is_cifar(place):
            return "cifar"
        if IDX.fullmatch(place.name):
            return "idx"
        if place.name.lower().endswith(TAR) and is_webdataset(place):
            return "wds"
    except OSError:
        pass
    return "folder"


def _of_folder(place: Path) -> str:
    names = {entry.name for entry in _entries(place)}
    saved = {DATASET_STATE, DATASET_INFO} <= names
    cached = DATASET_INFO in names and any(name.endswith(".arrow") for name in names)
    if DATASET_DICT in names or saved or cached:
        return "datasets"
    if _is_cifar(place) or any(CIFAR.fullmatch(n) and _is_cifar(place / n) for n in names):
        return "cifar"
    if any(SVHN.fullmatch(name) for name in names) and not _with_images(place):
        return "mat"
    inner = _entries(place / IDX_FOLDER) if (place / IDX_FOLDER).is_dir() else []
    mnist = any(IDX.fullmatch(name) for name in (*names, *(entry.name for entry in inner)))
    if mnist and not _with_images(place):
        return "idx"
    tars = _tars_in(place, names)
    if tars and not _with_images(place) and is_webdataset(tars[0]):
        return "wds"
    return "parquet" if _is_parquet(place) else "folder"


def _tars_in(place: Path, names: Iterable[str]) -> list[Path]:
    """Tar archives in a folder or, if it has none, in its folders."""
    tars = [place / name for name in sorted(names) if name.lower().endswith(TAR)]
    for name in sorted(names)[:_MOST_FOLDERS]:
        if tars:
            break
        if not name.startswith(".") and (place / name).is_dir():
            inner = _entries(place / name)
            tars = sorted(Path(e.path) for e in inner if e.name.lower().endswith(TAR))
    return tars


def is_webdataset(place: Path) -> bool:
    """Whether a tar holds images with their labels beside them: KEY.jpg, KEY.cls.

    A KEY.json is taken for labels only if every image has one, and no folder may be its class.
    """
    images: set[str] = set()
    labels: set[str] = set()
    folders: set[str] = set()
    try:
        with tarfile.open(place, "r|*") as archive:
            for member in itertools.islice(archive, _MOST_MEMBERS):
                path = PurePosixPath(member.name)
                if not member.isfile() or path.name.startswith("."):
                    continue
                key, _, ending = path.name.partition(".")
                key, ending = f"{path.parent}/{key}", f".{ending.lower()}"
                if ending == ".cls":
                    return True
                if ending.endswith(_IMAGES):
                    images.add(key)
                    folders.add(str(path.parent))
                elif ending == ".json":
                    labels.add(key)
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error):
        return False
    # The last image's label may come after the members that were looked at.
    return len(folders) == 1 and bool(labels) and len(images - labels) <= 1 < len(images)


def _is_cifar(place: Path) -> bool:
    """Whether it is a folder or an archive of CIFAR's pickles."""
    if place.is_dir():
        return (place / "batches.meta").is_file() or (
            (place / "meta").is_file() and (place / "train").is_file()
        )
    return bool(CIFAR.match(place.name)) and place.name.lower().endswith(TAR)


def _with_images(place: Path) -> bool:
    """Whether a folder, or one in it, holds image files."""
    inner = [e for e in _entries(place) if e.is_dir() and not e.name.startswith(".")]
    folders = [place, *(Path(entry.path) for entry in inner[:_MOST_FOLDERS])]
    return any(
        entry.name.lower().endswith(_IMAGES) for folder in folders for entry in _entries(folder)
    )


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Some of what is in a folder."""
    with os.scandir(folder) as entries:
        return list(itertools.islice(entries, _MOST_ENTRIES))


def _is_parquet(place: Path) -> bool:
    """Whether a folder holds Parquet files, as data sets of the Hub do, and no class folders.

    The files are in it or up to three levels below; few folders are looked at, as there may be
    thousands of images.
    """
    pending, with_images, found = [(place, 0)], 0, False
    for folder, depth in pending:  # Grows while it is gone through.
        try:
            with os.scandir(folder) as entries:
                for entry in itertools.islice(entries, _MOST_ENTRIES):
                    name = entry.name.lower()
                    # Images may lack an ending; so do LICENSE, _SUCCESS and SHA256SUMS.
                    bare = "." not in name and (entry.name != entry.name.upper() or name.isdigit())
                    if depth and (name.endswith(_IMAGES) or (bare and entry.is_file())):
                        with_images += 1
                        break
                    found = found or (name.endswith(".parquet") and not name.startswith("."))
                    if depth < 3 and not name.startswith(".") and len(pending) < _MOST_FOLDERS:
                        pending += [(Path(entry.path), depth + 1)] if entry.is_dir() else []
        except OSError:
            continue
        if with_images > 1:
            return False
    return found
