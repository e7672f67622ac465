"""CIFAR-10 and CIFAR-100 as their makers publish them: Python pickles, of which nothing is run."""

from __future__ import annotations

import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError, suggest
from jtl.common.text import listed
from jtl.config.source_kinds import CIFAR
from jtl.data.sources import plain_pickle
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.file_splits import fingerprint
from jtl.data.sources.labels import indexed, plain_labels
from jtl.data.splits import LeftOut, OpenedSource, class_problems

_SIDE, _PIXELS = 32, 3 * 32 * 32
_LARGEST = 2**30
"""Bytes of a file; CIFAR's have up to 154 million."""
_LAYOUT = (
    "CIFAR-10 is a folder cifar-10-batches-py with data_batch_1 to data_batch_5, test_batch and "
    "batches.meta; CIFAR-100 is a folder cifar-100-python with train, test and meta. Give it, or "
    "the .tar.gz that it came in."
)
_AGAIN = "Copy or download it again."


class _Form(NamedTuple):
    """How one of the data sets is laid out.

    Attributes:
        meta: The file with the names of the classes.
        train: The files of training images.
        test: The file of test images.
        names: By the key of the labels in the others, the first as default, their names' key.
    """

    meta: str
    train: tuple[str, ...]
    test: str
    names: Mapping[str, str]

    @property
    def files(self) -> tuple[str, ...]:
        return (self.meta, *self.train, self.test)


_FORMS = (
    _Form(
        "batches.meta",
        tuple(f"data_batch_{n}" for n in range(1, 6)),
        "test_batch",
        {"labels": "label_names"},
    ),
    _Form(
        "meta",
        ("train",),
        "test",
        {"fine_labels": "fine_label_names", "coarse_labels": "coarse_label_names"},
    ),
)
_Read = Callable[[str], bytes | None]


def load_cifar(path: str, label_column: str | None = None) -> OpenedSource:
    """Reads the folder or the .tar.gz of CIFAR's pickles; the test batch is the test split.

    Args:
        path: The folder, one that holds it, or the archive.
        label_column: `fine_labels` (default) or `coarse_labels` of CIFAR-100.

    Raises:
        UserError: Files are missing, damaged, or hold something else than images and labels.
    """
    place = Path(os.path.expanduser(path))
    if not place.exists():
        siblings = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise UserError(f"There is no folder or archive {place}.{suggest(place.name, siblings)}")
    if place.is_dir():
        place = _folder(place)
        files = sorted(child for child in place.iterdir() if child.is_file())
        held = {file.name: file for file in files}
        read: _Read = lambda name: _content(held[name]) if name in held else None  # noqa: E731
    else:
        held = _unpacked(place)
        files, read = [place], held.get
    form = next((form for form in _FORMS if form.meta in held), None)
    if form is None:
        raise UserError(f"{place} holds none of CIFAR's files. {_LAYOUT}")
    labels_key = label_column or next(iter(form.names))
    if labels_key not in form.names:
        raise UserError(
            f"--label-column {labels_key}: {place} has no such labels."
            f"{suggest(labels_key, form.names)} It has {listed(form.names)}."
        )
    names = _names(_loaded(form.meta, read, place), form.names[labels_key], place / form.meta)
    parts = {
        "train": [_batch(name, read, place, labels_key) for name in form.train],
        "test": [_batch(form.test, read, place, labels_key)],
    }
    where = f"{place}, {labels_key}"
    labels = {split: np.concatenate([y for _, y in batches]) for split, batches in parts.items()}
    class_names, indices, notes = indexed(labels, names, where)
    splits = {}
    for split, values in indices.items():
        batches = zip({"train": form.train, "test": (form.test,)}[split], parts[split], strict=True)
        rows = [f"{name}[{row}]" for name, (images, _) in batches for row in range(len(images))]
        images = np.concatenate([images for images, _ in parts[split]])
        splits[split] = ArraySplit(f"{place} ({split})", images, values, rows)
    used = {*form.files}
    rest = tuple(sorted(name for name in held if name not in used and not name.startswith(".")))
    return OpenedSource(
        class_names,
        splits,
        tuple(notes),
        tuple(class_problems(str(place), class_names, splits)),
        fingerprint([f for f in files if f == place or f.name in used], labels_key),
        f"'{labels_key}' of the batches, named by {form.meta}",
        (LeftOut("files that are no batches", rest),) if rest else (),
    )


