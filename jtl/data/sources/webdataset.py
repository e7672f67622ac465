"""WebDataset's tar files: KEY.jpg with its label in KEY.cls, KEY.json or KEY.txt beside it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from jtl.common import garbage_collection
from jtl.common.errors import UserError
from jtl.common.progress import Display
from jtl.common.text import counted, listed
from jtl.config.data import Task
from jtl.config.source_kinds import TAR
from jtl.data.sources.archives import TarStore
from jtl.data.sources.arrow_tables import refuse_identifiers, sets_of_cells
from jtl.data.sources.encoded import split_of_files
from jtl.data.sources.file_splits import FileKind, by_split, files_of, fingerprint
from jtl.data.sources.labels import indexed
from jtl.data.sources.stores import ImageFile, decoded
from jtl.data.sources.webdataset_labels import (
    Sample,
    numbered,
    objects_of,
    plain,
    read_labels,
    refuse_gaps,
)
from jtl.data.splits import LeftOut, OpenedSource, class_problems

_KIND = FileKind("tar files of WebDataset", "wds", TAR, "train-{000000..000012}.tar", ranges=True)
_MOST_OPEN = 64
"""Files that stay open; of more, each is opened anew for every image."""
_CLASS_FILES = ("classnames.txt", "class_names.txt", "classes.txt", "labels.txt")


def load_webdataset(
    patterns: str,
    image_column: str | None = None,
    label_column: str | None = None,
    task: Task = "auto",
    label_delimiter: str | None = None,
) -> OpenedSource:
    """Opens tar files that hold samples: files with one name up to its first dot.

    The tar files are read in place; only compressed ones are unpacked into memory. Their names, or
    those of their folders, say the split. Labels are in `KEY.cls`, or under a key of `KEY.json`
    called like labels, or in `KEY.txt`.

    Args:
        patterns: Paths, separated by commas: files, folders, or patterns with `*` or ranges
            such as `{000000..000012}`.
        image_column: The ending of the images, where samples have several.
        label_column: The ending of the files with labels, or a key of those in JSON.
        task: Whether images may have several labels.
        label_delimiter: What divides these in text.

    Raises:
        UserError: Files are missing or damaged, samples lack a label, or it is not clear which
            image or label is meant.
    """
    with garbage_collection.paused():  # It would take half of the time over millions of samples.
        return _load(patterns, image_column, label_column, task, label_delimiter)


def _load(
    patterns: str,
    image_column: str | None,
    label_column: str | None,
    task: Task,
    label_delimiter: str | None,
) -> OpenedSource:
    files, left_out = by_split(files_of(patterns, _KIND), _KIND)
    paths = [path for same in files.values() for path in same]
    top = Path(os.path.commonpath([path.parent for path in paths]))
    notes: list[str] = []
    samples: dict[str, list[Sample]] = {}
    many = len(paths) > _MOST_OPEN
    # A million samples take half a minute.
    track = Display().track("listing", len(paths), "files") if many else nullcontext(lambda _: None)
    with track as advance:
        for split, same in files.items():
            samples[split] = []
            for path in same:
                samples[split] += _samples(path, top, keep_open=not many)
                advance(1)
    left = [*left_out]
    for split, found in samples.items():
        without = [sample.name for sample in found if not sample.images]
        if without:
            left.append(LeftOut("samples without an image", tuple(without)))
            notes.append(
                f"{counted(len(without), 'sample')} of {split} without an image, for example "
                f"{without[0]}: left out."
            )
        samples[split] = [sample for sample in found if sample.images]
        if not samples[split]:
            raise UserError(
                f"The {split} split of {patterns} has no images. WebDataset's tar files hold "
                "KEY.jpg and, beside it, KEY.cls."
            )
    endings = {
        id(sample): _image_of(sample, image_column) for s in samples.values() for sample in s
    }
    several = task == "multilabel"
    read = read_labels(samples, patterns, label_column, several=several)
    refuse_gaps(read, samples, patterns, notes, several=several)
    names, names_file = _class_names(top, read.values, notes)
    problems: list[str] = []
    if several:
        cells = {split: objects_of(values) for split, values in read.values.items()}
        lists = all(v is None or isinstance(v, list) for rows in cells.values() for v in rows)
        class_names, labels, more, problems = sets_of_cells(
            cells, f"{patterns}, {read.told}", label_delimiter, lists=lists, class_names=names
        )
    else:
        arrays = {s: plain(v, f"{patterns} ({s}), {read.told}") for s, v in read.values.items()}
        if label_column is None and read.column != "cls" and names is None:
            refuse_identifiers(arrays["train"], f"{read.told} of {patterns}", read.column)
        if names is None and all(values.dtype.kind in "iu" for values in arrays.values()):
            names, arrays = numbered(arrays)
        class_names, labels, more = indexed(arrays, names, patterns)
    splits = {
        split: split_of_files(
            f"{patterns} ({split})",
            [_file(sample, endings[id(sample)]) for sample in samples[split]],
            values,
            _Shards(),
        )
        for split, values in labels.items()
    }
    problems += class_problems(patterns, class_names, splits)
    left += _others(samples, endings, read.endings)
    told = read.told + (f", named by {names_file}" if names_file else "")
    return OpenedSource(
        class_names,
        splits,
        (*notes, *more),
        tuple(problems),
        fingerprint(paths, read.column),
        told,
        tuple(left),
    )


class _Shards:
    """Reads the images of all tar files."""

    def read(self, image: ImageFile, limit: int = -1) -> bytes:
        store, inner = image.source
        return store.read(inner, limit)


def _file(sample: Sample, ending: str) -> ImageFile:
    inner = sample.files[ending]
    return inner._replace(parts=(sample.shard, *inner.parts), source=(sample.store, inner))


def _samples(path: Path, top: Path, *, keep_open: bool) -> list[Sample]:
    """The samples of a tar file, sorted by key."""
    store, shard = TarStore(path, keep_open=keep_open), str(path.relative_to(top))
    tree = store.tree()
    images = {id(file) for file in tree.images}
    found: dict[tuple[str, ...], Sample] = {}
    for file in sorted([*tree.images, *tree.others], key=lambda file: file.parts):
        key, _, ending = file.parts[-1].partition(".")
        sample = found.setdefault((*file.parts[:-1], key), Sample(store, shard, {}, []))
        sample.files[ending.lower()] = file
        if id(file) in images:
            sample.images.append(ending.lower())
    return list(found.values())


def _image_of(sample: Sample, asked: str | None) -> str:
    """The ending of a sample's image."""
    if asked is not None:
        if asked.lower().lstrip(".") in sample.images:
            return asked.lower().lstrip(".")
        raise UserError(
            f"--image-column {asked}: {sample.name} has no such image, but {listed(sample.images)}."
        )
    plain = [ending for ending in sample.images if "." not in ending]
    choice = plain if len(sample.images) > 1 else sample.images
    if len(choice) == 1:
        return choice[0]
    raise UserError(
        f"{sample.name} has several images, {listed(sample.images)}. Say which is to be "
        f"classified: --image-column {sample.images[0]}"
    )


