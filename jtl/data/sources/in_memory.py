"""Images and labels that a Python program holds, as a source that later commands can read too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jtl.common import files
from jtl.common.errors import UserError
from jtl.common.paths import as_path, cache_dir
from jtl.common.text import counted, listed, type_of

FOLDER = "given"
"""In jtl's cache: arrays and lists of files that were given to `jtl.fit`."""
_FILES = ("file", "path", "image", "filename", "filepath", "file_name", "image_path")
_LABELS = ("label", "class", "category", "species", "target", "y")
_ALLOWED = (
    "Give a path or a source such as 'folder:my-images', (images, labels) with uint8 images "
    "[N, H, W, 3] or a list of files, or a DataFrame with a column of files and one of labels"
)


def as_source(data: Any) -> str:
    """A source that holds what a Python program has.

    Arrays and lists of files are kept in jtl's cache, under their content, so that the run can
    be evaluated and resumed; of files only links.

    Args:
        data: A path or a source; (images, labels), where images are uint8 [N, H, W] or
            [N, H, W, C], or paths of files, and labels are one integer or text for each; or a
            DataFrame with a column `file`, a column `label` and, if there are splits, `split`.

    Raises:
        UserError: It is something else, or files are missing.
    """
    if isinstance(data, str):
        return data
    if isinstance(data, os.PathLike):
        return os.fspath(as_path(data, "data"))
    if hasattr(data, "columns"):
        return _of_frame(data)
    if isinstance(data, (tuple, list)) and len(data) == 2:
        images, labels = data
        if not _is_many(images):
            raise UserError(f"the images are {type_of(images)}. {_ALLOWED}.")
        labels = _labels(labels)
        # A column of a DataFrame is an array of objects.
        if not hasattr(images, "__array__") or np.asarray(images).dtype.kind in "OUT":
            images = list(images) if isinstance(images, Iterable) else images
        if isinstance(images, list) and all(isinstance(one, (str, os.PathLike)) for one in images):
            return _of_files(images, labels, [""] * len(images))
        if isinstance(images, list) or hasattr(images, "__array__"):
            return _of_arrays(images, labels)
    raise UserError(f"data is {type_of(data)}. {_ALLOWED}.")


def _is_many(given: Any) -> bool:
    """Whether it is a list, an array or the like; a text is one thing."""
    if hasattr(given, "__array__"):
        return np.ndim(given) > 0
    return isinstance(given, Iterable) and not isinstance(given, (str, bytes))


def _labels(labels: Any) -> np.ndarray:
    """One label for each image, [N]; or, with `--task multilabel`, 0 and 1 for each class, [N, K].

    Raises:
        UserError: They are no list, or some images have none: as text, NaN would be a class.
    """
    if not _is_many(labels):
        raise UserError(f"the labels are {type_of(labels)}. Give a list with one for each image.")
    if not hasattr(labels, "tolist") and hasattr(labels, "__array__"):
        labels = np.asarray(labels)  # A DataFrame, whose items are the names of its columns.
    if isinstance(labels, np.ndarray):
        labels = labels.ravel() if labels.shape[1:] == (1,) else labels
        if labels.ndim == 2 and labels.dtype.kind in "iufb":
            return labels
    rows = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    empty = ("None", "nan", "<NA>", "NaT")
    lost = sum(not isinstance(row, str) and str(row) in empty for row in rows)
    if lost:
        raise UserError(
            f"{counted(lost, 'image')} of {len(rows):,} without a label. Label them, or leave "
            "them out."
        )
    return np.asarray(rows).reshape(-1)


def _check_count(images: int, labels: int) -> None:
    if images != labels or not images:
        raise UserError(
            f"data has {counted(images, 'image')} and {counted(labels, 'label')}. Give one label "
            "for each image."
        )


def _of_arrays(images: Any, labels: np.ndarray) -> str:
    try:
        pixels = np.asarray(images)
    except ValueError:
        pixels = np.empty(0, object)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4):
        hint = ""
        if pixels.dtype.kind == "f":
            hint = " Convert values from 0 to 1 with (images * 255).round().astype('uint8')."
        raise UserError(
            f"the images are {pixels.dtype} of shape {list(pixels.shape)}, not uint8 [N, H, W] or "
            f"[N, H, W, 3].{hint}"
        )
    _check_count(len(pixels), len(labels))
    key = hashlib.sha256(repr((pixels.shape, labels.tolist())).encode())
    key.update(np.ascontiguousarray(pixels).data)
    path = _place(key, ".npz")
    if not path.exists():
        with files.replacing(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, images=pixels, labels=labels)
    return f"npz:{path}"


def _of_files(paths: list[Any], labels: np.ndarray, splits: list[str]) -> str:
    if labels.ndim > 1:
        raise UserError(
            "several labels for each of a list of files: write a table of them, and give its path "
            "with task='multilabel'."
        )
    _check_count(len(paths), len(labels))
    sources = [Path(os.path.abspath(os.path.expanduser(os.fspath(path)))) for path in paths]
    if missing := [str(path) for path in sources if not path.is_file()]:
        raise UserError(f"{counted(len(missing), 'file')} missing: {listed(missing, 3)}.")
    names = [str(label) for label in labels.tolist()]
    if bad := sorted({name for name in names if not name or "/" in name or name.startswith(".")}):
        raise UserError(
            f"labels cannot be empty, contain '/' or start with a dot: {listed(map(repr, bad), 3)}."
        )
    rows = list(zip(splits, names, sources, strict=True))
    path = _place(hashlib.sha256(repr([(a, b, str(c)) for a, b, c in rows]).encode()), "")
    if not path.exists():
        with files.replacing(path) as unfinished:
            for number, (split, name, source) in enumerate(rows):
                folder = unfinished / split / name
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"{number:06d}-{source.name}").symlink_to(source)
    return f"folder:{path}"


def _of_frame(frame: Any) -> str:
    columns = {str(name).lower(): name for name in frame.columns}
    chosen = [
        next((columns[name] for name in known if name in columns), None)
        for known in (_FILES, _LABELS)
    ]
    if None in chosen:
        raise UserError(
            f"the DataFrame has the columns {listed(columns)}, but it needs one of files "
            f"({', '.join(_FILES)}) and one of labels ({', '.join(_LABELS)})."
        )
    paths, labels = (list(frame[name]) for name in chosen)
    splits = [""] * len(paths)
    if "split" in columns:
        splits = [str(split) for split in frame[columns["split"]]]
        if bad := sorted(set(splits) - {"train", "val", "test"}):
            raise UserError(f"split must be train, val or test, not {listed(map(repr, bad), 3)}.")
    return _of_files(paths, _labels(labels), splits)


def _place(key: Any, suffix: str) -> Path:
    folder = cache_dir() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{key.hexdigest()[:32]}{suffix}"
