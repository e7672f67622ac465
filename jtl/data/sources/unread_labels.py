"""Files that labels may be in, which jtl does not read: tables, MATLAB files, boxes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from jtl.common.text import listed
from jtl.data.sources.stores import ImageFile

_KINDS = {
    "tables": r"\.(csv|tsv|jsonl|xlsx?)$",
    "boxes in the format of COCO": r"(^|/)(instances_[^/]*|[^/]*coco[^/]*)\.json$",
    "MATLAB files": r"\.mat$",
    "lists in XML": r"(^|/)[^/]*(label|list|class|info)[^/]*\.xml$",
    "boxes in the format of Pascal VOC": r"\.xml$",
    "arrays or records": r"\.(h5|hdf5|npy|npz|tfrecords?|lmdb|mdb|parquet|arrow)$",
    "lists": r"(^|/)([^/]*(label|class|annotation|train|test|val)[^/]*\.(txt|json)|"
    r"labels?/.*\.txt|(result|project|export|via)[^/]*\.json)$",
}  # fmt: skip
"""By what they are, in the plural; the first that fits counts."""
_NOT_READ = (
    "jtl does not read labels from such files: sort the images into class folders, or make a table "
    "of them with the columns file, label and (for splits) split, and give it as csv:FILE. "
)
_NO_TABLE = r"\.xlsx?$|(^|/)_classes\.csv$"
_SPECIAL = {
    r"(^|/)_classes\.csv$": "Roboflow's _classes.csv may name several classes for an image, and "
    "jtl gives every image one: export the data in the format Folder Structure. ",
    r"coco[^/]*\.json$|(^|/)(?![^/]*(label|list|class|info))[^/]*\.xml$": "They may "
    "hold boxes, of several objects in an image: jtl classifies whole images. ",
    r"\.(h5|hdf5)$": "Arrays can be saved with numpy.savez and read as npz:FILE. ",
    r"\.parquet$": "To read the Parquet files: parquet:FOLDER. ",
}  # fmt: skip


_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


def archives(files: Iterable[ImageFile]) -> list[str]:
    """The names of archives, in which images may be."""
    return [file.name for file in files if file.name.lower().endswith(_ARCHIVES)]


def by_kind(files: Iterable[ImageFile]) -> dict[str, list[str]]:
    """The names of the files that labels may be in, by what they are."""
    found: dict[str, list[str]] = {}
    for file in files:
        for kind, pattern in _KINDS.items():
            if re.search(pattern, file.name, re.IGNORECASE):
                found.setdefault(kind, []).append(file.name)
                break
    return found


def side_by_side(place: str, count: int, labels_told: str) -> str:
    """Sentences about a folder without class folders.

    Args:
        place: The folder.
        count: Its images.
        labels_told: What `told` says of the files beside them.
    """
    if not count:
        return f"{place} has no class folders and no images. {labels_told}"
    held = "it holds 1 image" if count == 1 else f"its {count:,} images lie side by side"
    return (
        f"{place} has no class folders: {held}. {labels_told}Put the images of each class into a "
        "folder named after the class, such as ant/ and bee/. "
    )


def told(files: Iterable[ImageFile], place: Path) -> str:
    """Sentences, for who has images without class folders; empty where there are no such files.

    Args:
        files: That are no images.
        place: The folder or archive that they are in.
    """
    found = {
        kind: [name for name in names if "submission" not in name.lower()]  # Forms to fill in.
        for kind, names in by_kind(files).items()
    }
    names = [name for same in found.values() for name in same]
    if not names:
        return ""
    special = [
        text
        for pattern, text in _SPECIAL.items()
        if any(re.search(pattern, name, re.IGNORECASE) for name in names)
    ]
    tables = [n for n in found.get("tables", ()) if not re.search(_NO_TABLE, n, re.IGNORECASE)]
    if not tables:
        way = "" if special and found.keys() == {"tables"} else _NOT_READ
    elif place.is_dir():
        way = f"To read labels from a table: --data csv:{place}/{tables[0]} "
    else:
        way = (
            f"To read labels from a table: unpack it, and give --data csv:{tables[0]} --image-root "
            f"{place} "
        )
    return f"Their labels may be in {listed(names, 5)}. {''.join(special)}{way}"
