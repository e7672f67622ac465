"""Data sets that Hugging Face's `datasets` saved or cached: what is read, and what is refused."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jtl.common.errors import UserError
from jtl.config.data import with_scheme
from jtl.data.sources.registry import SourceOptions, find
from support.data_files import cut, encode, flat, opened

KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["owl", "ant", "bee"]


def png(red: int) -> bytes:
    return encode(flat(colour=(red, 0, 0)), "PNG")


def arrow(path: Path, labels: Sequence[Any], images: Sequence[Any] | None = None, **columns: Any):
    """An Arrow stream in batches of two rows, as `datasets` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = (
        [{"bytes": png(row), "path": None} for row in range(len(labels))]
        if images is None
        else images
    )
    table = pa.table({"image": pa.array(images, KIND), "label": pa.array(labels), **columns})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)


def features(names: list[str] | None = NAMES) -> dict[str, Any]:
    label = {"_type": "ClassLabel", "names": names} if names else {"_type": "Value"}
    return {"image": {"_type": "Image"}, "label": label}


def saved(root: Path, labels: Sequence[Any] = (0, 1, 2) * 4, *, shards: int = 1,
          names: list[str] | None = NAMES, **state: Any) -> Path:  # fmt: skip
    """One `Dataset` as `save_to_disk` writes it."""
    files = [f"data-{n:05d}-of-{shards:05d}.arrow" for n in range(shards)]
    for number, file in enumerate(files):
        arrow(root / file, labels[number::shards])
    about = {"_data_files": [{"filename": file} for file in files], "_split": None, **state}
    (root / "state.json").write_text(json.dumps(about))
    (root / "dataset_info.json").write_text(json.dumps({"features": features(names)}))
    return root


def saved_dict(root: Path, *splits: str, **options: Any) -> Path:
    for split in splits:
        saved(root / split, **options)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
    return root


def test_a_dict_of_splits(tmp_path: Path):
    root = saved_dict(tmp_path, "train", "validation", "test", "extra", shards=2)
    assert with_scheme(str(root)) == f"datasets:{root}"
    data = opened(str(root))
    assert data.class_names == tuple(NAMES)
    assert data.train.labels.tolist() == [0, 2, 1] * 2 + [1, 0, 2] * 2
    assert data.train.names[7] == "data-00001-of-00002.arrow[1]"
    assert data.train.read(np.array([7, 0, 11]), None)[:, 0, 0, 0].tolist() == [1, 0, 5]
    assert (len(data.val), data.test and len(data.test)) == (12, 12)
    assert any("The split extra" in note for note in data.notes)
    assert ("splits", ("extra",)) in data.left_out
    assert data.labels_from == "the column 'label'"


def test_one_data_set(tmp_path: Path):
    root = saved(tmp_path / "test", _split="test")
    assert with_scheme(str(root)) == f"datasets:{root}"
    found = find(str(root))
    assert [*found.splits] == ["train"]
    assert len(found.splits["train"]) == 12


def test_names_of_dataset_info_count(tmp_path: Path):
    """They were renamed after the Arrow files were written."""
    root = saved(tmp_path, names=["x", "y", "z"])
    table = pa.table({"image": pa.array([{"bytes": png(0), "path": None}] * 3, KIND),
                      "label": [0, 1, 2]})  # fmt: skip
    about = {"huggingface": json.dumps({"info": {"features": features()}})}
    table = table.replace_schema_metadata(about)
    file = root / "data-00000-of-00001.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    assert find(str(root)).class_names == ("x", "y", "z")
    (root / "dataset_info.json").unlink()
    assert find(f"datasets:{root}").class_names == tuple(NAMES)


def test_words_and_several_labels(tmp_path: Path):
    root = saved(tmp_path / "a", ["bee", "ant"] * 3, names=None)
    assert find(str(root)).class_names == ("ant", "bee")
    several = saved(tmp_path / "b", [["ant"], ["bee", "ant"]] * 3, names=None)
    found = find(str(several), SourceOptions(task="multilabel"))
    assert found.splits["train"].labels[:2].tolist() == [[1, 0], [1, 1]]


