"""NumPy archives (.npz) of images and labels."""

from __future__ import annotations

import hashlib
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from jtl.common.errors import UserError, suggest
from jtl.config.data import Task
from jtl.data.sources import unread_labels
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.label_sets import of_flags
from jtl.data.sources.labels import indexed, plain_labels, plain_names
from jtl.data.splits import LeftOut, OpenedSource, class_problems, split_of

_IMAGES, _LABELS = ("x", "images", "image"), ("y", "labels", "label")
_NAMES = "class_names"
_LAYOUT = (
    "Expected x_train and y_train (with x_val, y_val, x_test, y_test if there are any), "
    "train_images and train_labels (with val_..., test_...), or images and labels; and, if you "
    f"like, {_NAMES}."
)
_MEMORY_SHARE = 0.8
"""The share of free memory that the arrays may take."""


def load_npz(path: str, task: Task = "auto") -> OpenedSource:
    """Read a .npz file of images and labels; nothing in it is unpickled.

    Images are uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]; labels are integers, whole
    floats, booleans or strings, [N] or [N, 1]. Splits are told by the arrays' names, as of Keras
    (`x_train`, `y_train`) or MedMNIST (`train_images`, `train_labels`). `class_names` is a vector
    of strings; without it integer labels of train must be 0 to K - 1, every one of them used.
    Several labels for each image are a column of 0 and 1 for each class, [N, K].

    Args:
        path: The file.
        task: Whether images may have several labels.

    Raises:
        UserError: If the file cannot be read, or its arrays are not of this kind.
    """
    place = Path(os.path.expanduser(path))
    if place.is_dir():
        raise UserError(f"{place} is a folder, not a .npz file. Of class folders: folder:{place}.")
    if not place.is_file():
        siblings = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise UserError(f"There is no file {place}.{suggest(place.name, siblings)}")
    try:
        with zipfile.ZipFile(place) as archive:
            members = [(i.filename, i.file_size, i.CRC) for i in archive.infolist()]
            shapes = _shapes(archive)
        pairs, ignored = _pairs(shapes, place)
        _check_shapes(pairs, shapes, place, several=task == "multilabel")
        with np.load(place, allow_pickle=False) as arrays:
            given = arrays[_NAMES] if _NAMES in shapes else None
            read = {split: (arrays[x], arrays[y]) for split, (x, y) in pairs.items()}
    except UserError:
        raise
    except OSError as error:
        if error.errno is None:
            raise _unreadable(place, error) from error
        raise UserError(f"Cannot read {place}: {error.strerror}.") from error
    # What damage provokes, in the archive, in what compresses it and in the arrays' headers.
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        raise _unreadable(place, error) from error
    names = None if given is None else plain_names(given, place)
    if task == "multilabel":
        class_names, labels, notes = of_flags({s: y for s, (_, y) in read.items()}, names, place)
    else:
        raw = {
            split: plain_labels(labels.reshape(-1), f"{place}, array {pairs[split][1]}")
            for split, (_, labels) in read.items()
        }
        class_names, labels, notes = indexed(raw, names, str(place))
    splits = {
        split: ArraySplit(
            f"{place} ({split})",
            images if images.ndim == 4 else images[..., None],
            labels[split],
            [f"{pairs[split][0]}[{row}]" for row in range(len(images))],
        )
        for split, (images, _) in read.items()
        if split in labels
    }
    if ignored:
        notes.append(f"Arrays that are not used: {', '.join(ignored)}.")
    problems = class_problems(str(place), class_names, splits)
    digest = hashlib.sha256(repr(sorted(members)).encode()).hexdigest()
    labels_from = " and ".join(dict.fromkeys(f"the array {y}" for _, y in pairs.values()))
    left_out = (LeftOut("arrays", tuple(ignored)),) if ignored else ()
    return OpenedSource(
        class_names, splits, tuple(notes), tuple(problems), digest, labels_from, left_out
    )


