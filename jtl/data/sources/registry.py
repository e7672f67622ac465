"""Data sets by name: labelled images in train, validation and test splits."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from jtl.common.errors import UserError, suggest
from jtl.config.addresses import is_address
from jtl.config.data import check_delimiter, with_scheme
from jtl.data import folds, frames, near_duplicates
from jtl.data.bit_depth import BitDepth, with_bit_depth
from jtl.data.hold_out import hold_out, hold_out_test, refuse_divided
from jtl.data.sources import remote
from jtl.data.sources.dataset import Dataset as Dataset
from jtl.data.sources.exclusion import without_excluded
from jtl.data.sources.schemes import SCHEMES, Scheme
from jtl.data.sources.source_options import DEFAULT, SourceOptions
from jtl.data.sources.table_files import holds_paths
from jtl.data.splits import (
    OpenedSource,
    Split,
    TrainingProblem,
    missing_classes,
)


def load(
    spec: str,
    options: SourceOptions = DEFAULT,
    *,
    seed: int = 0,
    val_fraction: float = 0.2,
    test_fraction: float | None = None,
    fold: str | None = None,
    verify: Callable[[OpenedSource], OpenedSource] | None = None,
    whole: bool = False,
    bit_depth: BitDepth = "auto",
) -> Dataset:
    """Open a data set.

    Without a validation split, a part of train becomes it: the same share of every class,
    chosen by the seed. Test images are never used for that.

    Args:
        spec: A source, such as "folder:my-images"; see `SCHEMES`.
        options: How it is read.
        seed: Chooses the images to hold out, not negative.
        val_fraction: The share of train to hold out, between 0 and 1.
        test_fraction: The share of train to hold out for the test first; None for none.
        fold: Which of how many folds of train is val, such as "2/5"; None to hold out
            `val_fraction`.
        verify: What makes sure that the images can be read, such as a
            `jtl.data.verification.Verification`. None decodes no image of a file yet.
        whole: Whether images are to be evaluated: those without splits are not divided (train and
            val are both all of them), and one class is enough.
        bit_depth: As of `jtl.data.bit_depth.with_bit_depth`; without `verify`, all 16 bits.

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
    found = find(spec, options)
    problems = [p for p in found.problems if not (whole and isinstance(p, TrainingProblem))]
    if problems or not any(len(split) for split in found.splits.values()):
        raise UserError("\n".join(problems or found.problems))
    if verify is not None:
        found = verify(found)
    found, bits = with_bit_depth(found, bit_depth)
    notes = [*found.notes, *filter(None, [frames.note(found.splits)])]
    train, val, test = (found.splits.get(name) for name in ("train", "val", "test"))
    for name, split in (("validation", val), ("test", test)):
        if split is not None and not len(split):
            raise UserError(
                f"the {name} split of '{spec}' has no images. Put some there, or remove it; "
                "jtl can hold out training images instead."
            )
    held_out = val is None and not (whole and test is None)
    assert train is not None  # Every source has it.
    if found.groups and not whole:
        refuse_divided(found.splits, found.groups)
    if test_fraction is not None and not whole:
        if test is not None:
            raise UserError(
                f"--test-split {test_fraction}: '{spec}' has a test split of its own. Leave it out."
            )
        train, test, note = hold_out_test(train, seed, test_fraction, found.groups)
        notes.append(note)
    parts: tuple[Split, ...] = ()
    if whole and set(found.splits) == {"train"}:
        val = train
    elif fold is not None and not whole:
        if val is not None:
            raise UserError(
                f"'{spec}' has a validation split of its own, so there are no folds to make. Leave "
                f"out --folds (--fold), or {_without_splits(spec, found)}."
            )
        train, val, parts, note = folds.fold(train, fold, seed, found.class_names, found.groups)
        notes.append(note)
    elif val is None:
        train, val, note = hold_out(train, seed, val_fraction, found.groups)
        notes.append(note)
    if val is not train and (copies := near_duplicates.note(train, val)) is not None:
        notes.append(copies)
    if val is not train:
        notes += missing_classes(found.class_names, train=train, val=val, test=test)
    return Dataset(
        spec, found.class_names, train, val, test, tuple(notes), found.fingerprint,
        found.labels_from, found.left_out, held_out, bits, found.splits_from, parts,
        found.groups, found.unreadable, found.titles,
    )  # fmt: skip