def cached(root: Path, *, rows: int = 6) -> Path:
    for number in range(2):
        arrow(root / f"beans-train-{number:05d}-of-00002.arrow", [0, 1, 2] * (rows // 3))
    arrow(root / "beans-test.arrow", [2, 1, 0])
    arrow(root / "cache-1234.arrow", [0])
    about = {"features": features(), "splits": {"train": {}, "test": {}}}
    (root / "dataset_info.json").write_text(json.dumps(about))
    return root


def test_the_cache_of_datasets(tmp_path: Path):
    found = find(str(cached(tmp_path)))
    assert {split: len(rows) for split, rows in found.splits.items()} == {"train": 12, "test": 3}
    assert found.class_names == tuple(NAMES)


def test_images_that_are_paths(tmp_path: Path):
    root = saved(tmp_path / "d", [0, 1, 0, 1], names=["x", "y"])
    (tmp_path / "far.png").write_bytes(png(200))
    (root / "near.png").write_bytes(png(100))
    images = [{"bytes": None, "path": path} for path in (str(tmp_path / "far.png"), "near.png")]
    images += [{"bytes": png(7), "path": "no.png"}, {"bytes": png(8), "path": None}]
    arrow(root / "data-00000-of-00001.arrow", [0, 1, 0, 1], images)
    train = find(str(root)).splits["train"]
    assert train.read(np.arange(4), None)[:, 0, 0, 0].tolist() == [200, 100, 7, 8]
    images[0]["path"] = "lost.png"
    arrow(root / "data-00000-of-00001.arrow", [0, 1, 0, 1], images)
    with pytest.raises(UserError, match=r"data-00000-of-00001.arrow\[0\].*lost.png"):
        opened(str(root))


def rewritten(path: Path, held: Any) -> Path:
    path.write_text(held if isinstance(held, str) else json.dumps(held))
    return path


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no splits": (
        lambda root: rewritten(root / "dataset_dict.json", {"splits": []}),
        "names no splits",
    ),
    "a split elsewhere": (
        lambda root: rewritten(root / "dataset_dict.json", {"splits": ["../x"]}),
        "names no splits",
    ),
    "no train": (
        lambda root: rewritten(root / "dataset_dict.json", {"splits": ["test"]}),
        "has no train split, only test. To use one of them alone: datasets:",
    ),
    "two of one split": (
        lambda root: rewritten(root / "dataset_dict.json", {"splits": ["train", "val", "dev"]}),
        "several splits for val: val, dev",
    ),
    "a split that is not there": (
        lambda root: rewritten(root / "dataset_dict.json", {"splits": ["train", "test", "val"]}),
        "There is no folder .*val, which dataset_dict.json names",
    ),
    "no JSON": (
        lambda root: rewritten(root / "train/state.json", "{"),
        "state.json is not readable JSON",
    ),
    "a list": (
        lambda root: rewritten(root / "train/state.json", []),
        "state.json holds no JSON object",
    ),
    "no state": (lambda root: (root / "train/state.json").unlink(), "There is no .*state.json"),
    "no files": (
        lambda root: rewritten(root / "train/state.json", {"_data_files": None}),
        "names no data files in its folder",
    ),
    "files elsewhere": (
        lambda root: rewritten(
            root / "train/state.json", {"_data_files": [{"filename": "../test/x.arrow"}]}
        ),
        "names no data files in its folder",
    ),
    "a missing shard": (
        lambda root: (root / "train/data-00001-of-00002.arrow").unlink(),
        "lacks files that its state.json names: data-00001-of-00002.arrow",
    ),
    "an order of rows": (
        lambda root: rewritten(
            root / "train/state.json", {"_indices_data_files": [{"filename": "x"}]}
        ),
        r"call flatten_indices\(\)",
    ),
    "cut off": (
        lambda root: cut(root / "train/data-00001-of-00002.arrow", 0.7),
        "is not a readable Arrow file .*does not end as Arrow's streams do",
    ),
    "empty": (
        lambda root: cut(root / "train/data-00001-of-00002.arrow", 0),
        "not a readable Arrow",
    ),
    "no Arrow": (
        lambda root: (root / "train/data-00001-of-00002.arrow").write_bytes(
            b"text" * 9 + b"\xff\xff\xff\xff\0\0\0\0"
        ),
        "is not a readable Arrow file",
    ),
    "no rows": (
        lambda root: saved(root / "test", pa.array([], pa.int64())),
        "test split .* no rows",
    ),
    "no label": (lambda root: saved(root / "train", [0, None, 1] * 2), r"2 row\(s\) without"),
    "out of range": (lambda root: saved(root / "train", [0, 1, 9] * 2), "out of range"),
    "other classes": (
        lambda root: saved(root / "test", names=["x", "y", "z"]),
        "differ in their columns or",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(tmp_path: Path, case: str):
    spoil, message = BAD[case]
    spoil(saved_dict(tmp_path, "train", "test", shards=2))
    with pytest.raises(UserError, match=message):
        find(f"datasets:{tmp_path}")


def test_a_cache_with_missing_files(tmp_path: Path):
    root = cached(tmp_path)
    (root / "beans-train-00001-of-00002.arrow").unlink()
    with pytest.raises(UserError, match="has 1 of 2 Arrow files of train"):
        find(str(root))
    (root / "beans-train-00000-of-00002.arrow").unlink()
    with pytest.raises(UserError, match="no Arrow files for train"):
        find(str(root))


def test_other_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"holds no data set that .* saved"):
        find(f"datasets:{tmp_path}")
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        find(f"datasets:{tmp_path}/nowhere")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'jtl\[parquet\]'"):
        find(f"datasets:{tmp_path}")


def test_real_images(tmp_path: Path, shared_data: Callable[[str], Path]):
    with zipfile.ZipFile(shared_data("ants-bees.zip")) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        for split, marker in (("train", "/train/"), ("test", "/val/")):
            of_split = [name for name in names if marker in name][::30]
            images = [{"bytes": archive.read(name), "path": name} for name in of_split]
            labels = [int("/bees/" in name) for name in of_split]
            root = saved(tmp_path / split, labels, names=["ants", "bees"])
            arrow(root / "data-00000-of-00001.arrow", labels, images)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    data = opened(str(tmp_path))
    assert data.class_names == ("ants", "bees")
    assert data.test is not None
    assert len(data.train) + len(data.val) == 9
    assert data.test.read(np.array([0]), None).ndim == 4
