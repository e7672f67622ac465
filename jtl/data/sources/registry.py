"""Data sets by name: labelled images in train, validation and test splits."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping

from jtl.common.errors import UserError, suggest
from jtl.config.data import with_scheme
from jtl.data.sources.arrays import ArraySplit
from jtl.data.splits import OpenedSource, Split, hold_out, missing_classes

__all__ = ["SCHEMES", "ArraySplit", "Dataset", "Scheme", "Split", "find", "load"]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A kind of source.

    Attributes:
        example: How it is written.
        told: What it is, for messages.
        loader: "MODULE:FUNCTION" of what finds it by what follows the colon; imported when asked
            for, as some need libraries that not every installation has.
        bare: Whether it is written without a colon.
    """

    example: str
    description: str
    loader: str
    bare: bool = False

    def find(self, rest: str) -> OpenedSource:
        """Opens the source that `rest` names; raises `UserError` if it cannot."""
        module, _, function = self.loader.partition(":")
        finder: Callable[[str], OpenedSource] = getattr(importlib.import_module(module), function)
        return finder(rest)


SCHEMES: Mapping[str, Scheme] = {
    "folder": Scheme(
        "folder:my-images",
        "a folder of class folders, or a zip or tar of one",
        "jtl.data.sources.folder:load_folder",
    ),
    "tfds": Scheme(
        "tfds:cifar10",
        "a prepared data set of TensorFlow Datasets",
        "jtl.data.sources.tfds:load_tfds",
    ),
    "npz": Scheme(
        "npz:mnist.npz",
        "NumPy arrays of images and labels",
        "jtl.data.sources.npz:load_npz",
    ),
    "parquet": Scheme(
        "parquet:data/*.parquet",
        "files with encoded images, as used on the Hugging Face Hub",
        "jtl.data.sources.parquet:load_parquet",
    ),
    "digits": Scheme(
        "digits",
        "1,797 handwritten digits from scikit-learn",
        "jtl.data.sources.arrays:load_digits",
        bare=True,
    ),
}
"""The kinds of sources by the word before the colon."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The splits of one data set.

    Attributes:
        spec: What it was loaded by.
        class_names: The name of every label.
        train: Images to learn from.
        val: Images to choose epochs and settings by.
        test: Images kept for the end, or None.
        notes: What a user should know about the data, in sentences.
        fingerprint: SHA-256 (hex) of the data; neither the seed nor the held-out fraction
            changes it. From the pixels of `digits`; from names, sizes and checksums of what is
            in a zip or an npz; from names, sizes and modification times of other files.
    """

    spec: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split | None
    notes: tuple[str, ...]
    fingerprint: str


def load(
    spec: str,
    *,
    seed: int = 0,
    val_fraction: float = 0.2,
    verify: Callable[[OpenedSource], OpenedSource] | None = None,
) -> Dataset:
    """Open a data set.

    Without a validation split, a part of train becomes it: the same share of every class,
    chosen by the seed. Test images are never used for that.

    Args:
        spec: A source, such as "folder:my-images"; see `SCHEMES`.
        seed: Chooses the images to hold out, not negative.
        val_fraction: The share of train to hold out, between 0 and 1.
        verify: What makes sure that the images can be read, such as a
            `jtl.data.verification.Verification`. None decodes no image of a file yet.

    Raises:
        UserError: If the source is unknown or not usable, with the reason.
    """
    if not 0 < val_fraction < 1:
        raise UserError(
            f"val_fraction {val_fraction} is not possible: give a share between 0 and 1."
        )
    if seed < 0:
        raise UserError(f"Seed {seed} is not possible: give 0 or a positive integer.")
    spec = with_scheme(spec)
    found = find(spec)
    if found.problems:
        raise UserError("\n".join(found.problems))
    if verify is not None:
        found = verify(found)
    notes = list(found.notes)
    train, val, test = (found.splits.get(name) for name in ("train", "val", "test"))
    if val is None:
        train, val, note = hold_out(train, seed, val_fraction)
        notes.append(note)
    assert train is not None  # Every source has it.
    notes += missing_classes(found.class_names, train=train, val=val, test=test)
    return Dataset(spec, found.class_names, train, val, test, tuple(notes), found.fingerprint)


def find(spec: str) -> OpenedSource:
    """What a source holds, problems included; nothing is held out.

    Raises:
        UserError: If the source is unknown or cannot be opened.
    """
    word, _, rest = with_scheme(spec).partition(":")
    scheme = SCHEMES.get(word)
    if scheme is None:
        raise _unknown_source(spec)
    if not rest and not scheme.bare:
        raise UserError(f"'{spec}' lacks a name. Write it like {_describe(scheme)}.")
    return scheme.find(rest)


def _describe(scheme: Scheme) -> str:
    return f"'{scheme.example}' ({scheme.description})"


def _unknown_source(spec: str) -> UserError:
    allowed = "\n".join(["A source is", *(f"  {_describe(s)}" for s in SCHEMES.values())])
    guess = suggest(spec.partition(":")[0], SCHEMES)
    return UserError(f"there is no file, folder or other source '{spec}'.{guess} {allowed}")
