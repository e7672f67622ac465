"""Prepared data sets of TensorFlow Datasets, read without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError, first_line
from jtl.common.optional import require
from jtl.common.text import listed
from jtl.config.data import Task
from jtl.data.batches import in_threads
from jtl.data.sources.encoded import EncodedSplit
from jtl.data.sources.label_sets import indexed_sets, of_flags
from jtl.data.sources.labels import indexed
from jtl.data.sources.tfds_folder import prepared_folder
from jtl.data.splits import OpenedSource, TrainingProblem, class_problems, split_of

HELD_BYTES = 2**30
"""Encoded images up to this size together are kept in memory; others are read when needed."""
_SPLITS = ("train", "val", "test")
_SYNTAX = (
    "Write the splits as TRAIN, TRAIN,VAL or TRAIN,VAL,TEST, such as "
    "'train[:80%],train[80%:],test'; leave VAL empty to hold it out of TRAIN."
)


class _Part(NamedTuple):
    """One split: what it was called, and the rows of shards that it has.

    `shards` are (file, first row, number of rows).
    """

    instruction: str
    shards: tuple[tuple[str, int, int], ...]

    def names(self) -> list[str]:
        """A name for every record, whatever part of a split it was reached by."""
        return [
            f"{Path(file).name}[{row}]"
            for file, first, count in self.shards
            for row in range(first, first + count)
        ]


def load_tfds(rest: str, task: Task = "auto") -> OpenedSource:
    """Open a data set that was prepared in the array_record format; nothing is downloaded.

    Args:
        rest: `NAME[/CONFIG][:VERSION][:SPLITS]`, or the path of a prepared folder for the name.
            The data set is looked for where TFDS keeps them: in TFDS_DATA_DIR, or
            `~/tensorflow_datasets`. Without SPLITS its splits are told by their names; with
            them, exactly those are used: `TRAIN`, `TRAIN,VAL` or `TRAIN,VAL,TEST`, each in the
            syntax of TFDS, such as `train[:10%]`.
        task: Whether images may have several labels: sequences of classes, or a vector of 0 and 1.

    Raises:
        UserError: If the libraries or the prepared data are missing, it is not a data set of
            labelled images, or its splits are not possible or overlap.
    """
    tfds = _library()
    match = re.fullmatch(r"([^:\[\]]+)(?::(\d+\.\d+\.\d+))?(?::(.*))?", rest)
    if match is None:
        raise UserError(f"'tfds:{rest}' cannot be understood. Write tfds:NAME or tfds:NAME:SPLITS.")
    name, version, splits = match.groups()
    folder = prepared_folder(name, version)
    builder = _builder(tfds, folder, name)
    notes: list[str] = []
    parts = _named(builder, notes) if splits is None else _asked(builder, splits)
    _refuse_overlap(parts)
    image, label = _features(tfds, builder, name, several=task == "multilabel")
    held = sum(_bytes(builder, part) for part in parts.values()) <= HELD_BYTES
    where = f"tfds:{name}"
    opened = {
        split: _Records(tfds, builder, part, image, label, held) for split, part in parts.items()
    }
    raw = {split: records.labels() for split, records in opened.items()}
    feature = builder.info.features[label]
    problems: list[str] = []
    if task == "multilabel":
        class_names, labels, more, problems = _sets(raw, feature, where)
    else:
        numbers = {split: np.asarray(each, np.int64) for split, each in raw.items()}
        class_names, labels, more = indexed(numbers, list(feature.names), where)
    found = {
        split: EncodedSplit(
            f"{where} ({parts[split].instruction})",
            parts[split].names(),
            values,
            opened[split].fetch,
            stored_bytes=max(_bytes(builder, parts[split]), 1),
        )
        for split, values in labels.items()
    }
    problems += class_problems(where, class_names, found)
    return OpenedSource(
        class_names,
        found,
        (*notes, *more),
        tuple(problems),
        _fingerprint(folder),
        f"the feature '{label}'",
    )


def _library() -> Any:
    for name in ("array_record", "tensorflow_datasets"):
        library = require(name, "a data set of TensorFlow Datasets", "jtl[tfds]")
    return library


def _builder(tfds: Any, folder: Path, name: str) -> Any:
    try:
        builder = tfds.builder_from_directory(str(folder))
    except Exception as error:  # A damaged description provokes many kinds.
        raise UserError(
            f"The prepared data set in {folder} cannot be read ({first_line(error)}). Prepare it "
            "again."
        ) from error
    kind = builder.info.file_format
    if kind is None or kind.value != "array_record":
        raise UserError(
            f"'{name}' was prepared as {kind and kind.value} in {folder}; without TensorFlow only "
            "array_record can be read. Prepare it again with file_format='array_record': tfds "
            f"build {name} --file_format=array_record --overwrite (pip install 'jtl[prepare]')."
        )
    return builder


def _named(builder: Any, notes: list[str]) -> dict[str, _Part]:
    """The splits that are called like train, validation and test."""
    named: dict[str | None, list[str]] = {}
    for split in builder.info.splits:
        named.setdefault(split_of(split), []).append(split)
    several = [names for split, names in named.items() if split and len(names) > 1]
    if several or "train" not in named:
        what = f"several splits for one, {', '.join(several[0])}" if several else "no train split"
        raise UserError(
            f"The data set has {what}; its splits are {', '.join(builder.info.splits)}. {_SYNTAX}"
        )
    if others := named.get(None):
        notes.append(f"Splits that are not used: {listed(others)}.")
    return {split: _part(builder, named[split][0]) for split in _SPLITS if split in named}


def _asked(builder: Any, splits: str) -> dict[str, _Part]:
    asked = [part.strip() for part in splits.split(",")]
    if len(asked) > len(_SPLITS) or not asked[0]:
        raise UserError(f"'{splits}' is not possible. {_SYNTAX}")
    pairs = zip(_SPLITS, asked, strict=False)
    return {split: _part(builder, instruction) for split, instruction in pairs if instruction}


def _part(builder: Any, instruction: str) -> _Part:
    try:
        split = builder.info.splits[instruction]
        count, files = split.num_examples, split.file_instructions
    except Exception as error:  # Several kinds, for what is no instruction.
        raise UserError(
            f"'{instruction}' is no part of this data set ({first_line(error)}). It has "
            f"{', '.join(f'{n} ({s.num_examples})' for n, s in builder.info.splits.items())}. "
            f"{_SYNTAX}"
        ) from error
    if count < 1:
        raise UserError(f"'{instruction}' selects no examples. {_SYNTAX}")
    shards = tuple(
        (str(f.filename), f.skip, f.examples_in_shard - f.skip if f.take < 0 else f.take)
        for f in files
    )
    return _Part(instruction, shards)


def _refuse_overlap(parts: Mapping[str, _Part]) -> None:
    for one, other in itertools.combinations(parts.values(), 2):
        for file, first, count in one.shards:
            for file_, first_, count_ in other.shards:
                if file == file_ and max(first, first_) < min(first + count, first_ + count_):
                    raise UserError(
                        f"'{one.instruction}' and '{other.instruction}' share examples, so "
                        f"scores on one say little about the other. {_SYNTAX}"
                    )


def _sets(
    raw: Mapping[str, Sequence[Any]], feature: Any, where: str
) -> tuple[tuple[str, ...], dict[str, np.ndarray], list[str], list[str]]:
    """Class names, labels uint8 [N, K] by split, notes, and problems, of several labels."""
    if not hasattr(feature, "feature"):
        return *of_flags({s: np.asarray(rows) for s, rows in raw.items()}, None, where), []
    names = list(feature.feature.names)
    sets = {s: [tuple({names[int(n)] for n in row}) for row in rows] for s, rows in raw.items()}
    problems = []
    if not any(len(row) > 1 for rows in sets.values() for row in rows):
        told = f"--task multilabel: no image of {where} has several labels. Leave it out."
        problems.append(TrainingProblem(told))
    return *indexed_sets(sets, names), [], problems


def _is_several(tfds: Any, feature: Any) -> bool:
    """Whether a feature holds several labels of an image."""
    if isinstance(feature, tfds.features.Sequence):
        return isinstance(feature.feature, tfds.features.ClassLabel)
    vector = type(feature) is tfds.features.Tensor and len(feature.shape) == 1
    return vector and (feature.shape[0] or 0) > 1 and np.dtype(feature.np_dtype).kind in "iub"


def _features(tfds: Any, builder: Any, name: str, *, several: bool) -> tuple[str, str]:
    """The names of the features that are the image and its label, or labels."""
    features = builder.info.features
    images = [k for k, f in features.items() if type(f) is tfds.features.Image]
    single = [k for k, f in features.items() if type(f) is tfds.features.ClassLabel]
    lists = [k for k, f in features.items() if _is_several(tfds, f)]
    classes = lists if several else single
    supervised = builder.info.supervised_keys or ()
    if len(supervised) == 2 and supervised[0] in images and supervised[1] in classes:
        image, label = supervised
    elif len(images) == 1 and len(classes) == 1:
        image, label = images[0], classes[0]
    else:
        told = ", ".join(f"{k} ({type(f).__name__})" for k, f in features.items())
        needed = "Sequence of ClassLabel, or one vector of 0 and 1" if several else "ClassLabel"
        way_out = " If images have several labels: --task multilabel." if lists else ""
        if several and len(single) == 1:
            way_out = " Each image has one class: leave --task multilabel out."
        raise UserError(
            f"'{name}' is no data set for image classification: it needs one Image and one "
            f"{needed}, and its features are {told}.{way_out if len(images) == 1 else ''}"
        )
    if np.dtype(features[image].np_dtype) not in (np.uint8, np.uint16):
        raise UserError(f"The images of '{name}' are {features[image].np_dtype}, not uint8.")
    return image, label


def _bytes(builder: Any, part: _Part) -> int:
    """About the size of a part's records."""
    count = sum(count for _, _, count in part.shards)
    splits = list(builder.info.splits.values())
    rows = sum(split.num_examples for split in splits)
    return int(sum(split.num_bytes for split in splits) / max(rows, 1) * count)


