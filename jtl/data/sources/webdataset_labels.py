"""The labels of WebDataset's samples: in KEY.cls, under a key of KEY.json, or in KEY.txt."""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.common.errors import UserError, suggest
from jtl.common.text import counted, listed
from jtl.data.sources.archives import TarStore
from jtl.data.sources.labels import UNLABELLED, plain_labels
from jtl.data.sources.parquet_columns import LABEL_COLUMNS
from jtl.data.sources.stores import ImageFile, decoded

_KEYS = (*LABEL_COLUMNS, "cls", "class_name", "classname", "label_name")
"""What labels are called in JSON, in lower case."""
_NAMED = 3
_LONGEST_LABEL = 2**20
"""Bytes of a file with a label."""


class Sample(NamedTuple):
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


class Read(NamedTuple):
    """The label of every sample, by split (None: it has none), and where it comes from."""

    values: dict[str, list[Any]]
    told: str
    column: str
    endings: frozenset[str]


def read_labels(
    samples: Mapping[str, Sequence[Sample]], where: str, asked: str | None, *, several: bool
) -> Read:
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
            return Read(values, f"the key '{key}' of the .json files", key, frozenset({"json"}))
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


def _of_files(samples: Mapping[str, Sequence[Sample]], ending: str) -> Read:
    values = {split: [one.text(ending) or None for one in same] for split, same in samples.items()}
    return Read(values, f"the .{ending} files", ending, frozenset({ending}))


def _json(sample: Sample) -> Mapping[str, Any] | None:
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


def refuse_gaps(
    read: Read,
    samples: Mapping[str, Sequence[Sample]],
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


def objects_of(values: Sequence[Any]) -> np.ndarray:
    rows = np.empty(len(values), object)
    rows[:] = values
    return rows


def plain(values: Sequence[Any], where: str) -> np.ndarray:
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
    array = objects_of(values) if kinds <= {str, bool} else np.array(values)
    if array.dtype.kind not in "iufO":
        raise UserError(f"The labels of {where} are numbers out of all range. Renumber them.")
    return plain_labels(array, where)


def numbered(arrays: Mapping[str, np.ndarray]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Numbers as names of classes, in their order, as some may be missing."""
    present = np.unique(np.concatenate(list(arrays.values())))
    return list(map(str, present.tolist())), {
        split: np.searchsorted(present, values) for split, values in arrays.items()
    }
