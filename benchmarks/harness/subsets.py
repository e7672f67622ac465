"""Some of a data set's pictures, as a source of its own that every training reads."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from harness import machine

sys.path.insert(0, str(machine.ROOT))

ALL = 0
"""As a number of pictures per class: as many as there are."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set that was opened.

    Attributes:
        class_names: The name of every label.
        splits: Those of "train", "val" and "test" that there are, as `jtl.data.splits` has them.
        fingerprint: SHA-256 (hex) of the data.
        val_given: Whether the validation pictures are not held out of train.
    """

    class_names: tuple[str, ...]
    splits: dict[str, Any]
    fingerprint: str
    val_given: bool

    @property
    def smallest_class(self) -> int:
        """Train pictures of the class that has the fewest."""
        counts = np.bincount(self.splits["train"].labels, minlength=len(self.class_names))
        return int(counts.min())


def opened(spec: str) -> Source:
    """Opens a data set as jtl does; without a validation split, seed 0 holds one out.

    Raises:
        SystemExit: It cannot be opened; the reason is shown.
    """
    from jtl.data import sources
    from jtl.errors import UserError

    try:
        found, given = sources.load(spec, seed=0), sources.find(spec).splits
    except UserError as error:
        raise SystemExit(f"--data {spec}: {error}") from error
    splits = {"train": found.train, "val": found.val, "test": found.test}
    kept = {role: split for role, split in splits.items() if split is not None}
    return Source(found.class_names, kept, found.fingerprint, "val" in given)


def chosen(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Indices of as many pictures of each class, by chance, in their order; `ALL` for all."""
    if per_class == ALL:
        return np.arange(len(labels))
    random = np.random.default_rng(seed)
    parts = [
        random.permutation(np.flatnonzero(labels == label))[:per_class]
        for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(parts))


def count(source: Source, role: str, per_class: int) -> int:
    """Pictures of a split, at most `per_class` of each class; 0 if it is not there."""
    if role not in source.splits:
        return 0
    return len(chosen(source.splits[role].labels, per_class, 0))


def write(source: Source, folder: Path, counts: dict[str, int], seed: int = 0) -> str:
    """Writes a part of a data set.

    Args:
        source: The data set.
        folder: Where to write; new.
        counts: For each split to write, pictures of each class, or `ALL`.
        seed: Chooses the train pictures; those of the other splits are always the same.

    Returns:
        What `--data` takes: an .npz file of pictures that share a size, else a folder with the
        files as they are.
    """
    parts = {}
    for role, per_class in counts.items():
        split = source.splits[role]
        rows = chosen(split.labels, per_class, seed if role == "train" else 0)
        parts[role] = split.subset(rows)
    folder.mkdir(parents=True)
    sizes = {split.native_size() for split in parts.values()}
    if len(sizes) == 1 and None not in sizes:
        return _arrays(source, parts, folder / "pictures.npz")
    return _files(source, parts, folder)


def _arrays(source: Source, parts: dict[str, Any], path: Path) -> str:
    arrays: dict[str, Any] = {"class_names": np.array(source.class_names)}
    for role, split in parts.items():
        arrays[f"x_{role}"] = split.read(np.arange(len(split)), None)
        arrays[f"y_{role}"] = split.labels
    np.savez(path, **arrays)
    return f"npz:{path}"


def _files(source: Source, parts: dict[str, Any], folder: Path) -> str:
    for role, split in parts.items():
        for index, label in enumerate(split.labels):
            target = folder / role / source.class_names[label]
            target.mkdir(parents=True, exist_ok=True)
            # jtl takes a file for what it holds, not for what its name says.
            (target / f"{index:06}.jpg").write_bytes(split.encoded(index))
    return f"folder:{folder}"
