"""MNIST's files (IDX): images and labels of MNIST, Fashion-MNIST, KMNIST, EMNIST and others."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.config.source_kinds import IDX, IDX_FOLDER
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.file_splits import fingerprint
from jtl.data.sources.labels import indexed
from jtl.data.splits import LeftOut, OpenedSource, class_problems

_BYTES = 8
"""The type of unsigned bytes, in the header's third byte."""
_SPLITS = {"train": "train", "t10k": "test", "test": "test"}
_MEMORY_SHARE = 0.4
"""Of what is free, that a file may take."""
_LAYOUT = (
    "MNIST's files are train-images-idx3-ubyte, train-labels-idx1-ubyte and, for the test, "
    "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, with or without .gz."
)


class _Named(NamedTuple):
    """What a file's name says: the data set's, its split, and `images` or `labels`."""

    dataset: str
    split: str
    what: str


def load_idx(path: str) -> OpenedSource:
    """Reads a folder of MNIST's files, images uint8 [N, H, W] and labels uint8 [N].

    Those of `t10k` or `test` are the test split. EMNIST's images are turned upright: its makers
    wrote columns as rows.

    Args:
        path: The folder, or the beginning of its files' names where it has several data sets, such
            as `gzip/emnist-letters`.

    Raises:
        UserError: Files are missing, damaged, or of another form.
    """
    place = Path(os.path.expanduser(path))
    folder, start = (place, "") if place.is_dir() else (place.parent, place.name)
    if (folder / IDX_FOLDER).is_dir() and not start:
        folder /= IDX_FOLDER
    files = _files(folder, start, place)
    read = {}
    for split in ("train", "test"):
        pair = {named.what: file for named, file in files.items() if named.split == split}
        if split == "test" and not pair:
            continue
        if missing := [what for what in ("images", "labels") if what not in pair]:
            raise UserError(f"{place} lacks the {split} {listed(missing)}. {_LAYOUT}")
        images, labels = _array(pair["images"], 3), _array(pair["labels"], 1)
        if len(images) != len(labels):
            raise UserError(
                f"{pair['images']} holds {len(images):,} images, and {pair['labels']} "
                f"{len(labels):,} labels: they belong to different sets."
            )
        read[split] = (images, labels, pair["images"].name)
    present = np.unique(np.concatenate([labels for _, labels, _ in read.values()]))
    raw = {split: np.searchsorted(present, labels) for split, (_, labels, _) in read.items()}
    class_names, indices, notes = indexed(raw, list(map(str, present.tolist())), str(place))
    if any("emnist" in named.dataset for named in files):
        notes.append("EMNIST's images are turned upright: its files hold columns as rows.")
        read = {s: (i.transpose(0, 2, 1).copy(), *rest) for s, (i, *rest) in read.items()}
    splits = {
        split: ArraySplit(
            f"{place} ({split})",
            images[..., None],
            indices[split],
            [f"{name}[{row}]" for row in range(len(images))],
        )
        for split, (images, _, name) in read.items()
    }
    rest = sorted(
        child.name
        for child in folder.iterdir()
        if child not in files.values() and child.is_file() and not child.name.startswith(".")
    )
    return OpenedSource(
        class_names,
        splits,
        tuple(notes),
        tuple(class_problems(str(place), class_names, splits)),
        fingerprint(files.values()),
        "the files of labels",
        (LeftOut("other files", tuple(rest)),) if rest else (),
    )


def _files(folder: Path, start: str, place: Path) -> dict[_Named, Path]:
    """The files of one data set; of two of one name, the one that is not compressed."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {place}. {_LAYOUT}")
    files: dict[_Named, Path] = {}
    for child in sorted(folder.iterdir(), reverse=True):
        match = IDX.fullmatch(child.name)
        if match and child.is_file() and child.name.startswith(start):
            dataset, split, what = (part.lower() for part in match.groups())
            files[_Named(dataset.rstrip("-_."), _SPLITS[split], what)] = child
    datasets = sorted({named.dataset for named in files})
    if len(datasets) > 1:
        raise UserError(
            f"{place} holds several data sets: {listed(datasets, 10)}. Give one of them: "
            f"idx:{folder / datasets[-1]}"
        )
    if not files:
        raise UserError(f"{place} holds none of MNIST's files. {_LAYOUT}")
    return files


def _array(file: Path, dimensions: int) -> np.ndarray:
    """The array in a file, uint8."""
    try:
        data = file.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = _unpacked(data, file)
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror or error}.") from error
    start = 4 + 4 * dimensions
    if data[:4] != bytes([0, 0, _BYTES, dimensions]) or len(data) < start:
        raise UserError(
            f"{file} is no IDX file of bytes with {dimensions} dimension(s), as MNIST's are. Copy "
            "or download it again."
        )
    shape = tuple(np.frombuffer(data[4:start], ">u4").astype(np.int64).tolist())
    if math.prod(shape) != len(data) - start or 0 in shape:
        raise UserError(
            f"{file} should hold {list(shape)} bytes, and holds {len(data) - start:,}: it is "
            "damaged. Copy or download it again."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _unpacked(data: bytes, file: Path) -> bytes:
    size = int.from_bytes(data[-4:], "little")
    free = psutil.virtual_memory().available
    if size > free * _MEMORY_SHARE:
        raise UserError(
            f"{file} holds {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free."
        )
    try:
        return gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file} is damaged ({error}). Copy or download it again.") from error
