"""WebDataset's tar files: KEY.jpg with its label in KEY.cls, KEY.json or KEY.txt beside it."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError, suggest
from jtl.common.text import counted, listed
from jtl.config.data import Task
from jtl.config.source_kinds import TAR
from jtl.data.sources.archives import TarStore
from jtl.data.sources.arrow_tables import refuse_identifiers, sets_of_cells
from jtl.data.sources.encoded import split_of_files
from jtl.data.sources.file_splits import FileKind, by_split, files_of, fingerprint
from jtl.data.sources.labels import UNLABELLED, indexed, plain_labels
from jtl.data.sources.parquet_columns import LABEL_COLUMNS
from jtl.data.sources.stores import ImageFile, decoded
from jtl.data.splits import LeftOut, OpenedSource, class_problems

_KIND = FileKind("tar files of WebDataset", "wds", TAR, "train-{000000..000012}.tar", ranges=True)
_MOST_OPEN = 64
"""Files that stay open; of more, each is opened anew for every image."""
_CLASS_FILES = ("classnames.txt", "class_names.txt", "classes.txt", "labels.txt")
_KEYS = (*LABEL_COLUMNS, "cls", "class_name", "classname", "label_name")
"""What labels are called in JSON, in lower case."""
_NAMED = 3
_LONGEST_LABEL = 2**20
"""Bytes of a file with a label."""


class _Sample(NamedTuple):
    """The files of one key.

    Attributes:
        store: What reads them.
        shard: The tar file.
        files: By what follows the first dot of their names, in lower case.
        images: The keys of `files` that are images.
    """

    store: TarStore
    shard: str
    files: dict[str, ImageFile]
    images: list[str]

    @property
    def name(self) -> str:
        return f"{self.shard}/{next(iter(self.files.values())).name}"

    def text(self, ending: str) -> str | None:
        """What a file holds; None where there is no such file."""
        file = self.files.get(ending)
        if file is None:
            return None
        return decoded(self.store.read(file, _LONGEST_LABEL)).strip()


class _Read(NamedTuple):
    """The label of every sample, by split (None: it has none), and where it comes from."""

    values: dict[str, list[Any]]
    told: str
    column: str
    endings: frozenset[str]


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
    files, left_out = by_split(files_of(patterns, _KIND), _KIND)
    paths = [path for same in files.values() for path in same]
    top = Path(os.path.commonpath([path.parent for path in paths]))
    notes: list[str] = []
    samples = {
        split: [
            sample
            for path in same
            for sample in _samples(path, top, keep_open=len(paths) <= _MOST_OPEN)
        ]
        for split, same in files.items()
    }
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
    read = _labels(samples, patterns, label_column, several=several)
    _refuse_gaps(read, samples, patterns, notes, several=several)
    names, names_file = _class_names(top, read.values, notes)
    problems: list[str] = []
    if several:
        cells = {split: _objects(values) for split, values in read.values.items()}
        lists = all(v is None or isinstance(v, list) for rows in cells.values() for v in rows)
        class_names, labels, more, problems = sets_of_cells(
            cells, f"{patterns}, {read.told}", label_delimiter, lists=lists, class_names=names
        )
    else:
        arrays = {s: _plain(v, f"{patterns} ({s}), {read.told}") for s, v in read.values.items()}
        if label_column is None and read.column != "cls" and names is None:
            refuse_identifiers(arrays["train"], f"{read.told} of {patterns}", read.column)
        if names is None and all(values.dtype.kind in "iu" for values in arrays.values()):
            names, arrays = _numbered(arrays)
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


def _file(sample: _Sample, ending: str) -> ImageFile:
    inner = sample.files[ending]
    return inner._replace(parts=(sample.shard, *inner.parts), source=(sample.store, inner))


def _samples(path: Path, top: Path, *, keep_open: bool) -> list[_Sample]:
    """The samples of a tar file, sorted by key."""
    store, shard = TarStore(path, keep_open=keep_open), str(path.relative_to(top))
    tree = store.tree()
    images = {id(file) for file in tree.images}
    found: dict[tuple[str, ...], _Sample] = {}
    for file in sorted([*tree.images, *tree.others], key=lambda file: file.parts):
        key, _, ending = file.parts[-1].partition(".")
        sample = found.setdefault((*file.parts[:-1], key), _Sample(store, shard, {}, []))
        sample.files[ending.lower()] = file
        if id(file) in images:
            sample.images.append(ending.lower())
    return list(found.values())


def _image_of(sample: _Sample, asked: str | None) -> str:
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


def _labels(
    samples: Mapping[str, Sequence[_Sample]], where: str, asked: str | None, *, several: bool
) -> _Read:
    """What the samples' labels are.

    Raises:
        UserError: There are none, or it is not clear which they are.
    """
    every = [sample for same in samples.values() for sample in same]
    there = Counter(ending for sample in every for ending in {*sample.files} - {*sample.images})
    if asked is not None and asked.lower().lstrip(".") in there:
        return _of_files(samples, asked.lower().lstrip("."))
    if asked is None and there["cls"]:
        return _of_files(samples, "cls")
    if there["json"]:
        objects = {split: [_json(one) for one in same] for split, same in samples.items()}
        key = asked or _key(objects, where, several=several, required=not there["txt"])
        if key is not None:
            values = {
                split: [None if held is None else held.get(key) for held in rows]
                for split, rows in objects.items()
            }
            if asked is not None and all(v is None for rows in values.values() for v in rows):
                keys = sorted({k for rows in objects.values() for held in rows for k in held or ()})
                raise UserError(
                    f"--label-column {asked}: no .json of {where} has this key, and no file this "
                    f"ending.{suggest(asked, keys)} The keys are {listed(keys)}; the endings "
                    f"{listed(sorted(there))}."
                )
            return _Read(values, f"the key '{key}' of the .json files", key, frozenset({"json"}))
    elif asked is not None:
        raise UserError(
            f"--label-column {asked}: no file of {where} has this ending. They have "
            f"{listed(sorted(there)) or 'images alone'}."
        )
    if there["txt"]:
        return _of_files(samples, "txt")
    held = f"Beside the images are only {listed(sorted(there))}. " if there else ""
    raise UserError(
        f"{where} has no labels: no KEY.cls, KEY.json or KEY.txt beside the images KEY.jpg. {held}"
        "If the images lie in class folders: folder:FILE.tar. Name other files with "
        "--label-column ENDING."
    )


def _of_files(samples: Mapping[str, Sequence[_Sample]], ending: str) -> _Read:
    values = {split: [one.text(ending) or None for one in same] for split, same in samples.items()}
    return _Read(values, f"the .{ending} files", ending, frozenset({ending}))


def _json(sample: _Sample) -> Mapping[str, Any] | None:
    """What a sample's JSON holds; None where there is none."""
    text = sample.text("json")
    if text is None:
        return None
    with contextlib.suppress(ValueError, RecursionError):
        held = json.loads(text)
        if isinstance(held, Mapping):
            return held
        return {"label": held}  # A label alone, which is JSON too.
    raise UserError(f"The .json of {sample.name} is not readable JSON. Mend or remove the sample.")