def _folder(place: Path) -> Path:
    """The folder with the pickles: the given one, or the one of CIFAR in it."""
    metas = {form.meta for form in _FORMS}
    if any((place / meta).is_file() for meta in metas):
        return place
    inner = [child for child in sorted(place.iterdir()) if CIFAR.fullmatch(child.name)]
    inner = [child for child in inner if any((child / meta).is_file() for meta in metas)]
    if len(inner) > 1:
        raise UserError(
            f"{place} has several data sets: {listed(child.name for child in inner)}. Give one of "
            f"them: cifar:{inner[0]}"
        )
    if not inner:
        binary = [child.name for child in place.rglob("data_batch_1.bin")]
        told = "These are the files for C programs, which jtl does not read. " if binary else ""
        raise UserError(f"{place} has neither batches.meta nor meta. {told}{_LAYOUT}")
    return inner[0]


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST:
            raise UserError(f"{file} is too large for one of CIFAR's files. {_LAYOUT}")
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {file}: {error.strerror or error}.") from error


def _unpacked(place: Path) -> dict[str, bytes]:
    """CIFAR's files in an archive, by their names."""
    wanted = {name for form in _FORMS for name in form.files}
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(place, "r:*") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if not member.isreg() or name not in wanted:
                    continue
                if not CIFAR.fullmatch(folder.rpartition("/")[2]):
                    continue
                if member.size > _LARGEST:
                    raise UserError(f"{member.name} of {place} is too large. {_LAYOUT}")
                file = archive.extractfile(member)
                assert file is not None
                found[name] = file.read()
    except UserError:
        raise
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OSError) as error:
        raise UserError(f"{place} is not a readable tar archive ({error}). {_AGAIN}") from error
    return found


def _loaded(name: str, read: _Read, place: Path) -> dict[str, Any]:
    """The dict in a pickle, its keys as text."""
    data = read(name)
    if data is None:
        raise UserError(f"{place} lacks {name}. {_LAYOUT}")
    try:
        held = plain_pickle.load(data)
    except plain_pickle.NotPlain as error:
        raise UserError(
            f"{place / name} is none of CIFAR's files: {error}. jtl runs no code of pickles. "
            f"{_AGAIN}"
        ) from error
    if not isinstance(held, dict):
        raise UserError(f"{place / name} is none of CIFAR's files: it holds no dict. {_AGAIN}")
    return {_text(key): value for key, value in held.items()}


def _names(held: Mapping[str, Any], key: str, file: Path) -> list[str]:
    names = held.get(key)
    if not isinstance(names, list) or not all(isinstance(name, (str, bytes)) for name in names):
        raise UserError(f"{file} has no list '{key}' of the classes' names. {_AGAIN}")
    return [_text(name) for name in names]


def _batch(name: str, read: _Read, place: Path, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [N, 32, 32, 3], and labels [N] of one file."""
    held = _loaded(name, read, place)
    images, labels = held.get("data"), held.get(key)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise UserError(
            f"{place / name} has no 'data' of uint8 [N, {_PIXELS}], the pixels of N images. "
            f"{_AGAIN}"
        )
    whole = isinstance(labels, list) and all(type(label) is int for label in labels)
    if not whole or labels is None or len(labels) != len(images) or not len(images):
        raise UserError(
            f"{place / name} has no list '{key}' with a whole number for each of its "
            f"{len(images)} images. {_AGAIN}"
        )
    # A row holds the red pixels, then the green, then the blue.
    planes = images.reshape(-1, 3, _SIDE, _SIDE)
    pixels = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return pixels, plain_labels(np.array(labels, np.int64), f"{place / name}")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