def _class_names(
    top: Path, values: Mapping[str, Sequence[Any]], notes: list[str]
) -> tuple[list[str] | None, str]:
    """The names of numbered classes and the file beside the tar files that lists them, if any."""
    numbers: set[int] = set()
    for row in (row for rows in values.values() for row in rows):
        for one in row if isinstance(row, list) else [row]:
            if not re.fullmatch(r"\d{1,9}", str(one)):
                return None, ""
            numbers.add(int(one))
    for file in (folder / name for folder in (top, top.parent) for name in _CLASS_FILES):
        if not numbers or not file.is_file():
            continue
        lines = [line.strip() for line in decoded(file.read_bytes()).splitlines()]
        names = [line for line in lines if line]
        if max(numbers) < len(names) == len({*names}):
            return names, file.name
        notes.append(
            f"{file.name} is not used: its {counted(len(names), 'line')} do not name the classes 0 "
            f"to {max(numbers)}, one each."
        )
    return None, ""


def _others(
    samples: Mapping[str, Iterable[Sample]],
    endings: Mapping[int, str],
    used: frozenset[str],
) -> list[LeftOut]:
    """Files of the samples that are not used, by their endings."""
    found: dict[str, list[str]] = {}
    for sample in (sample for same in samples.values() for sample in same):
        for ending, file in sample.files.items():
            if ending != endings[id(sample)] and ending not in used:
                found.setdefault(ending, []).append(f"{sample.shard}/{file.name}")
    return [LeftOut(f"files .{ending}", tuple(names)) for ending, names in sorted(found.items())]