def _without_splits(spec: str, found: OpenedSource) -> str:
    """How a source may have no validation split, as an advice."""
    scheme = _scheme(spec)
    options = scheme.options if scheme and found.splits_from else ()
    for name, value in (("split_column", "none"), ("split_lists", "ignore")):
        if name in options:
            return f"let its splits be ignored with --{name.replace('_', '-')} {value}"
    return "give training images alone, and the validation images among them"


def find(spec: str, options: SourceOptions = DEFAULT) -> OpenedSource:
    """What a source holds, problems included; nothing is held out.

    Args:
        spec: As of `load`.
        options: How it is read.

    Raises:
        UserError: If the source is unknown or cannot be opened.
    """
    spec = with_scheme(spec)
    if is_address(spec):
        return _find_copy(spec, options)
    rest = spec.partition(":")[2]
    scheme = _scheme(spec)
    if scheme is None:
        raise _unknown_source(spec)
    if not rest and not scheme.bare:
        raise UserError(f"'{spec}' lacks a name. Write it like {_describe(scheme)}.")
    check_delimiter(options.task, options.label_delimiter)
    if options.task != "auto" and "task" not in scheme.options:
        raise UserError(
            f"--task {options.task}: '{spec}' has one class for each image. Several are read from "
            "tables (csv:labels.csv), npz:, parquet: and tfds:. Leave --task out."
        )
    given = [f.name for f in dataclasses.fields(options) if getattr(options, f.name) != f.default]
    idle = [name for name in given if name not in (*scheme.options, "exclude")]
    if idle:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise UserError(f"{flags}: no effect on '{spec}'. Leave it out.")
    found = scheme.find(rest, options)
    return found if options.exclude is None else without_excluded(found, options.exclude, spec)


def _find_copy(address: str, options: SourceOptions) -> OpenedSource:
    """What is at an address, by the local copy of it."""
    copy = remote.copy_of(address)
    try:
        found = find(str(copy.path), options)
    except UserError as error:
        raise remote.explained(error, address, copy) from error
    return remote.renamed(found, address, copy)


def options_for(spec: str, options: SourceOptions) -> SourceOptions:
    """Those of the options that have an effect on a source."""
    scheme = _scheme(spec)
    return options.within((*scheme.options, "exclude") if scheme else ())


def _scheme(spec: str) -> Scheme | None:
    """The kind of a source; a Parquet file without images is a table of paths."""
    spec = with_scheme(spec)
    if is_address(spec):
        spec = with_scheme(str(remote.copy_of(spec).path))
    word, _, rest = spec.partition(":")
    if word == "parquet" and os.path.isfile(place := os.path.expanduser(rest)):
        word = "csv" if holds_paths(Path(place)) else word
    return SCHEMES.get(word)


def _describe(scheme: Scheme) -> str:
    return f"'{scheme.example}' ({scheme.description})"


def _unknown_source(spec: str) -> UserError:
    word, colon, rest = spec.partition(":")
    told = (
        f"there is no kind of source '{word}'" if colon else f"there is no file or folder '{spec}'"
    )
    guess = suggest(spec, [*_beside(spec), *SCHEMES], 0.7)
    if colon and (close := suggest(word, SCHEMES, 0.7)):
        guess = close[:-2] + f":{rest}'?"
    # A plain path needs no word before it.
    known = [_describe(scheme).replace("'folder:", "'", 1) for scheme in SCHEMES.values()]
    return UserError("\n  ".join([f"{told}.{guess} Give one of these:", *known]))


def _beside(spec: str) -> list[str]:
    """Folders and files that could have been meant by a path, spelt as it is."""
    folder, _ = os.path.split(spec)
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder or "."))]
    except (OSError, ValueError):
        return []
