"""What Hugging Face's `datasets` has saved or cached: Arrow files, and JSON that describes them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jtl.common.errors import UserError, suggest
from jtl.common.optional import require
from jtl.common.text import listed
from jtl.config.data import Task
from jtl.config.source_kinds import DATASET_DICT, DATASET_INFO, DATASET_STATE
from jtl.data.sources.arrow_tables import Asked, Tables, open_tables
from jtl.data.sources.file_splits import fingerprint
from jtl.data.sources.names import splits_in
from jtl.data.sources.parquet_columns import common_columns
from jtl.data.splits import LeftOut, OpenedSource, split_of

_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_ARROW_FILE = b"ARROW1\0\0"
_SHARD = re.compile(r"(?P<stem>.+?)(-(?P<number>\d{5,})-of-(?P<count>\d{5,}))?\.arrow")
_SAVE_AGAIN = "Save the data set again with save_to_disk"
_ORDER = ("train", "val", "test")


class _Saved(NamedTuple):
    """One `Dataset`: its Arrow files, and the features that its JSON names (None: the files')."""

    files: list[Path]
    features: Mapping[str, Any] | None
    described: list[Path]


def load_saved(
    path: str,
    image_column: str | None = None,
    label_column: str | None = None,
    task: Task = "auto",
    label_delimiter: str | None = None,
) -> OpenedSource:
    """Opens what `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, or a cached data set.

    The Arrow files are mapped into memory, so only images that are needed are read. Columns are
    found as in Parquet files. Images that are paths alone are read from there.

    Args:
        path: The folder, or one .arrow file.
        image_column: The column of the images.
        label_column: The column of the labels.
        task: Whether images may have several labels.
        label_delimiter: What divides these in text.

    Raises:
        UserError: pyarrow is missing, the folder is no such data set, files are missing or
            damaged, or it is not clear which columns or splits are meant.
    """
    pa = require("pyarrow", "reading data sets that 'datasets' saved", "jtl[parquet]")
    place = Path(os.path.expanduser(path))
    if not place.exists():
        siblings = [p.name for p in place.parent.iterdir()] if place.parent.is_dir() else []
        raise UserError(f"There is no folder {place}.{suggest(place.name, siblings)}")
    saved, notes = _by_split(place)
    readers = {file: _ArrowFile(pa, file) for one in saved.values() for file in one.files}
    schemas = {
        file: _described(readers[file].schema, one.features)
        for one in saved.values()
        for file in one.files
    }
    asked = Asked(label_column, task == "multilabel", label_delimiter)
    columns = common_columns(schemas, image_column, label_column, several=asked.several)
    tables = Tables(
        str(place),
        {split: one.files for split, one in saved.items()},
        readers,
        columns,
        _damaged,
        follow_paths=True,
    )
    described = {file for one in saved.values() for file in one.described}
    found = open_tables(tables, asked, fingerprint([*readers, *described]))
    left = tuple(LeftOut("splits", (name,)) for name in notes)
    told = [
        f"The split{'s' if len(notes) > 1 else ''} {listed(notes)} of {place}: not used. jtl uses "
        "train, validation and test."
    ]
    return dataclasses.replace(
        found, notes=(*found.notes, *(told if notes else ())), left_out=(*found.left_out, *left)
    )


def _by_split(place: Path) -> tuple[dict[str, _Saved], list[str]]:
    """The data sets of the splits, train first, and the names of other splits."""
    if place.is_file():
        return {"train": _Saved([place], None, [])}, []
    if (place / DATASET_DICT).is_file():
        about = _json(place / DATASET_DICT)
        names = about.get("splits")
        if not isinstance(names, list) or not all(_is_name(name) for name in names) or not names:
            raise UserError(
                f"{place / DATASET_DICT} names no splits: it should hold a list of their folders, "
                f'such as {{"splits": ["train", "test"]}}. {_SAVE_AGAIN}.'
            )
        kept, left = _splits_of(names, place)
        return {split: _saved(place / name) for split, name in kept.items()}, left
    if (place / DATASET_STATE).is_file():
        return {"train": _saved(place)}, []
    if (place / DATASET_INFO).is_file():
        return _cached(place)
    raise UserError(
        f"{place} holds no data set that Hugging Face's 'datasets' has saved: neither "
        f"{DATASET_DICT} nor {DATASET_STATE} is there. Give the folder that save_to_disk was "
        "given. Class folders: folder:" + str(place)
    )


def _splits_of(names: Sequence[str], place: Path) -> tuple[dict[str, str], list[str]]:
    """The name of each split, train first, and names of others.

    Raises:
        UserError: None is train, or several are one split.
    """
    exact = {name: split for name in names if (split := split_of(name)) is not None}
    if "train" not in exact.values():
        found = {name: splits_in(name) & {*_ORDER} for name in names}
        exact = {name: next(iter(splits)) for name, splits in found.items() if len(splits) == 1}
    if len(names) == 1 and not exact:
        exact = {names[0]: "train"}
    by_split = {split: [n for n, s in exact.items() if s == split] for split in _ORDER}
    for split, same in by_split.items():
        if len(same) > 1:
            raise UserError(
                f"{place} has several splits for {split}: {listed(same)}. Give one of them, such "
                f"as datasets:{place / same[0]}, or save the data set with one of each."
            )
    if not by_split["train"]:
        raise UserError(
            f"{place} has no train split, only {listed(names)}. To use one of them alone: "
            f"datasets:{place / names[0]}"
        )
    kept = {split: same[0] for split, same in by_split.items() if same}
    return kept, [name for name in names if name not in kept.values()]


def _saved(folder: Path) -> _Saved:
    """What `state.json` and `dataset_info.json` say of one data set."""
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}, which {DATASET_DICT} names. {_SAVE_AGAIN}.")
    state = _json(folder / DATASET_STATE)
    if state.get("_indices_data_files"):
        raise UserError(
            f"{folder} was saved by an early version of 'datasets' with a separate order of rows. "
            f"Load it with load_from_disk, call flatten_indices(), and save it again."
        )
    listed_files = state.get("_data_files")
    names = [
        one.get("filename") if isinstance(one, Mapping) else None
        for one in (listed_files if isinstance(listed_files, list) else [])
    ]
    if not names or not all(_is_name(name) for name in names):
        raise UserError(
            f"{folder / DATASET_STATE} names no data files in its folder: it should hold "
            f'"_data_files": [{{"filename": "data-00000-of-00001.arrow"}}]. {_SAVE_AGAIN}.'
        )
    files = [folder / str(name) for name in names]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(
            f"{folder} lacks files that its {DATASET_STATE} names: {listed(missing, 3)}. Copy it "
            "again."
        )
    features, described = None, [folder / DATASET_STATE]
    if (folder / DATASET_INFO).is_file():
        features = _features(folder / DATASET_INFO)
        described.append(folder / DATASET_INFO)
    return _Saved(files, features, described)


