"""MATLAB files of images and labels, as of SVHN's cropped digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil

from jtl.common.errors import UserError
from jtl.common.text import listed
from jtl.config.source_kinds import SVHN
from jtl.data.sources.arrays import ArraySplit
from jtl.data.sources.file_splits import FileKind, by_split, files_of, fingerprint
from jtl.data.sources.labels import indexed, plain_labels
from jtl.data.splits import LeftOut, OpenedSource, class_problems

_KIND = FileKind("MATLAB files", "mat", (".mat",), "*_32x32.mat")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_MEMORY_SHARE = 0.4
"""Of what is free, that a file may take: its arrays are in memory twice for a moment."""
_WANTED = (
    "A MATLAB file of a data set holds two variables: images, uint8 [H, W, C, N] or [N, H, W, C], "
    "and a label for each, [N]."
)


def load_matlab(patterns: str) -> OpenedSource:
    """Reads MATLAB files with one array of images and one of labels.

    Of SVHN, the label 10 is the digit 0. The names of the files say the split; SVHN's `extra` is
    left out.

    Args:
        patterns: Paths, separated by commas: files, folders, or patterns with `*`.

    Raises:
        UserError: A file cannot be read, or holds no images or no labels, or several.
    """
    found = files_of(patterns, _KIND)
    extra = [path for path in found if path.name == "extra_32x32.mat" and len(found) > 1]
    notes = [f"{path} is not used: SVHN's easier, additional images." for path in extra]
    files, left_out = by_split([path for path in found if path not in extra], _KIND)
    if extra:
        left_out = (*left_out, LeftOut("additional images", tuple(map(str, extra))))
    read = {split: [_arrays(path) for path in paths] for split, paths in files.items()}
    digits = all(SVHN.fullmatch(path.name) for paths in files.values() for path in paths)
    labels = {split: np.concatenate([y for _, y in parts]) for split, parts in read.items()}
    if digits:
        labels = {split: values % 10 for split, values in labels.items()}
    names = None
    if all(values.dtype.kind in "iu" for values in labels.values()):
        present = np.unique(np.concatenate(list(labels.values())))
        names = list(map(str, present.tolist()))
        labels = {split: np.searchsorted(present, values) for split, values in labels.items()}
    class_names, indices, more = indexed(labels, names, patterns)
    splits = {}
    for split, values in indices.items():
        shapes = {images.shape[1:] for images, _ in read[split]}
        if len(shapes) > 1:
            raise UserError(f"The images of {patterns} have different shapes: {listed(shapes)}.")
        rows = [
            f"{path.name}[{row}]"
            for path, (images, _) in zip(files[split], read[split], strict=True)
            for row in range(len(images))
        ]
        images = np.concatenate([images for images, _ in read[split]])
        splits[split] = ArraySplit(f"{patterns} ({split})", images, values, rows)
    told = "the labels of the MATLAB files" + (", in which 10 is the digit 0" if digits else "")
    return OpenedSource(
        class_names,
        splits,
        (*notes, *more),
        tuple(class_problems(patterns, class_names, splits)),
        fingerprint([path for paths in files.values() for path in paths]),
        told,
        left_out,
    )


def _arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images, uint8 [N, H, W, 1 or 3], and labels [N]."""
    held = _variables(path)
    images = {
        name: array
        for name, array in held.items()
        if array.dtype == np.uint8 and array.ndim in (3, 4) and min(array.shape) > 0
    }
    if len(images) != 1:
        raise UserError(
            f"{path} has {'several arrays' if images else 'no array'} that could be the images"
            f"{': ' + listed(images) if images else ''}. {_WANTED} It holds {_told(held)}."
        )
    [(name, array)] = images.items()
    counts = (array.shape[-1], array.shape[0])
    labels = {
        other: values.reshape(-1)
        for other, values in held.items()
        if other != name
        and values.dtype.kind in "iufb"
        and values.size == max(values.shape, default=0)
        and values.size in counts
    }
    if len(labels) != 1:
        raise UserError(
            f"{path} has {'several arrays' if labels else 'no array'} that could be the labels of "
            f"its images '{name}'{': ' + listed(labels) if labels else ''}. {_WANTED} It holds "
            f"{_told(held)}."
        )
    [(other, values)] = labels.items()
    if array.ndim == 3:
        array = array[:, :, None, :] if array.shape[-1] == len(values) else array[..., None]
    if array.shape[-1] == len(values) and array.shape[2] in (1, 3):
        array = array.transpose(3, 0, 1, 2)
    if array.shape[0] != len(values) or array.shape[-1] not in (1, 3):
        raise UserError(
            f"The images '{name}' of {path} have the shape {list(held[name].shape)}, and there are "
            f"{len(values)} labels. {_WANTED}"
        )
    return np.ascontiguousarray(array), plain_labels(values, f"{path}, {other}")


def _variables(path: Path) -> dict[str, np.ndarray]:
    """The arrays in a file.

    Raises:
        UserError: It cannot be read, or does not fit in memory.
    """
    try:
        with path.open("rb") as file:
            head = file.read(520)
        if head.startswith(_HDF5) or head[512:520] == _HDF5:
            return _of_hdf5(path)
        import scipy.io

        sizes = scipy.io.whosmat(path)
        _check_memory(path, sum(int(np.prod(shape)) for _, shape, _ in sizes))
        kept = [name for name, _, kind in sizes if kind not in ("function", "opaque", "object")]
        held = scipy.io.loadmat(path, variable_names=kept)
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"Cannot read {path}: {error.strerror}.") from error
        raise _damaged(path, error) from error
    except UserError:
        raise
    except Exception as error:  # Damage provokes many kinds.
        raise _damaged(path, error) from error
    return {name: array for name, array in held.items() if isinstance(array, np.ndarray)}


def _of_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The arrays of MATLAB's version 7.3, whose axes are in the opposite order."""
    import h5py

    with h5py.File(path, "r") as file:
        held: dict[str, Any] = {n: v for n, v in file.items() if isinstance(v, h5py.Dataset)}
        _check_memory(path, sum(int(np.prod(v.shape)) * v.dtype.itemsize for v in held.values()))
        return {name: value[()].T for name, value in held.items() if value.dtype.kind in "iufb"}


def _check_memory(path: Path, needed: int) -> None:
    free = psutil.virtual_memory().available
    if needed > free * _MEMORY_SHARE:
        raise UserError(
            f"{path} holds {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free. Save "
            "the images as files in class folders, which are read one by one."
        )


def _told(held: dict[str, np.ndarray]) -> str:
    texts = [
        f"{name} ({array.dtype} {list(array.shape)})"
        for name, array in held.items()
        if not name.startswith("__")
    ]
    return listed(texts) or "nothing"


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is not a readable MATLAB file ({error or type(error).__name__}). It may be "
        "damaged or incomplete: copy or download it again."
    )