def _shapes(archive: zipfile.ZipFile) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and type of every array, from its header."""
    shapes = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        with archive.open(info) as file:
            version = np.lib.format.read_magic(file)
            header: Any = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if header is None:
                raise ValueError(f"{info.filename} is of the unknown version {version}")
            shape, _, dtype = header(file)
        shapes[info.filename.removesuffix(".npy")] = (shape, dtype)
    return shapes


def _pairs(shapes: Mapping[str, Any], place: Path) -> tuple[dict[str, tuple[str, str]], list[str]]:
    """The names of the images' and the labels' array of every split, and other names."""
    found: dict[tuple[str, int], list[str]] = {}
    ignored = []
    for name in shapes:
        words = name.lower().split("_")
        kinds = [kind for kind, known in enumerate((_IMAGES, _LABELS)) if set(words) & set(known)]
        rest = [word for word in words if word not in (*_IMAGES, *_LABELS)]
        split = "train" if not rest else split_of("_".join(rest))
        if len(kinds) == 1 and len(words) - len(rest) == 1 and split is not None:
            found.setdefault((split, kinds[0]), []).append(name)
        elif name != _NAMES:
            ignored.append(name)
    several = [names for names in found.values() if len(names) > 1]
    if several:
        raise UserError(f"{place} has several arrays for one thing: {', '.join(several[0])}.")
    pairs = {}
    for split in ("train", "val", "test"):
        images, labels = found.get((split, 0)), found.get((split, 1))
        if images and labels:
            pairs[split] = (images[0], labels[0])
        elif images or labels:
            alone, lacks = (images, "labels") if images else (labels, "images")
            assert alone
            raise UserError(f"{place} has {alone[0]}, but no {lacks} for it. {_LAYOUT}")
    if "train" not in pairs:
        raise UserError(
            f"{place} has no images and labels to train on. It has: "
            f"{', '.join(shapes) or 'nothing'}. {_LAYOUT}"
        )
    return pairs, ignored


def _check_shapes(
    pairs: Mapping[str, tuple[str, str]],
    shapes: Mapping[str, tuple[tuple[int, ...], np.dtype]],
    place: Path,
    *,
    several: bool,
) -> None:
    """Makes sure from the headers that the arrays are images and labels, and fit in memory."""
    wrong = []
    needed = 0
    for x, y in pairs.values():
        (shape, dtype), (label_shape, label_dtype) = shapes[x], shapes[y]
        if dtype != np.uint8:
            wrong.append(f"{x} is {dtype}; images must be uint8, 0 to 255{_advice(dtype)}")
        if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
            wrong.append(
                f"{x} has the shape {list(shape)}; images must be [N, H, W], [N, H, W, 1] or "
                f"[N, H, W, 3]{_channels_first(shape)}"
            )
        elif 0 in shape:
            wrong.append(f"{x} has the shape {list(shape)}: there is no image in it")
        if label_dtype.kind not in "iufbUS":
            wrong.append(f"{y} is {label_dtype}; labels must be integers or strings")
        if several and (len(label_shape) != 2 or label_shape[1] < 2 or label_dtype.kind in "US"):
            wrong.append(
                f"{y} has the shape {list(label_shape)} ({label_dtype}); with --task multilabel, "
                "labels must be 0 or 1, [N, K], a column for each class"
            )
        elif not several and len(label_shape) != 1 and label_shape[1:] != (1,):
            wrong.append(
                f"{y} has the shape {list(label_shape)}; labels must be [N] or [N, 1], one class "
                "for each image. If these are several labels for an image: --task multilabel; of "
                "one-hot labels use np.argmax(labels, axis=1)"
            )
        elif shape[:1] != label_shape[:1]:
            wrong.append(f"{x} has {shape[0] if shape else 0} images, {y} {label_shape[0]} labels")
        needed += math.prod(shape) * dtype.itemsize
    if wrong:
        raise UserError("\n".join([f"{place} cannot be used:", *(f"  {line}." for line in wrong)]))
    free = psutil.virtual_memory().available
    if needed > free * _MEMORY_SHARE:
        raise UserError(
            f"{place} holds {needed / 1e9:.1f} GB of images, and {free / 1e9:.1f} GB of memory "
            "are free. Save them as image files in class folders, which are read one by one."
        )


def _advice(dtype: np.dtype) -> str:
    if dtype.kind == "f":
        return " (of values from 0 to 1: (x * 255).round().astype(np.uint8))"
    return " (use .astype(np.uint8) if all values fit)" if dtype.kind in "iu" else ""


def _channels_first(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[1] in (1, 3):
        return " (channels come last: x.transpose(0, 2, 3, 1))"
    return ""


def _unreadable(place: Path, error: Exception) -> UserError:
    if way := unread_labels.way_out_of_file(place):
        return UserError(f"{place} is no .npz file. {way}".rstrip())
    return UserError(
        f"{place} is not a readable .npz file ({error or type(error).__name__}). It may be damaged "
        "or incomplete: write or copy it again with np.savez, without Python objects."
    )
