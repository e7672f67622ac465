"""Some of a data set's images, as a source of its own that every training reads."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from harness import machine

sys.path.insert(0, str(machine.ROOT))

ALL = 0
"""As a number of images per class: as many as there are."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that was opened.

    Attributes:
        class_names: The name of every label.
        splits: Those of "train", "val" and "test" that there are, as `jtl.data.splits` has them.
        fingerprint: SHA-256 (hex) of the data.
    """

    class_names: tuple[str, ...]
    splits: dict[str, Any]
    fingerprint: str


def opened(spec: str, *, test_as_val: bool = False) -> Source:
    """Opens a data set as jtl does; without a validation split, seed 0 holds one out.

    Args:
        spec: As in `--data`.
        test_as_val: Takes the test split for validation, and all of train for training.

    Raises:
        SystemExit: It cannot be opened, or has no test split; the reason is shown.
    """
    from jtl.common.errors import UserError
    from jtl.data.sources import registry

    try:
        found, given = registry.load(spec, seed=0), registry.find(spec)
    except UserError as error:
        raise SystemExit(f"--data {spec}: {error}") from error
    splits = {"train": found.train, "val": found.val, "test": found.test}
    if test_as_val:
        if found.test is None:
            raise SystemExit(f"--data {spec} has no test split.")
        splits = {"train": given.splits["train"], "val": found.test}
    kept = {name: split for name, split in splits.items() if split is not None}
    return Source(found.class_names, kept, found.fingerprint)


def chosen(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Indices of as many images of each class, by chance, in their order; `ALL` for all."""
    if per_class == ALL:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    parts = [
        random.permutation(np.flatnonzero(labels == label))[:per_class]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(parts))


def write(
    source: Source, folder: Path, counts: dict[str, int], seed: int = 0, *, files: bool = False
) -> str:
    """Writes a part of a data set.

    Args:
        source: The data set.
        folder: Where to write; new.
        counts: For each split to write, images of each class, or `ALL`.
        seed: Chooses the train images; those of the other splits are always the same.
        files: Writes files also where all images share a size, for those who read nothing else.

    Returns:
        What `--data` takes: an .npz file of images that share a size, else a folder with the
        files as they are.
    """
    parts = {}
    for name, per_class in counts.items():
        split = source.splits[name]
        rows = chosen(split.labels, per_class, seed if name == "train" else 0)
        parts[name] = split.subset(rows)
    folder.mkdir(parents=True)
    sizes = {split.native_size() for split in parts.values()}
    if len(sizes) == 1 and None not in sizes and not files:
        return _arrays(source, parts, folder / "images.npz")
    return _files(source, parts, folder)


def _arrays(source: Source, parts: dict[str, Any], path: Path) -> str:
    arrays: dict[str, Any] = {"class_names": np.array(source.class_names)}
    for name, split in parts.items():
        arrays[f"x_{name}"] = split.read(np.arange(len(split)), None)
        arrays[f"y_{name}"] = split.labels
    np.savez(path, **arrays)
    return f"npz:{path}"


def _files(source: Source, parts: dict[str, Any], folder: Path) -> str:
    for name, split in parts.items():
        for index, label in enumerate(split.labels):
            target = folder / name / source.class_names[label]
            target.mkdir(parents=True, exist_ok=True)
            # jtl takes a file for what it holds, not for what its name says.
            (target / f"{index:06}.jpg").write_bytes(split.encoded(index))
    return f"folder:{folder}"


def generated(path: Path, *, classes: int, train: int, val: int, side: int = 32) -> str:
    """Images of noise around a colour for each class, in an .npz file; what `--data` takes.

    Args:
        path: The file.
        classes: How many.
        train: Images of each class.
        val: The same for validation.
        side: Height and width in pixels.
    """
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 200, (classes, 1, 1, 3))
    arrays: dict[str, Any] = {}
    for name, each in (("train", train), ("val", val)):
        labels = np.repeat(np.arange(classes), each)
        noise = rng.integers(0, 56, (len(labels), side, side, 3))
        arrays[f"x_{name}"] = (colors[labels] + noise).astype(np.uint8)
        arrays[f"y_{name}"] = labels
    np.savez(path, **arrays)
    return f"npz:{path}"
