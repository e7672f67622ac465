"""Files that labels may be in, which jtl does not read: tables, MATLAB files, boxes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jtl.common.text import listed
from jtl.data.sources.names import splits_in
from jtl.data.sources.stores import ImageFile, decoded

_RECORDS = r"(tfrecords?(-\d+-of-\d+)?|lmdb|mdb|rec|arrow)"
"""The endings of files that hold images and labels."""
COCO = "labels or boxes in the format of COCO"
_KINDS = {
    "tables": r"\.(csv|tsv|jsonl|xlsx?)$",
    COCO: r"(^|/)(instances_[^/]*|[^/]*coco[^/]*)\.json$",
    "MATLAB files": r"\.mat$",
    "lists in XML": r"(^|/)[^/]*(label|list|class|info)[^/]*\.xml$",
    "boxes in the format of Pascal VOC": r"\.xml$",
    "labels of WebDataset": r"\.cls$",
    "arrays or records": rf"\.(h5|hdf5|npy|npz|{_RECORDS}|parquet)$",
    "lists": r"(^|/)([^/]*(label|class|annotation|category|attribute|train|test|val)[^/]*\."
    r"(txt|json)|labels?/.*\.txt|(result|project|export|via)[^/]*\.json)$",
}  # fmt: skip
"""By what they are, in the plural; the first that fits counts."""
_VIA, _LABELME, _YOLO = (f"boxes in the format of {name}" for name in ("VIA", "LabelMe", "YOLO"))
_SHARE = r"(0?\.\d+|[01](\.\d*)?|\d(\.\d+)?e-\d+)"
LABEL_STUDIO, _SUPERVISELY = (f"annotations of {name}" for name in ("Label Studio", "Supervisely"))
_HELD = {
    _VIA: r"[\s\S]*\"_via_|(?=[\s\S]*\"regions\"\s*:)[\s\S]*\"filename\"\s*:",
    _LABELME: r"(?=[\s\S]*\"shapes\"\s*:)[\s\S]*\"(imagePath|imageData)\"\s*:",
    COCO: r"(?=[\s\S]*\"images\"\s*:\s*\[)"
    r"[\s\S]*\"(annotations|categories|file_name)\"\s*:",
    LABEL_STUDIO: r"(?=[\s\S]*\"annotations\"\s*:\s*\[)[\s\S]*\"data\"\s*:\s*\{",
    _SUPERVISELY: r"(?=[\s\S]*\"tags\"\s*:\s*\[)[\s\S]*\"objects\"\s*:\s*\[",
    # A class, and a centre and sides that are shares of the image's.
    _YOLO: rf"\s*\d+( {_SHARE}){{2}}( (?!0(\.0*)?\s){_SHARE}){{2}}( {_SHARE})*\s*(\n|$)",
}
"""By what a file begins with, where its name says nothing."""
_LOOKED_INTO = (".json", ".txt")
_FIRST_BYTES = 2**12
_MOST_LOOKED = (8, 100)
"""In a folder, and in all."""
_NOT_READ = (
    "jtl does not read labels from such files: sort the images into class folders, or make a table "
    "of them with the columns file, label and (for splits) split, and give it as csv:FILE. "
)
_NO_TABLE = r"\.xlsx?$"
_OF_ROBOFLOW = r"(^|/)_classes\.csv$"
_OF_BOXES = "They may hold boxes, of several objects in an image: jtl classifies whole images. "
_MATLAB = (
    "If they hold images and a label for each, as those of SVHN do: mat:FILE. Others load with "
    "scipy.io.loadmat (version 7.3 with h5py); write what they say as a table. "
)
_LMDB = (
    "LMDB holds images as each program that wrote it likes. Read it with the package lmdb, and "
    "write every image into a folder named after its class. "
)
_RECORDIO = (
    "MXNet's RecordIO: read it with mxnet.recordio.MXRecordIO and unpack, and write every image "
    "into a folder named after its label. "
)
_TFRECORD = (
    "If TensorFlow Datasets has written these records: tfds:FOLDER, once prepared with "
    "--file_format=array_record. Else read them with tf.data.TFRecordDataset, and write every "
    "image into a folder named after its class. "
)
_ARRAYS = r"(^|/)[^/]*_32x32\.mat$"
_WITH_IMAGES = rf"{_ARRAYS}|\.{_RECORDS}$|\.cls$|\.npz$"
"""The names of files that hold images, too, or come with them in files that jtl reads."""
_FILES = {
    ".mat": _MATLAB,
    ".mdb": _LMDB,
    ".lmdb": _LMDB,
    ".rec": _RECORDIO,
    ".tfrecord": _TFRECORD,
    ".tfrecords": _TFRECORD,
    ".h5": "Save images [N, H, W, 3] and labels [N] of it with numpy.savez('data.npz', "
    "x_train=..., y_train=...). ",
    ".npy": "Save images and labels together: numpy.savez('data.npz', x_train=..., y_train=...). ",
    ".json": "If it is a list of objects with the columns file and label: csv:FILE. ",
    ".txt": "If it is a table of image files and their labels: csv:FILE. ",
}
"""What to say of a file that is given as a source."""
_SPECIAL = {
    _OF_ROBOFLOW: "Roboflow's _classes.csv may name several classes for an image: if so, add "
    "--task multilabel. ",
    r"coco[^/]*\.json$|(^|/)(?![^/]*(label|list|class|info))[^/]*\.xml$": _OF_BOXES,
    r"\.npy$": "Save images [N, H, W, 3] and labels [N] together as uint8 and integers: "
    "numpy.savez('data.npz', x_train=..., y_train=...), to be read as npz:data.npz. ",
    r"\.npz$": "To read images and labels in an .npz: npz:FILE. ",
    r"\.(h5|hdf5)$": "Arrays can be saved with numpy.savez and read as npz:FILE. ",
    r"\.cls$": "If they come from tar files of WebDataset, give these: wds:FILES. ",
    _ARRAYS: "Those of SVHN hold the images, too: mat:FOLDER. ",
    r"\.(mdb|lmdb)$": _LMDB,
    r"\.rec$": _RECORDIO,
    r"\.tfrecords?(-\d+-of-\d+)?$": _TFRECORD,
    r"\.arrow$": "To read Arrow files that Hugging Face's datasets saved: datasets:FOLDER. ",
    r"\.parquet$": "To read the Parquet files: parquet:FOLDER. ",
}  # fmt: skip


_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


def archives(files: Iterable[ImageFile]) -> list[str]:
    """The names of archives, in which images may be."""
    return [file.name for file in files if file.name.lower().endswith(_ARCHIVES)]


def by_kind(
    files: Iterable[ImageFile], read: Callable[..., bytes] | None = None
) -> dict[str, list[str]]:
    """The names of the files that labels may be in, by what they are.

    Args:
        files: That are no images.
        read: What gives a file's contents, with a second argument at most so many bytes; None to
            go by names alone.
    """
    found: dict[str, list[str]] = {}
    looked: Counter[tuple[str, ...]] = Counter()
    of_folder: dict[tuple[str, ...], str] = {}
    for file in files:
        matches = (k for k, pattern in _KINDS.items() if re.search(pattern, file.name, re.I))
        kind = next(matches, None)
        if read is not None and kind in (None, "lists") and file.name.endswith(_LOOKED_INTO):
            folder = (*file.parts[:-1], file.name[-5:].rpartition(".")[2])
            few, all_ = _MOST_LOOKED
            if looked[folder] < few and looked.total() < all_:
                looked[folder] += 1
                held = _kind_held(file, read)
                if held in (_YOLO, _LABELME, _SUPERVISELY):  # One for each image.
                    of_folder[folder] = held
                kind = held or kind
            elif kind is None:
                kind = of_folder.get(folder)
        if kind is not None:
            found.setdefault(kind, []).append(file.name)
    return found


def _kind_held(file: ImageFile, read: Callable[..., bytes]) -> str | None:
    try:
        return kind_of_text(decoded(read(file, _FIRST_BYTES)))
    except Exception:  # Links to nothing, damaged archives: of many kinds.
        return None


def kind_of_text(text: str) -> str | None:
    """Whose boxes a text holds, by its beginning; None where it holds something else."""
    is_json = text.lstrip()[:1] in ("{", "[")
    return next(
        (
            kind
            for kind, pattern in _HELD.items()
            if is_json == (kind != _YOLO) and re.match(pattern, text, re.IGNORECASE)
        ),
        None,
    )


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


def way_out_of_file(path: Path) -> str:
    """A sentence for who gives a file in which labels or arrays may be as the source of images."""
    ending = path.suffix.lower()
    return _FILES.get({".hdf5": ".h5", ".pkl": ".npy"}.get(ending, ending), "")


def told(files: Iterable[ImageFile], place: Path, read: Callable[..., bytes] | None = None) -> str:
    """Sentences, for who has images without class folders; empty where there are no such files.

    Args:
        files: That are no images.
        place: The folder or archive that they are in.
        read: As of `by_kind`.
    """
    files = list(files)
    found = {
        kind: [name for name in names if "submission" not in name.lower()]  # Forms to fill in.
        for kind, names in by_kind(files, read).items()
    }
    names = [name for same in found.values() for name in same]
    if not names:
        return ""
    special = [
        text
        for pattern, text in _SPECIAL.items()
        if any(re.search(pattern, name, re.IGNORECASE) for name in names)
    ]
    if any(found.get(kind) for kind in _HELD if "boxes" in kind) and _OF_BOXES not in special:
        special.append(_OF_BOXES)
    tables = [n for n in found.get("tables", ()) if not re.search(_NO_TABLE, n, re.IGNORECASE)]
    tables = _likeliest(tables, {file.name: file for file in files}, read)
    if not tables:
        arrays = any(re.search(_WITH_IMAGES, name, re.IGNORECASE) for name in names)
        way = "" if special and (found.keys() == {"tables"} or arrays) else _NOT_READ
    elif place.is_dir():
        given = tables[0]
        if re.search(_OF_ROBOFLOW, given) and "/" in given:  # One in the folder of each split.
            given = given.rpartition("/")[0].rpartition("/")[0]
        way = f"To read labels from a table: --data csv:{Path(place, given)} "
    else:
        way = (
            f"To read labels from a table: unpack it, and give --data csv:{tables[0]} --image-root "
            f"{place} "
        )
    names = [*tables, *(name for name in names if name not in tables)]
    return f"Their labels may be in {listed(names, 5)}. {''.join(special)}{way}"


def _likeliest(
    names: list[str], files: Mapping[str, ImageFile], read: Callable[..., bytes] | None
) -> list[str]:
    """Tables that may have labels, those of training images first and those of test images last."""

    def has_labels(name: str) -> bool:
        try:
            head = decoded(read(files[name], _FIRST_BYTES)).partition("\n")[0] if read else ""
        except Exception:  # Links to nothing, damaged archives: of many kinds.
            head = ""
        return not head or any(separator in head.strip() for separator in ",;\t ")

    def order(name: str) -> tuple[int, bool]:
        splits = splits_in(name.rpartition("/")[2])
        rank = 0 if splits == {"train"} else 2 if splits == {"test"} else 1
        return rank, "box" in name.lower()  # Boxes are of some images, as NIH's.

    return sorted(filter(has_labels, names), key=order)