class _Records:
    """A split's records; their images are not decoded.

    Reads them all once, for their labels; keeps the encoded images if `held`.
    """

    def __init__(
        self, tfds: Any, builder: Any, part: _Part, image: str, label: str, held: bool
    ) -> None:
        self._part, self._image, self._label = part, image, label
        self._held: list[bytes] | None = [] if held else None
        skip = tfds.decode.SkipDecoding()
        features = builder.info.features.items()
        decoders = {k: skip for k, f in features if isinstance(f, tfds.features.Image)}
        self._source = builder.as_data_source(split=part.instruction, decoders=decoders)

    def fetch(self, row: int, limit: int) -> bytes:
        """The encoded image of a record, or its first bytes."""
        data = self._source[row][self._image] if self._held is None else self._held[row]
        return data if limit < 0 else data[:limit]

    def labels(self) -> list[Any]:
        """The label of every record: a number, or an array of several."""
        labels: list[Any] = []
        with self._readable():
            for examples in in_threads(self._examples, len(self._source)):
                labels += [example[self._label] for example in examples]
                if self._held is not None:
                    self._held += [example[self._image] for example in examples]
        return labels

    def _examples(self, rows: range) -> Sequence[Any]:
        return self._source.__getitems__(list(rows))

    @contextlib.contextmanager
    def _readable(self) -> Any:
        try:
            yield
        except Exception as error:  # Damaged shards provoke many kinds.
            files = listed(dict.fromkeys(Path(file).name for file, _, _ in self._part.shards))
            raise UserError(
                f"The records of '{self._part.instruction}' cannot be read ({first_line(error)}). "
                f"A file may be missing or damaged: {files}. Prepare the data set again."
            ) from error


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