def _cached(place: Path) -> tuple[dict[str, _Saved], list[str]]:
    """A folder of the cache of `datasets`: NAME-train.arrow, NAME-test-00000-of-00002.arrow."""
    info = _json(place / DATASET_INFO)
    splits = info.get("splits")
    if not isinstance(splits, Mapping) or not splits:
        raise UserError(f"{place / DATASET_INFO} names no splits. Give what save_to_disk wrote.")
    shards: dict[str, dict[Path, tuple[int, int]]] = {}
    for file in sorted(place.glob("*.arrow")):
        match = _SHARD.fullmatch(file.name)
        if match is None:
            continue
        owners = [name for name in splits if match["stem"].endswith(f"-{name}")]
        if owners and not file.name.startswith(("cache-", "tmp")):
            number, count = int(match["number"] or 0), int(match["count"] or 1)
            shards.setdefault(max(owners, key=len), {})[file] = (number, count)
    if lost := [name for name in splits if name not in shards]:
        raise UserError(
            f"{place} has no Arrow files for {listed(lost)}, which {DATASET_INFO} names, such as "
            f"NAME-{lost[0]}.arrow. Copy it again, or save the data set with save_to_disk."
        )
    for name, files in shards.items():
        count = max(count for _, count in files.values())
        if sorted(number for number, _ in files.values()) != [*range(count)]:
            raise UserError(
                f"{place} has {len(files)} of {count} Arrow files of {name}. Copy it again."
            )
    kept, left = _splits_of([*splits], place)
    features, described = _features(place / DATASET_INFO), [place / DATASET_INFO]
    return {s: _Saved([*shards[name]], features, described) for s, name in kept.items()}, left


def _is_name(name: object) -> bool:
    """Whether it is the name of something in a folder, and leads nowhere else."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _features(path: Path) -> Mapping[str, Any] | None:
    features = _json(path).get("features")
    return features if isinstance(features, Mapping) else None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        held = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"There is no {path}, which 'datasets' writes. Copy the folder again."
        ) from None
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable JSON ({error}). Copy it again.") from error
    if not isinstance(held, Mapping):
        raise UserError(f"{path} holds no JSON object, as 'datasets' writes. Copy it again.")
    return held


def _described(schema: Any, features: Mapping[str, Any] | None) -> Any:
    """A schema with what `dataset_info.json` says of its columns, as the files have it too."""
    if features is None:
        return schema
    about = json.dumps({"info": {"features": features}})
    return schema.with_metadata({**(schema.metadata or {}), b"huggingface": about.encode()})


class _ArrowFile:
    """An Arrow file, mapped into memory.

    Args:
        pa: The module pyarrow.
        path: The file: a stream, as `datasets` writes it, or a file with an index (Feather).

    Raises:
        UserError: It is damaged or cut off.
    """

    def __init__(self, pa: Any, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file:
                head = file.read(len(_ARROW_FILE))
                stream = head != _ARROW_FILE
                file.seek(-min(len(_END_OF_STREAM), path.stat().st_size), os.SEEK_END)
                if stream and file.read() != _END_OF_STREAM:
                    raise ValueError("it does not end as Arrow's streams do")
            mapped = pa.memory_map(str(path))
            opened = pa.ipc.open_stream(mapped) if stream else pa.ipc.open_file(mapped)
            self._table = opened.read_all()
        except (OSError, ValueError) as error:  # Arrow's own errors are of these kinds.
            raise _damaged(path, error) from error
        self.schema = self._table.schema

    def read(self, columns: Sequence[str]) -> Any:
        """The table of some columns, checked; nothing is copied."""
        names = self._table.column_names
        table = self._table.select([n for n in names if n in columns or f"{n}.bytes" in columns])
        table.validate(full=True)
        return table


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is not a readable Arrow file ({error}). It may be damaged or incomplete: copy it "
        "or save it again."
    )