def _key(
    objects: Mapping[str, Sequence[Mapping[str, Any] | None]],
    where: str,
    *,
    several: bool,
    required: bool,
) -> str | None:
    """The key of the labels.

    Raises:
        UserError: There is none, if one is required, or several that say different things.
    """
    rows = [held for held in objects["train"] if held is not None]
    counts = Counter(key for held in rows for key in held)
    known = [key for key in counts if key.lower() in _KEYS and counts[key] >= 0.5 * len(rows)]
    if len(known) == 1:
        return known[0]
    if not known and not required:
        return None
    if known and not several:
        pairs = {key: [str(held.get(key)) for held in rows] for key in known}
        sizes = {len({*values}) for values in pairs.values()}
        if len(sizes) == 1 and len({*zip(*pairs.values(), strict=True)}) in sizes:
            # They say one thing: numbers of classes, and their names.
            texts = [key for key in known if isinstance(rows[0].get(key), str)]
            return (texts or known)[0]
    told = "several keys that could be" if known else "no key that is called like"
    raise UserError(
        f"The .json files of {where} have {told} the labels: {listed(known or sorted(counts))}. "
        f"Name it: --label-column {(known or sorted(counts) or ['KEY'])[0]}"
    )


def _refuse_gaps(
    read: _Read,
    samples: Mapping[str, Sequence[_Sample]],
    where: str,
    notes: list[str],
    *,
    several: bool,
) -> None:
    """Drops a test split without labels; raises `UserError` if other images lack them."""
    test = read.values.get("test")
    if test is not None and all(v is None or str(v) == str(UNLABELLED) for v in test):
        del read.values["test"]
        notes.append(f"The test split of {where} has no labels: it is not used for testing.")
    if several:
        return
    lost = [
        sample.name
        for split, values in read.values.items()
        for sample, value in zip(samples[split], values, strict=True)
        if value is None
    ]
    if lost:
        raise UserError(
            f"{counted(len(lost), 'image')} of {where} without a label in {read.told}: "
            f"{listed(lost, _NAMED)}. Add the labels, or remove the samples."
        )


def _objects(values: Sequence[Any]) -> np.ndarray:
    rows = np.empty(len(values), object)
    rows[:] = values
    return rows


def _plain(values: Sequence[Any], where: str) -> np.ndarray:
    """Labels as integers or strings.

    Raises:
        UserError: They are something else, or of different kinds.
    """
    if all(isinstance(v, str) and re.fullmatch(r"-?\d{1,18}", v) for v in values):
        return np.array([int(v) for v in values], np.int64)
    kinds = {type(v) for v in values}
    if kinds & {list, dict}:
        raise UserError(
            f"The labels of {where} are lists or objects such as {next(iter(values))!r}. If images "
            "have several labels: --task multilabel. Else name another key with --label-column."
        )
    if kinds not in ({str}, {int}, {float}, {int, float}, {bool}):
        told = listed(sorted(kind.__name__ for kind in kinds))
        raise UserError(f"The labels of {where} are of different kinds: {told}. Make them alike.")
    array = _objects(values) if kinds <= {str, bool} else np.array(values)
    if array.dtype.kind not in "iufO":
        raise UserError(f"The labels of {where} are numbers out of all range. Renumber them.")
    return plain_labels(array, where)


def _numbered(arrays: Mapping[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Numbers as names of classes, in their order, as some may be missing."""
    present = np.unique(np.concatenate(list(arrays.values())))
    return list(map(str, present.tolist())), {
        split: np.searchsorted(present, values) for split, values in arrays.items()
    }


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
    samples: Mapping[str, Iterable[_Sample]],
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
